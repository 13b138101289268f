"""What must outlive the process: executions, attributed edits and which kernel belongs to which notebook.

One SQLite file in the state directory, in WAL mode with `synchronous=NORMAL`: a commit survives the death of the
process, a power cut may cost the last ones. Calls are synchronous, since one commit costs less than a thread's switch.
Every call is one transaction.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ._journal_schema import DROPPABLE, KernelEventKind, Reset, open_database
from .errors import Unavailable
from .ports import Message

Status = Literal["queued", "running", "waiting_input", "ok", "error", "interrupted", "aborted", "died", "lost"]
EditKind = Literal["insert", "delete", "source", "type", "move", "outputs", "metadata", "create"]

FINISHED: frozenset[str] = frozenset({"ok", "error", "interrupted", "aborted", "died", "lost"})
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_COMPRESS_FROM = 4096


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
    status: str = "queued"
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


@dataclass(slots=True)
class EditRow:
    """One attributed change of one cell. `before` and `after` are the cell, None where there was none."""

    notebook: str
    author: str
    kind: str
    cell_id: str | None = None
    before: Any = None
    after: Any = None
    before_index: int | None = None
    after_index: int | None = None
    turn: str | None = None
    execution_id: str | None = None
    at: float = field(default_factory=time.time)
    undone_by: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """The kernel of a notebook. `cwd` is the kernel's folder as its backend names it."""

    notebook: str
    kernel_id: str
    kernel_name: str
    epoch: int
    cwd: str


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """Why a kernel's epoch is what it is. `at` in unix seconds."""

    kernel_id: str
    epoch: int
    at: float
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class LastRun:
    """How a cell ran last; with the cell's hash and the kernel's epoch it tells whether the outputs are stale."""

    execution_id: str
    status: str
    kernel_id: str
    epoch: int
    source_hash: str | None
    execution_count: int | None
    finished_at: float | None


_EXECUTION = tuple(ExecutionRow.__dataclass_fields__)
_EDIT = tuple(EditRow.__dataclass_fields__)
_SELECT_EXECUTION = f"SELECT {', '.join(_EXECUTION)} FROM executions"
_INSERT_EXECUTION = f"INSERT INTO executions ({', '.join(_EXECUTION)}) VALUES ({', '.join('?' * len(_EXECUTION))})"
_SELECT_EDIT = f"SELECT {', '.join(_EDIT)} FROM edits"
_INSERT_EDIT = f"INSERT INTO edits ({', '.join(_EDIT)}) VALUES ({', '.join('?' * len(_EDIT))})"
_UNFINISHED = "('queued', 'running', 'waiting_input')"


class Journal:
    """The open journal. Made by `open_journal`; used from one thread.

    Every method raises `Unavailable` when SQLite cannot do its work (disk full, file locked by another process).
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, reset: Reset | None) -> None:
        self._db = connection
        self.path = path
        self.reset = reset

    # ------------------------------------------------------------------ executions

    def add_execution(self, row: ExecutionRow) -> None:
        """Write an execution down, before it is sent."""
        values = [_stored(name, getattr(row, name)) for name in _EXECUTION]
        with self._transaction() as db:
            db.execute(_INSERT_EXECUTION, values)

    def update_execution(self, execution_id: str, /, **columns: Any) -> None:
        """Change columns of `ExecutionRow`. A status of `FINISHED` removes the recorded events.

        Raises:
            TypeError: an unknown column, or `id`.
        """
        unknown = set(columns) - set(_EXECUTION[1:])
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

    def undelivered(self) -> list[ExecutionRow]:
        """Finished executions whose outputs have not reached the notebook's file, oldest first."""
        return self._executions(f"WHERE on_disk = 0 AND status NOT IN {_UNFINISHED} ORDER BY id")

    def recent(self, notebook: str | None = None, limit: int = 20) -> list[ExecutionRow]:
        """The last executions, newest first; of one notebook or of all."""
        if notebook is None:
            return self._executions("ORDER BY id DESC LIMIT ?", limit)
        return self._executions("WHERE notebook = ? ORDER BY id DESC LIMIT ?", notebook, limit)

    def last_runs(self, notebook: str) -> dict[str, LastRun]:
        """By cell id, the last execution of each cell that was at least started."""
        rows = self._query(
            "SELECT cell_id, max(id), status, kernel_id, kernel_epoch, source_hash, execution_count, finished_at"
            " FROM executions WHERE notebook = ? AND cell_id IS NOT NULL AND status NOT IN ('queued', 'aborted')"
            " GROUP BY cell_id",
            notebook,
        )
        return {row[0]: LastRun(*row[1:]) for row in rows}

    def rename_notebook(self, old: str, new: str) -> None:
        """Carry everything known about a notebook over to its new path."""
        with self._transaction() as db:
            db.execute("DELETE FROM bindings WHERE notebook = ?", (new,))
            for table in ("executions", "edits", "bindings"):
                db.execute(f"UPDATE {table} SET notebook = ? WHERE notebook = ?", (new, old))

    def _executions(self, clause: str, *values: Any) -> list[ExecutionRow]:
        return [_execution_row(row) for row in self._query(f"{_SELECT_EXECUTION} {clause}", *values)]

    # ------------------------------------------------------------------ events of running executions

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
                (execution_id, _packed(batch)),
            )

    def event_messages(self, execution_id: str) -> list[Message]:
        """The messages kept for a running execution, in their order."""
        rows = self._query("SELECT json FROM output_events WHERE execution_id = ? ORDER BY seq", execution_id)
        return [Message(**event) for (packed,) in rows for event in _unpacked(packed)]

    # ------------------------------------------------------------------ edits

    def add_edits(self, edits: Sequence[EditRow]) -> list[int]:
        """Write attributed edits down, all or none; their ids, which the rows get too."""
        ids: list[int] = []
        with self._transaction() as db:
            for edit in edits:
                cursor = db.execute(_INSERT_EDIT, [_stored(name, getattr(edit, name)) for name in _EDIT])
                ids.append(int(cursor.lastrowid or 0))
        for edit, edit_id in zip(edits, ids, strict=True):
            edit.id = edit_id
        return ids

    def edits(
        self,
        notebook: str | None = None,
        *,
        author: str | None = None,
        execution_id: str | None = None,
        turn: str | None = None,
        include_undone: bool = True,
        limit: int = 1000,
    ) -> list[EditRow]:
        """Edits, newest first."""
        given = {"notebook": notebook, "author": author, "execution_id": execution_id, "turn": turn}
        wanted = {name: value for name, value in given.items() if value is not None}
        clauses = [f"{name} = ?" for name in wanted] + ([] if include_undone else ["undone_by IS NULL"])
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        rows = self._query(f"{_SELECT_EDIT} {where}ORDER BY id DESC LIMIT ?", *wanted.values(), limit)
        return [_edit_row(row) for row in rows]

    def last_edit(self, notebook: str, author: str) -> EditRow | None:
        """The newest edit of an author in a notebook."""
        return next(iter(self.edits(notebook, author=author, limit=1)), None)

    def mark_undone(self, edit_ids: Sequence[int], undone_by: str) -> None:
        """Note that edits were taken back, and by whom or what."""
        with self._transaction() as db:
            db.executemany("UPDATE edits SET undone_by = ? WHERE id = ?", [(undone_by, each) for each in edit_ids])

    # ------------------------------------------------------------------ kernels

    def bind(self, notebook: str, kernel_id: str, kernel_name: str, epoch: int, cwd: str) -> None:
        """Say which kernel a notebook runs on; replaces an earlier one."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO bindings (notebook, kernel_id, kernel_name, epoch, cwd) VALUES (?, ?, ?, ?, ?)",
                (notebook, kernel_id, kernel_name, epoch, cwd),
            )

    def unbind(self, notebook: str) -> None:
        """Forget the kernel of a notebook."""
        with self._transaction() as db:
            db.execute("DELETE FROM bindings WHERE notebook = ?", (notebook,))

    def bindings(self) -> list[Binding]:
        """Every notebook that has a kernel."""
        rows = self._query("SELECT notebook, kernel_id, kernel_name, epoch, cwd FROM bindings ORDER BY notebook")
        return [Binding(*row) for row in rows]

    def kernel_event(self, kernel_id: str, epoch: int, kind: KernelEventKind, detail: str = "") -> None:
        """Write down that a kernel started, restarted, died, was adopted or was shut down."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO kernel_events (kernel_id, epoch, at, kind, detail) VALUES (?, ?, ?, ?, ?)",
                (kernel_id, epoch, time.time(), kind, detail),
            )

    def kernel_events(self, kernel_id: str | None = None, limit: int = 100) -> list[KernelEvent]:
        """What happened to a kernel, or to all, newest first."""
        rows = self._query(
            "SELECT kernel_id, epoch, at, kind, detail FROM kernel_events"
            " WHERE ?1 IS NULL OR kernel_id = ?1 ORDER BY id DESC LIMIT ?2",
            kernel_id,
            limit,
        )
        return [KernelEvent(*row) for row in rows]

    # ------------------------------------------------------------------ upkeep

    def prune(self, *, max_age_days: float = 30, max_bytes: int = 512 * 2**20) -> None:
        """Forget what is old, then what is oldest until the file holds at most `max_bytes`.

        Executions that are not finished or not delivered stay.
        """
        oldest = time.time() - max_age_days * 86_400
        with self._transaction() as db:
            db.execute(f"DELETE FROM executions WHERE queued_at < ? AND {DROPPABLE}", (oldest,))
            db.execute("DELETE FROM edits WHERE at < ?", (oldest,))
            db.execute("DELETE FROM kernel_events WHERE at < ?", (oldest,))
            db.execute("DELETE FROM output_events WHERE execution_id NOT IN (SELECT id FROM executions)")
        while self._used_bytes() > max_bytes and self._drop_oldest_tenth():
            pass
        with self._errors():
            self._db.execute("PRAGMA incremental_vacuum(4096)").fetchall()

    def _drop_oldest_tenth(self) -> bool:
        with self._transaction() as db:
            dropped = 0
            for table, where in (("executions", DROPPABLE), ("edits", "1")):
                (count,) = db.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
                dropped += db.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT ?)",
                    ((count + 9) // 10,),
                ).rowcount
        return dropped > 0

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._query(f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    # ------------------------------------------------------------------ SQLite

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
            return self._db.execute(sql, values).fetchall()


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal, made when it is not there; one that is damaged is moved aside (`Journal.reset` says so).

    The folder is made with mode 0700, the file with 0600. Old entries are pruned.

    Raises:
        Unavailable: the folder or the file cannot be made or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        connection, reset = open_database(path)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(
            f"The journal {path} cannot be opened: {error}.",
            hint="Give a folder that can be written with --state-dir.",
        ) from error
    try:
        journal = Journal(connection, path, reset)
        journal.prune()
        yield journal
    finally:
        connection.close()


def _packed(value: Any) -> bytes | None:
    """JSON, compressed when it is long and shrinks by it: zlib's first byte is never JSON's."""
    if value is None:
        return None
    text = json.dumps(value, separators=(",", ":"), default=str).encode()
    return zlib.compress(text, 1) if len(text) > _COMPRESS_FROM and _shrinks(text) else text


def _shrinks(text: bytes) -> bool:
    """Whether the middle of it halves: pictures do not, and cost milliseconds to try."""
    middle = text[len(text) // 2 :][:_COMPRESS_FROM]
    return len(zlib.compress(middle, 1)) < len(middle) / 2


def _unpacked(packed: bytes | None) -> Any:
    if packed is None:
        return None
    return json.loads(zlib.decompress(packed) if packed[:1] == b"\x78" else packed)


_PACKED = frozenset({"outputs", "before", "after"})


def _stored(name: str, value: Any) -> Any:
    return _packed(value) if name in _PACKED else value


def _execution_row(row: Sequence[Any]) -> ExecutionRow:
    values = dict(zip(_EXECUTION, row, strict=True))
    values["outputs"] = _nodes(_unpacked(values["outputs"]))
    values["on_disk"] = bool(values["on_disk"])
    return ExecutionRow(**values)


def _edit_row(row: Sequence[Any]) -> EditRow:
    values = dict(zip(_EDIT, row, strict=True))
    for name in ("before", "after"):
        values[name] = _nodes(_unpacked(values[name]))
    return EditRow(**values)


def _nodes(value: Any) -> Any:
    if value is None:
        return None
    # nbformat costs a tenth of a second: only who reads cells back pays.
    from nbformat import from_dict  # noqa: PLC0415

    return from_dict(value)  # type: ignore[no-untyped-call]
