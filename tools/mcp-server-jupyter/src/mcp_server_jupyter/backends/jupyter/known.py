"""What a server writes down of each kernel of a Jupyter, for the next one: a file each."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...errors import Unavailable


@dataclass(slots=True)
class Known:
    """One kernel.

    Attributes:
        id: Jupyter's.
        identity: the `session_id` of our connections, which Jupyter keeps messages for.
        process: the session that the kernel's own messages carry: another one is another process. "" where none is
            known.
        sent: the request that is with the kernel, "" for none.
        is_ours: we started it.
        session: Jupyter's session that it belongs to, "" for none.
    """

    id: str
    name: str
    language: str = ""
    cwd: str = ""
    epoch: int = 1
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))
    process: str = ""
    sent: str = ""
    is_ours: bool = False
    notebook: str | None = None
    session: str = ""


_ROOM = 2048
"""Bytes of a file: what is less is filled up with blanks."""


class KnownKernels:
    """The files of one server's kernels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Make the folder.

        Raises:
            Unavailable
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise self._failed(error) from error

    def save(self, known: Known) -> None:
        """Write one down. Not synced: after a power cut there is no Jupyter either.

        Raises:
            Unavailable
        """
        path = self._folder / f"{known.id}.json"
        data = json.dumps(asdict(known)).encode()
        try:
            if not _overwritten(path, data):
                draft = path.with_suffix(".new")
                draft.write_bytes(data.ljust(_ROOM))
                os.replace(draft, path)
        except OSError as error:
            raise self._failed(error) from error

    def forget(self, known: Known) -> None:
        """Its kernel is gone for good."""
        with suppress(OSError):
            (self._folder / f"{known.id}.json").unlink()

    def all(self) -> Iterator[Known]:
        """Those an earlier server wrote down; a file that is none is left out.

        Raises:
            Unavailable
        """
        try:
            for path in sorted(self._folder.glob("*.json")):
                with suppress(ValueError, TypeError):
                    yield Known(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"What is known of Jupyter's kernels cannot be kept in {self._folder}: {error.strerror}.",
            hint="See to the disk, then try again.",
        )


def _overwritten(path: Path, data: bytes) -> bool:
    """Write over what is there, if there is room for it: by one write within a page, which no kill can halve.

    This is done twice for each cell, and a file system may take milliseconds to put another file in one's place.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if len(data) > size or size > _ROOM:
                return False
            return file.write(data.ljust(size)) == size
    except FileNotFoundError:
        return False
