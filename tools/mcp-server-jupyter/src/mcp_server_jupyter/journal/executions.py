"""Executions: written down before they are sent, kept until they are delivered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..ports import Message
from .database import storable
from .packing import packed, unpacked
from .tables import Tables, nodes, text_again

Status = Literal[
    "waiting_approval",
    "queued",
    "running",
    "waiting_input",
    "ok",
    "error",
    "interrupted",
    "aborted",
    "died",
    "lost",
]

FINISHED: frozenset[Status] = frozenset({"ok", "error", "interrupted", "aborted", "died", "lost"})
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


def new_execution_id() -> str:
    """A short id that sorts by time (microseconds): "x", then 14 characters of Crockford's base 32."""
    value = (time.time_ns() // 1000) << 15 | secrets.randbits(15)
    return "x" + "".join(_BASE32[(value >> shift) & 31] for shift in range(65, -5, -5))


@dataclass(slots=True)
class ExecutionRow:
    """One execution. Times are unix seconds. `cell_index` and `after_cell_id` say where a new cell belongs.

    `cell_index` is None once the cell is known to be in the file, or when it was there before. `replaced` and
    `streamed` are marks (`notebooks.outputs_mark`) of what the cell showed before the execution and of what was
    streamed into it: outputs are delivered late only over these.
    """

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
    replaced: str | None = None
    streamed: str | None = None


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
    author: str = ""


_COLUMNS = tuple(ExecutionRow.__dataclass_fields__)
_OUTPUTS = _COLUMNS.index("outputs")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM executions"
_SELECT_BARE = _SELECT.replace(" outputs,", " NULL AS outputs,")
_INSERT = f"INSERT INTO executions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_UNFINISHED = "('waiting_approval', 'queued', 'running', 'waiting_input')"
_STREAMED_CHARACTERS = 1024


class Executions(Tables):
    """The journal's executions and the messages of those that run."""

    def add_execution(self, row: ExecutionRow) -> None:
        """Write an execution down, before it is sent. Its outputs come with `finished`."""
        values = [storable(getattr(row, name)) for name in _COLUMNS]
        values[_OUTPUTS] = None
        with self._transaction() as db:
            db.execute(_INSERT, values)

    def withdraw(self, execution_id: str) -> None:
        """Forget an execution that was not sent after all."""
        with self._transaction() as db:
            db.execute("DELETE FROM executions WHERE id = ?", (execution_id,))

    def queued(self, execution_id: str) -> None:
        """It was approved: it waits for its turn."""
        self._update(execution_id, "status = 'queued'")

    def started(self, execution_id: str, *, at: float, epoch: int) -> None:
        """It has left the queue, for the kernel's process of `epoch`."""
        self._update(execution_id, "status = 'running', started_at = ?, kernel_epoch = ?", at, epoch)

    def waiting_input(self, execution_id: str, prompt: str | None) -> None:
        """It asks for a line of input."""
        self._update(execution_id, "status = 'waiting_input', input_prompt = ?", storable(prompt))

    def running(self, execution_id: str) -> None:
        """Its question was answered."""
        self._update(execution_id, "status = 'running', input_prompt = NULL")

    async def finished(
        self,
        execution_id: str,
        status: Status,
        *,
        at: float,
        outputs: Sequence[Any],
        execution_count: int | None = None,
        ename: str | None = None,
        evalue: str | None = None,
        note: str = "",
        on_disk: bool = False,
    ) -> None:
        """What it came to. Its recorded events go.

        Args:
            on_disk: nothing of it is waited for in a file.
        """
        stored, blob = await self._stored(None, outputs)
        try:
            with self._transaction() as db:
                self._drop_blobs(db, "executions", "outputs", "id = ?", execution_id)
                db.execute(
                    "UPDATE executions SET status = ?, finished_at = ?, outputs = ?, execution_count = ?, ename = ?,"
                    " evalue = ?, events_lost = ?, on_disk = ?, input_prompt = NULL WHERE id = ?",
                    (
                        status,
                        at,
                        stored,
                        execution_count,
                        storable(ename),
                        storable(evalue),
                        storable(note) or None,
                        on_disk,
                        execution_id,
                    ),
                )
                self._keep_blobs(db, [blob])
                db.execute("DELETE FROM output_events WHERE execution_id = ?", (execution_id,))
        finally:
            self._release_blobs([blob])
        self._grow(len(stored or b""))

    def delivered(self, execution_ids: Sequence[str]) -> None:
        """Their cells and outputs are in the file, or will never be asked for there."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE executions SET on_disk = 1, cell_index = NULL WHERE id = ?", [(each,) for each in execution_ids]
            )

    def placed(self, execution_ids: Sequence[str]) -> None:
        """The cells that were made for them are in the file: whoever deletes one now means it."""
        with self._transaction() as db:
            db.executemany("UPDATE executions SET cell_index = NULL WHERE id = ?", [(each,) for each in execution_ids])

    def streamed(self, execution_id: str, mark: str) -> None:
        """Outputs of this mark are about to be put into the cell while it runs."""
        self._update(
            execution_id, f"streamed = substr(coalesce(streamed, '') || ?, -{_STREAMED_CHARACTERS})", f"{mark} "
        )

    def found(self, execution_id: str, cell_id: str) -> None:
        """Its cell has another id now: formats below 4.5 keep none in the file."""
        self._update(execution_id, "cell_id = ?, cell_index = NULL", cell_id)

    def noted(self, execution_id: str, note: str) -> None:
        """What must be told of it besides its outputs."""
        self._update(execution_id, "events_lost = ?", storable(note))

    def _update(self, execution_id: str, assignments: str, *values: Any) -> None:
        with self._transaction() as db:
            db.execute(f"UPDATE executions SET {assignments} WHERE id = ?", (*values, execution_id))

    # ------------------------------------------------------------------ reading

    def execution(self, execution_id: str) -> ExecutionRow | None:
        """One execution by its id, with its outputs. `recall` does the same without holding up the loop."""
        for row in self._query(f"{_SELECT} WHERE id = ?", execution_id):
            return _row(row, self._lines(row[_OUTPUTS]))
        return None

    async def recall(self, execution_id: str) -> ExecutionRow | None:
        """One execution by its id, with its outputs."""
        for row in self._query(f"{_SELECT} WHERE id = ?", execution_id):
            return _row(row, await self._lines_apart(row[_OUTPUTS]))
        return None

    def of_request(self, msg_id: str, kernel_id: str, epoch: int, *, newest: int = 1000) -> str | None:
        """The id of the execution of a request; of one that is no execution's, of what that kernel ran last before.

        Only the `newest` executions are looked through.
        """
        rows = self._query(
            "SELECT id FROM (SELECT id, msg_id, kernel_id, kernel_epoch, status FROM executions"
            " ORDER BY id DESC LIMIT ?4) WHERE msg_id = ?1 OR"
            " (kernel_id = ?2 AND kernel_epoch = ?3 AND status NOT IN ('waiting_approval', 'queued', 'aborted'))"
            " ORDER BY msg_id = ?1 DESC, id DESC LIMIT 1",
            msg_id,
            kernel_id,
            epoch,
            newest,
        )
        return rows[0][0] if rows else None

    def unfinished(self) -> list[ExecutionRow]:
        """Executions queued, running or waiting for input when they were last written, oldest first."""
        return self._bare(f"WHERE status IN {_UNFINISHED} ORDER BY id")

    def executions_of(self, author_end: str, since: float) -> list[ExecutionRow]:
        """Executions of the author whose name ends so that are unfinished or were queued since then, newest first."""
        escaped = author_end.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        clause = (
            f"WHERE author LIKE ? ESCAPE '\\' AND (status IN {_UNFINISHED} OR queued_at >= ?) ORDER BY id DESC LIMIT 20"
        )
        return self._bare(clause, f"%{escaped}", since)

    def undelivered(self) -> list[ExecutionRow]:
        """Finished executions whose outputs have not reached the file, oldest first; the outputs are left out."""
        return self._bare(f"WHERE on_disk = 0 AND status NOT IN {_UNFINISHED} ORDER BY id")

    def is_newest(self, row: ExecutionRow) -> bool:
        """Whether no later execution of the same cell was at least started."""
        return not self._query(
            "SELECT 1 FROM executions WHERE notebook = ? AND cell_id = ? AND id > ?"
            " AND status NOT IN ('waiting_approval', 'queued', 'aborted') LIMIT 1",
            row.notebook,
            row.cell_id,
            row.id,
        )

    def last_runs(self, notebook: str) -> dict[str, LastRun]:
        """By cell id, the last execution of each cell that was at least started."""
        rows = self._query(
            "SELECT cell_id, max(id), status, kernel_id, kernel_epoch, source_hash, execution_count, finished_at,"
            " author FROM executions WHERE notebook = ? AND cell_id IS NOT NULL"
            " AND status NOT IN ('waiting_approval', 'queued', 'aborted') GROUP BY cell_id",
            notebook,
        )
        return {row[0]: LastRun(*map(text_again, row[1:])) for row in rows}

    def _bare(self, clause: str, *values: Any) -> list[ExecutionRow]:
        return [_row(row, None) for row in self._query(f"{_SELECT_BARE} {clause}", *values)]

    # ------------------------------------------------------------------ events

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


def _row(row: Sequence[Any], outputs: list[Any] | None) -> ExecutionRow:
    values = {name: text_again(value) for name, value in zip(_COLUMNS, row, strict=True) if name != "outputs"}
    values["on_disk"] = bool(values["on_disk"])
    return ExecutionRow(**values, outputs=nodes(outputs))
