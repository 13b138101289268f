"""One SQLite database, one transaction a call, and how cells and outputs are stored in it."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Unavailable
from .schema import Reset

_COMPRESS_FROM = 4096


class Tables:
    """What the parts of a journal share. Used from one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path, reset: Reset | None) -> None:
        self._db = connection
        self.path = path
        self.reset = reset

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            raise Unavailable(
                f"The journal {self.path} cannot be used: {error}.",
                hint="Free disk space, or restart the server with another --state-dir.",
            ) from error

    def _query(self, sql: str, *values: Any) -> list[Any]:
        with self._errors():
            return self._db.execute(sql, [storable(value) for value in values]).fetchall()


def packed(value: Any) -> bytes | None:
    """JSON, compressed when it is long and shrinks by it: zlib's first byte is never JSON's."""
    if value is None:
        return None
    text = json.dumps(value, separators=(",", ":"), default=str).encode()
    return zlib.compress(text, 1) if len(text) > _COMPRESS_FROM and _shrinks(text) else text


def _shrinks(text: bytes) -> bool:
    """Whether the middle of it halves: pictures do not, and cost milliseconds to try."""
    middle = text[len(text) // 2 :][:_COMPRESS_FROM]
    return len(zlib.compress(middle, 1)) < len(middle) / 2


def unpacked(stored: bytes | None) -> Any:
    if stored is None:
        return None
    return json.loads(zlib.decompress(stored) if stored[:1] == b"\x78" else stored)


def storable(value: Any) -> Any:
    """A text SQLite can hold: lone surrogates, which UTF-8 has no form for, make it bytes."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value


def text_again(value: Any) -> Any:
    """The reverse of `storable`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def nodes(value: Any) -> Any:
    if value is None:
        return None
    # nbformat costs a tenth of a second: only who reads cells back pays.
    from nbformat import from_dict  # noqa: PLC0415

    return from_dict(value)  # type: ignore[no-untyped-call]
