"""A SQLite database: one transaction a call, and its failures in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Unavailable


@dataclass(frozen=True, slots=True)
class Named:
    """A database as its errors speak of it: what it is, where, and what helps when it cannot be used."""

    what: str
    path: Path
    hint: str

    def unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"The {self.what} {self.path} cannot be used: {error}.", hint=self.hint)


class Database:
    """Used from one thread. What it cannot do raises `Unavailable`."""

    def __init__(self, connection: sqlite3.Connection, named: Named) -> None:
        self._db = connection
        self._named = named

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # A full disk has rolled it back already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._named.unavailable(error) from error

    def _query(self, sql: str, *values: Any) -> list[Any]:
        with self._errors():
            return self._db.execute(sql, [storable(value) for value in values]).fetchall()


def storable(value: Any) -> Any:
    """A text SQLite can hold: lone surrogates, which UTF-8 has no form for, make it bytes."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    return value
