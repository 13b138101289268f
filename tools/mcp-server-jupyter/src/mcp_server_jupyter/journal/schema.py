"""The journal's tables, how they came to be, and what happens to a file that cannot be read."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KernelEventKind = Literal["start", "restart", "death", "adopt", "shutdown", "cull", "stop"]

# Executions that nothing waits for any more.
DROPPABLE = "on_disk = 1 AND status NOT IN ('waiting_approval', 'queued', 'running', 'waiting_input')"

# One script a schema version, in order; a version once released is never changed, the next one is appended.
MIGRATIONS = (
    """
    CREATE TABLE executions (
        id TEXT PRIMARY KEY, notebook TEXT, cell_id TEXT, after_cell_id TEXT, cell_index INTEGER,
        kernel_id TEXT NOT NULL, kernel_epoch INTEGER NOT NULL, msg_id TEXT NOT NULL, code TEXT NOT NULL,
        author TEXT NOT NULL, turn TEXT, status TEXT NOT NULL, input_prompt TEXT, execution_count INTEGER,
        ename TEXT, evalue TEXT, queued_at REAL NOT NULL, started_at REAL, finished_at REAL, source_hash TEXT,
        events_lost TEXT, on_disk INTEGER NOT NULL, outputs BLOB
    );
    CREATE INDEX executions_of_a_cell ON executions (notebook, cell_id, id);
    CREATE INDEX executions_open ON executions (id)
        WHERE on_disk = 0 OR status IN ('queued', 'running', 'waiting_input');
    CREATE TABLE output_events (
        execution_id TEXT NOT NULL, seq INTEGER NOT NULL, json BLOB NOT NULL, PRIMARY KEY (execution_id, seq)
    );
    CREATE TABLE edits (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, notebook TEXT NOT NULL, author TEXT NOT NULL,
        turn TEXT, execution_id TEXT, kind TEXT NOT NULL, cell_id TEXT, before_index INTEGER, after_index INTEGER,
        undone_by TEXT, before BLOB, after BLOB
    );
    CREATE INDEX edits_of_an_author ON edits (notebook, author, id);
    CREATE TABLE bindings (
        notebook TEXT PRIMARY KEY, kernel_id TEXT NOT NULL, kernel_name TEXT NOT NULL, epoch INTEGER NOT NULL,
        cwd TEXT NOT NULL
    );
    CREATE TABLE kernel_events (
        id INTEGER PRIMARY KEY, kernel_id TEXT NOT NULL, epoch INTEGER NOT NULL, at REAL NOT NULL,
        kind TEXT NOT NULL, detail TEXT NOT NULL
    );
    CREATE INDEX kernel_events_of_a_kernel ON kernel_events (kernel_id, id);
    """,
    """
    ALTER TABLE executions ADD COLUMN replaced TEXT;
    ALTER TABLE executions ADD COLUMN streamed TEXT;
    CREATE TABLE blobs (id INTEGER PRIMARY KEY AUTOINCREMENT, kept INTEGER NOT NULL);
    CREATE INDEX blobs_to_drop ON blobs (id) WHERE kept = 0;
    CREATE TABLE blob_parts (
        blob_id INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (blob_id, seq)
    );
    CREATE INDEX executions_by_age ON executions (queued_at)
        WHERE on_disk = 1 AND status NOT IN ('queued', 'running', 'waiting_input');
    CREATE INDEX edits_by_age ON edits (at);
    CREATE INDEX edits_of_a_cell ON edits (notebook, cell_id, id);
    """,
    """
    ALTER TABLE edits ADD COLUMN call TEXT;
    CREATE INDEX edits_of_a_call ON edits (notebook, call) WHERE call IS NOT NULL;
    """,
    """
    CREATE TABLE agents (notebook TEXT PRIMARY KEY, paused INTEGER NOT NULL, run TEXT);
    DROP INDEX executions_open;
    CREATE INDEX executions_open ON executions (id)
        WHERE on_disk = 0 OR status IN ('waiting_approval', 'queued', 'running', 'waiting_input');
    DROP INDEX executions_by_age;
    CREATE INDEX executions_by_age ON executions (queued_at)
        WHERE on_disk = 1 AND status NOT IN ('waiting_approval', 'queued', 'running', 'waiting_input');
    """,
    """
    CREATE TABLE leases (notebook TEXT PRIMARY KEY, window TEXT NOT NULL);
    """,
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, kernel_name TEXT NOT NULL, status TEXT NOT NULL, key TEXT UNIQUE, body_hash TEXT NOT NULL,
        accepted_at REAL NOT NULL, started_at REAL, finished_at REAL, deadline REAL, attempt INTEGER NOT NULL,
        batch TEXT, first INTEGER NOT NULL, total INTEGER NOT NULL, kept_until REAL, size INTEGER NOT NULL,
        warnings TEXT NOT NULL, outcome TEXT
    );
    CREATE INDEX runs_by_status ON runs (status, id);
    CREATE TABLE run_events (
        run_id TEXT NOT NULL, seq INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (run_id, seq)
    );
    CREATE INDEX executions_of_a_turn ON executions (turn, id) WHERE turn IS NOT NULL;
    """,
    """
    ALTER TABLE edits ADD COLUMN stands TEXT;
    CREATE INDEX edits_that_stand ON edits (notebook, cell_id, id, stands) WHERE stands IS NOT NULL;
    CREATE TABLE confirmed (notebook TEXT PRIMARY KEY, edit_id INTEGER NOT NULL);
    CREATE TABLE told (
        notebook TEXT NOT NULL, author TEXT NOT NULL, edit_id INTEGER NOT NULL, PRIMARY KEY (notebook, author)
    );
    """,
    """
    CREATE TABLE places (notebook TEXT PRIMARY KEY, identity TEXT NOT NULL, marks TEXT NOT NULL);
    """,
)

_CHECKED_WHOLE = 64 * 2**20
# SQLite's own checkpoint syncs in the midst of a commit: a thread does most of it long before
# (`Retention.checkpoint`). What it leaves to a commit is what was written while it worked.
_CHECKPOINT_PAGES = 6144
_LOG_BYTES = 8 * 2**20
"""What is kept of the write-ahead log's file when it is begun anew."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A journal that could not be read: where it was moved, and why."""

    moved_to: Path
    reason: str


class _Unusable(sqlite3.DatabaseError):
    """A file that SQLite reads but that is not a journal of ours."""


def open_database(path: Path) -> tuple[sqlite3.Connection, Reset | None]:
    """Open and migrate; what is damaged or from a newer version is moved aside and a new one made.

    Raises:
        sqlite3.Error: it cannot be opened for another reason (locked, no permission, disk full).
    """
    try:
        return _open(path), None
    except sqlite3.DatabaseError as error:
        if not _damaged(error):
            raise
        reset = Reset(_move_aside(path), str(error))
    # structlog is for the rare case here; the journal is opened by every start.
    import structlog  # noqa: PLC0415

    structlog.get_logger().warning("journal.reset", path=str(path), moved_to=str(reset.moved_to), reason=reset.reason)
    return _open(path), reset


def _damaged(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Unusable) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchone()
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}").fetchone()
        _migrate(connection)
        if path.stat().st_size <= _CHECKED_WHOLE:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _Unusable(found)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise _Unusable(f"its schema {version} is from a newer version")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise _Unusable("it is another program's database")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def _move_aside(path: Path) -> Path:
    target = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06}")
    for suffix in ("", "-wal", "-shm"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            source.rename(f"{target}{suffix}")
    path.touch(mode=0o600)
    return target
