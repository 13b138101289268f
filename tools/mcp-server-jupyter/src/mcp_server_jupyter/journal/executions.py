"""Executions: written down before they are sent, kept until they are delivered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..ports import Message
from .tables import Tables, nodes, packed, storable, text_again, unpacked

Status = Literal["queued", "running", "waiting_input", "ok", "error", "interrupted", "aborted", "died", "lost"]

FINISHED: frozenset[Status] = frozenset({"ok", "error", "interrupted", "aborted", "died", "lost"})
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


def new_execution_id() -> str:
    """A short id that sorts by time (microseconds): "x", then 14 characters of Crockford's base 32."""
    value = (time.time_ns() // 1000) << 15 | secrets.randbits(15)
    return "x" + "".join(_BASE32[(value >> shift) & 31] for shift in range(65, -5, -5))


@dataclass(slots=True)
class ExecutionRow:
    """One execution. Times are unix seconds. `cell_index` and `after_cell_id` say where a new cell belongs."""

    id: str
    kernel_id: str
    kernel_epoch: int
    msg_id: str
    code: str
    author: str
    notebook: str | None = None
    cell_id: str | None = None
    after_cell_id: str | None = None
    cell_index: int | None = None
    turn: str | None = None
    status: Status = "queued"
    input_prompt: str | None = None
    execution_count: int | None = None
    ename: str | None = None
    evalue: str | None = None
    queued_at: float = field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    source_hash: str | None = None
    outputs: list[Any] | None = None
    events_lost: str | None = None
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class LastRun:
    """How a cell ran last; with the cell's hash and the kernel's epoch it tells whether the outputs are stale."""

    execution_id: str
    status: Status
    kernel_id: str
    epoch: int
    source_hash: str | None
    execution_count: int | None
    finished_at: float | None


_COLUMNS = tuple(ExecutionRow.__dataclass_fields__)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM executions"
_INSERT = f"INSERT INTO executions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_UNFINISHED = "('queued', 'running', 'waiting_input')"


class Executions(Tables):
    """The journal's executions and the messages of those that run."""

    def add_execution(self, row: ExecutionRow) -> None:
        """Write an execution down, before it is sent."""
        values = [_stored(name, getattr(row, name)) for name in _COLUMNS]
        with self._transaction() as db:
            db.execute(_INSERT, values)

    def withdraw(self, execution_id: str) -> None:
        """Forget an execution that was not sent after all."""
        with self._transaction() as db:
            db.execute("DELETE FROM executions WHERE id = ?", (execution_id,))
            db.execute("DELETE FROM edits WHERE execution_id = ?", (execution_id,))

    def update_execution(self, execution_id: str, /, **columns: Any) -> None:
        """Change columns of `ExecutionRow`. A status of `FINISHED` removes the recorded events.

        Raises:
            TypeError: an unknown column, or `id`.
        """
        unknown = set(columns) - set(_COLUMNS[1:])
        if unknown or not columns:
            raise TypeError(f"no columns of an execution: {sorted(unknown)}")
        names = ", ".join(f"{name} = ?" for name in columns)
        values = [_stored(name, value) for name, value in columns.items()]
        with self._transaction() as db:
            db.execute(f"UPDATE executions SET {names} WHERE id = ?", (*values, execution_id))
            if columns.get("status") in FINISHED:
                db.execute("DELETE FROM output_events WHERE execution_id = ?", (execution_id,))

    def execution(self, execution_id: str) -> ExecutionRow | None:
        """One execution by its id."""
        return next(iter(self._executions("WHERE id = ?", execution_id)), None)

    def unfinished(self) -> list[ExecutionRow]:
        """Executions queued, running or waiting for input when they were last written, oldest first."""
        return self._executions(f"WHERE status IN {_UNFINISHED} ORDER BY id")

    def executions_of(self, author_end: str, since: float) -> list[ExecutionRow]:
        """Executions of the author whose name ends so that are unfinished or were queued since then, newest first."""
        escaped = author_end.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        clause = (
            f"WHERE author LIKE ? ESCAPE '\\' AND (status IN {_UNFINISHED} OR queued_at >= ?) ORDER BY id DESC LIMIT 20"
        )
        return self._executions(clause, f"%{escaped}", since)

    def undelivered(self) -> list[ExecutionRow]:
        """Finished executions whose outputs have not reached the notebook's file, oldest first."""
        return self._executions(f"WHERE on_disk = 0 AND status NOT IN {_UNFINISHED} ORDER BY id")

    def last_runs(self, notebook: str) -> dict[str, LastRun]:
        """By cell id, the last execution of each cell that was at least started."""
        rows = self._query(
            "SELECT cell_id, max(id), status, kernel_id, kernel_epoch, source_hash, execution_count, finished_at"
            " FROM executions WHERE notebook = ? AND cell_id IS NOT NULL AND status NOT IN ('queued', 'aborted')"
            " GROUP BY cell_id",
            notebook,
        )
        return {row[0]: LastRun(*row[1:]) for row in rows}

    def _executions(self, clause: str, *values: Any) -> list[ExecutionRow]:
        return [_row(row) for row in self._query(f"{_SELECT} {clause}", *values)]

    def append_events(self, execution_id: str, messages: Sequence[Message]) -> None:
        """Keep a batch of messages of a running execution; binary buffers are left out."""
        if not messages:
            return
        batch = [
            {
                "channel": message.channel,
                "msg_type": message.msg_type,
                "msg_id": message.msg_id,
                "parent_id": message.parent_id,
                "content": message.content,
                "metadata": message.metadata,
            }
            for message in messages
        ]
        with self._transaction() as db:
            db.execute(
                "INSERT INTO output_events (execution_id, seq, json) VALUES"
                " (?1, (SELECT coalesce(max(seq), 0) + 1 FROM output_events WHERE execution_id = ?1), ?2)",
                (execution_id, packed(batch)),
            )

    def event_messages(self, execution_id: str) -> list[Message]:
        """The messages kept for a running execution, in their order."""
        rows = self._query("SELECT json FROM output_events WHERE execution_id = ? ORDER BY seq", execution_id)
        return [Message(**event) for (stored,) in rows for event in unpacked(stored)]


def _stored(name: str, value: Any) -> Any:
    return packed(value) if name == "outputs" else storable(value)


def _row(row: Sequence[Any]) -> ExecutionRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["outputs"] = nodes(unpacked(values["outputs"]))
    values["on_disk"] = bool(values["on_disk"])
    return ExecutionRow(**{name: text_again(value) for name, value in values.items()})
