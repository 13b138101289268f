"""Runs of whole notebooks: a row each, written before anything happens, and what has happened to it."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .tables import Tables

RunStatus = Literal["queued", "running", "done", "failed", "cancelled"]
RUN_ENDED: frozenset[RunStatus] = frozenset({"done", "failed", "cancelled"})


def new_run_id() -> str:
    """An id that sorts by time: seconds since the epoch in hexadecimal, then what nobody guesses."""
    return f"{time.time_ns() // 10**6:011x}-{secrets.token_hex(6)}"


@dataclass(slots=True)
class RunRow:
    """One run. Times are unix seconds.

    Attributes:
        key: what the client calls its request by (`Idempotency-Key`); `body_hash` tells what it asked for.
        batch: the executions of its latest attempt; None before there are any.
        first: where in the executed notebook that attempt begins.
        deadline: when that attempt has to have ended; None before its kernel is up.
        kept_until: how long the kernel of a failed run is kept; None where it is not.
        size: bytes of its folder once it has ended.
    """

    id: str
    kernel_name: str
    status: RunStatus = "queued"
    key: str | None = None
    body_hash: str = ""
    accepted_at: float = field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    deadline: float | None = None
    attempt: int = 1
    batch: str | None = None
    first: int = 0
    total: int = 0
    kept_until: float | None = None
    size: int = 0
    warnings: list[str] = field(default_factory=list)
    outcome: dict[str, Any] | None = None
    """`{"results": …}` or a failure's body."""

    @property
    def ended(self) -> bool:
        return self.status in RUN_ENDED


@dataclass(frozen=True, slots=True)
class RunCell:
    """How one cell of a run's attempt went."""

    cell_id: str | None
    status: str
    ename: str | None
    evalue: str | None


_COLUMNS = tuple(RunRow.__dataclass_fields__)
_JSON = ("warnings", "outcome")


class Runs(Tables):
    """The journal's runs."""

    def add_run(self, row: RunRow, event: dict[str, Any]) -> None:
        """Write a run down; from here on it is not lost."""
        with self._transaction() as db:
            names = ", ".join(_COLUMNS)
            db.execute(f"INSERT INTO runs ({names}) VALUES ({', '.join('?' * len(_COLUMNS))})", _values(row, _COLUMNS))
            _add_event(db, row.id, event)

    def change_run(self, row: RunRow, *names: str, event: dict[str, Any] | None = None) -> None:
        """Write down these columns of a run, and what listeners are told, both or neither."""
        with self._transaction() as db:
            if names:
                sets = ", ".join(f"{name} = ?" for name in names)
                db.execute(f"UPDATE runs SET {sets} WHERE id = ?", [*_values(row, names), row.id])
            if event is not None:
                _add_event(db, row.id, event)

    def run(self, run_id: str) -> RunRow | None:
        """A run by its id."""
        return next(iter(self._runs("WHERE id = ?", run_id)), None)

    def run_of_key(self, key: str) -> RunRow | None:
        """A run by what its client calls it."""
        return next(iter(self._runs("WHERE key = ?", key)), None)

    def runs(self, limit: int) -> list[RunRow]:
        """The latest ones first."""
        return self._runs("ORDER BY id DESC LIMIT ?", limit)

    def open_runs(self) -> list[RunRow]:
        """Those that have not ended, oldest first."""
        return self._runs("WHERE status IN ('queued', 'running') ORDER BY id")

    def kept_runs(self) -> list[RunRow]:
        """Those whose kernel is kept, the one to go first first."""
        return self._runs("WHERE kept_until IS NOT NULL ORDER BY kept_until")

    def ended_runs(self) -> list[RunRow]:
        """Those that have ended, oldest first."""
        return self._runs("WHERE status IN ('done', 'failed', 'cancelled') ORDER BY finished_at")

    def forget_run(self, run_id: str) -> None:
        """Nothing of it is kept any more."""
        with self._transaction() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            db.execute("DELETE FROM run_events WHERE run_id = ?", (run_id,))

    def run_events(self, run_id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What has happened to it after event number AFTER; the first is 1."""
        rows = self._query("SELECT seq, json FROM run_events WHERE run_id = ? AND seq > ? ORDER BY seq", run_id, after)
        return [(seq, json.loads(text)) for seq, text in rows]

    def run_cells(self, batch: str) -> list[RunCell]:
        """The executions of an attempt, in the order they were queued."""
        sql = "SELECT cell_id, status, ename, evalue FROM executions WHERE turn = ? ORDER BY id"
        return [RunCell(*row) for row in self._query(sql, batch)]

    def _runs(self, where: str, *values: Any) -> list[RunRow]:
        rows = self._query(f"SELECT {', '.join(_COLUMNS)} FROM runs {where}", *values)
        return [_row(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _values(row: RunRow, names: Sequence[str]) -> list[Any]:
    return [json.dumps(getattr(row, name)) if name in _JSON else getattr(row, name) for name in names]


def _row(values: dict[str, Any]) -> RunRow:
    return RunRow(**{name: json.loads(value) if name in _JSON else value for name, value in values.items()})


def _add_event(db: sqlite3.Connection, run_id: str, event: dict[str, Any]) -> None:
    db.execute(
        "INSERT INTO run_events (run_id, seq, json)"
        " SELECT ?1, coalesce(max(seq), 0) + 1, ?2 FROM run_events WHERE run_id = ?1",
        (run_id, json.dumps(event)),
    )
