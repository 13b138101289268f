"""One notebook with many sets of parameters: what is to be run, and the file that says what came of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from .failures import Refused
from .payload import Sent, checked_parameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

SUMMARY = "summary.jsonl"


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One set.

    Attributes:
        number: of its line, from 1.
        key: what tells it from others: the notebook, the parameters, and for equal ones which of them it is.
    """

    number: int
    sent: Sent
    key: str

    @property
    def name(self) -> str:
        """Its output's file. The key is in it, so that a line put in between takes no other set's file."""
        return f"{self.number:04d}-{self.key[:8]}.ipynb"


def read_sets(text: str, notebook: NotebookNode, common: Mapping[str, Any]) -> list[ParameterSet]:
    """The sets of a file with one JSON object a line; empty lines are passed over.

    Args:
        common: parameters of every set that does not give them itself.

    Raises:
        InvalidRequest: a line is no set of parameters, or there is none.
    """
    base = Sent(notebook, {}).digest
    sets: list[ParameterSet] = []
    keys: set[str] = set()
    # Not splitlines: JSON's texts may hold what Unicode calls the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parameters = {**common, **_read(number, line)}
        told, key = json.dumps(parameters, sort_keys=True, default=repr), ""
        while not key or key in keys:
            key = hashlib.sha256(f"{base}{told}{key}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        keys.add(key)
        sets.append(ParameterSet(number, Sent(notebook, parameters), key))
    if not sets:
        raise InvalidRequest("There are no sets of parameters.", hint='Write one JSON object a line: {"name": value}.')
    return sets


def _read(number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return checked_parameters(found)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"Line {number} of the sets is no JSON object: {error}.") from error
    except Refused as error:
        raise InvalidRequest(f"Line {number} of the sets: {error.message}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Summary:
    """`summary.jsonl`: one line a set that has ended, in the order of their ends; of the sets, after the last one.

    Blocking: for threads. Every state that it passes through is a file of whole lines.
    """

    def __init__(self, folder: Path, sets: Sequence[ParameterSet]) -> None:
        self._folder = folder
        self._path = folder / SUMMARY
        self._sets = sets
        self.entries: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        """Take over what earlier calls have done of these sets; what failed, or has no output any more, is forgotten.

        Raises:
            OSError: the file cannot be written.
        """
        numbers = {each.key: each.number for each in self._sets}
        for entry in self._read():
            key = entry.get("key")
            if key in numbers and entry.get("status") == "done" and (self._folder / str(entry.get("output"))).is_file():
                self.entries[key] = {**entry, "set": numbers[key]}
        self.rewrite()

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                # Written by somebody else, or cut off with the machine's power.
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Write down what came of a set.

        Raises:
            OSError: it cannot be written; nothing of the line is left.
        """
        line = _line(entry)
        with self._path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                written = file.write(line)
                if written != len(line):
                    raise OSError(f"only {written} of {len(line)} bytes could be written")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self.entries[key] = entry

    def rewrite(self) -> None:
        """Put the lines in the order of the sets.

        Raises:
            OSError: they cannot be written; those that are there stay.
        """
        new = self._path.with_name(f".{SUMMARY}.new")
        ordered = [self.entries[each.key] for each in self._sets if each.key in self.entries]
        try:
            with new.open("wb") as file:
                file.writelines(map(_line, ordered))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, default=repr).encode() + b"\n"
