"""A task whose tests and solution hold what is found nowhere else, and the search for it."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


def _text() -> str:
    return "mark" + secrets.token_hex(12)


def _number() -> int:
    return 10**24 + secrets.randbelow(10**24)


@dataclass(frozen=True)
class Marks:
    """Texts and numbers of one run. Those of `hidden` are nobody's to find; the others show that the search finds."""

    public: str = field(default_factory=_text)
    argument: str = field(default_factory=_text)
    expected_text: str = field(default_factory=_text)
    expected_number: int = field(default_factory=_number)
    expected_item: str = field(default_factory=_text)
    comment: str = field(default_factory=_text)
    variable: str = field(default_factory=_text)
    solution: str = field(default_factory=_text)

    @property
    def hidden(self) -> dict[str, bytes]:
        """As bytes, by what they are; numbers as the wire may have them as well."""
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        texts = {name: str(value) for name, value in shown.items() if name not in ("public", "argument")}
        return {name: value.encode() for name, value in {**texts, "hexadecimal": hex(self.expected_number)}.items()}

    def write(self, folder: Path) -> None:
        """Put the template `marks` into a folder of tasks."""
        solved = (
            f"def text(x):\n    return {self.expected_text!r}  # {self.solution}\n\n"
            f"def number(x):\n    return {self.expected_number}"
        )
        passes = (
            f"# {self.comment}\n{self.variable} = {self.expected_item!r}\n"
            f"assert text({self.argument!r}) not in ({self.variable}, 'nothing')\n"
            f"assert number(1) != {self.expected_number + 1}"
        )
        fails = (
            f"assert text({self.argument!r}) == {self.expected_text!r}, 'Look again.'\n"
            f"assert number(2) == {self.expected_number}"
        )
        cells = [
            _cell("markdown", f"# A task ({self.public})", "task:marks"),
            _cell("code", "import math", "setup"),
            _cell("code", solved, "task:marks", "solution"),
            _cell("code", passes, "task:marks", "hidden-test", label="not that"),
            _cell("code", fails, "task:marks", "hidden-test", label="that"),
        ]
        cells = [{"id": f"marks-{at}", **cell} for at, cell in enumerate(cells)]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        folder.mkdir(exist_ok=True)
        made = {"nbformat": 4, "nbformat_minor": 5, "metadata": spec, "cells": cells}
        (folder / "marks.ipynb").write_text(json.dumps(made))


def _cell(kind: str, source: str, *tags: str, **metadata: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"cell_type": kind, "metadata": {"tags": list(tags), **metadata}, "source": source}
    return made if kind != "code" else {**made, "execution_count": None, "outputs": []}


def readable(data: bytes) -> Iterator[bytes]:
    """Data, and what is in it in base64, as questions to a kernel are."""
    yield data
    for found in _BASE64.findall(data):
        try:
            yield from readable(base64.b64decode(found))
        except ValueError:
            # It only looked like it.
            continue


def holds(data: bytes, mark: str | bytes) -> bool:
    """Whether data has a mark in it, in plain or in base64."""
    wanted = mark.encode() if isinstance(mark, str) else mark
    return any(wanted in each for each in readable(data))
