"""What learners' work came to, and what is still to be checked, in SQLite.

One file, held by one service at a time; each call is one transaction. A check is written down before it is queued and
leaves with its result, so that a service that was killed runs again what was open.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..journal.database import Database, Named

COLUMNS = ("learner", "task", "attempt", "at", "state", "points", "max_points", "source_hash", "seconds")

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE results (
    learner TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL, state TEXT NOT NULL,
    points REAL NOT NULL, max_points REAL NOT NULL, source_hash TEXT NOT NULL, seconds REAL NOT NULL,
    told TEXT NOT NULL, PRIMARY KEY (learner, task, attempt)
);
CREATE INDEX results_of_a_task ON results (task, learner, attempt);
CREATE TABLE submissions (
    learner TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL, source_hash TEXT NOT NULL,
    path TEXT NOT NULL, sources TEXT NOT NULL, PRIMARY KEY (learner, task, attempt)
);
CREATE TABLE deployed (
    learner TEXT NOT NULL, task TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (learner, task)
);
CREATE TABLE verified (hash TEXT PRIMARY KEY);
CREATE TABLE kernels (learner TEXT NOT NULL, kernel_id TEXT NOT NULL, PRIMARY KEY (learner, kernel_id));
PRAGMA user_version = 1;
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What one attempt came to. `at` is when it was handed in, in seconds since the epoch; `told` what is answered."""

    learner: str
    task: str
    attempt: int
    at: float
    state: str
    points: float
    max_points: float
    source_hash: str
    seconds: float
    told: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubmissionRow:
    """Work that was handed in and is not checked yet. `sources` are the learner's cells by the step of the task."""

    learner: str
    task: str
    attempt: int
    at: float
    source_hash: str
    path: str
    sources: dict[int, list[str]] = field(repr=False)


class Results(Database):
    """Made by `open_results`, for one thread. Every method raises `Unavailable` when SQLite cannot do its work."""

    # ------------------------------------------------------------------ submissions

    def submit(self, row: SubmissionRow) -> None:
        """Write down what is to be checked, over an earlier wording of the same attempt."""
        values = (row.learner, row.task, row.attempt, row.at, row.source_hash, row.path, json.dumps(row.sources))
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO submissions VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def withdraw(self, row: SubmissionRow) -> None:
        """It is not to be checked any more."""
        with self._transaction() as db:
            _drop(db, row.learner, row.task, row.attempt)

    def finish(self, row: ResultRow) -> None:
        """A submission has its result: both or neither."""
        values = [getattr(row, name) for name in COLUMNS]
        with self._transaction() as db:
            db.execute(f"INSERT INTO results VALUES ({', '.join('?' * 10)})", [*values, json.dumps(row.told)])
            _drop(db, row.learner, row.task, row.attempt)

    def open(self) -> list[SubmissionRow]:
        """What has no result yet, oldest first."""
        rows = self._query("SELECT * FROM submissions ORDER BY at, attempt")
        return [_submission(*row) for row in rows]

    # ------------------------------------------------------------------ results

    def latest(self, learner: str, task: str) -> ResultRow | None:
        """The last attempt that has a result."""
        sql = "SELECT * FROM results WHERE learner = ? AND task = ? ORDER BY attempt DESC LIMIT 1"
        return next((_result(row) for row in self._query(sql, learner, task)), None)

    def progress(self, learner: str | None, task: str | None) -> list[dict[str, Any]]:
        """The last attempt of each learner at each task, and the most points of any."""
        given = [("learner", learner), ("task", task)]
        where = " AND ".join(f"{name} = ?" for name, value in given if value is not None)
        last = "max(attempt)"
        named = ", ".join(last if name == "attempt" else name for name in COLUMNS)
        # Where there is one max(), SQLite takes the other columns from its row ("Bare columns in an aggregate query").
        latest = f"SELECT {named} FROM results {'WHERE ' + where if where else ''} GROUP BY learner, task"
        best = "SELECT max(points) FROM results AS all_ WHERE all_.learner = l.learner AND all_.task = l.task"
        sql = f"SELECT l.*, ({best}) FROM ({latest}) AS l ORDER BY 1, 2"
        rows = self._query(sql, *(value for _, value in given if value is not None))
        return [dict(zip((*COLUMNS, "best_points"), row, strict=True)) for row in rows]

    # ------------------------------------------------------------------ kernels of checks

    def kernels(self, learner: str) -> list[str]:
        """The kernels of a learner's checks that are not known to have ended."""
        return [str(row[0]) for row in self._query("SELECT kernel_id FROM kernels WHERE learner = ?", learner)]

    def kernel_began(self, learner: str, kernel_id: str) -> None:
        """A check has a kernel."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO kernels VALUES (?, ?)", (learner, kernel_id))

    def kernel_ended(self, learner: str, kernel_id: str) -> None:
        """It has ended."""
        with self._transaction() as db:
            db.execute("DELETE FROM kernels WHERE learner = ? AND kernel_id = ?", (learner, kernel_id))

    # ------------------------------------------------------------------ deployments and templates

    def deployed(self, learner: str, task: str) -> str | None:
        """Where a learner has a task."""
        rows = self._query("SELECT path FROM deployed WHERE learner = ? AND task = ?", learner, task)
        return str(rows[0][0]) if rows else None

    def deploy(self, learner: str, task: str, path: str | None) -> None:
        """A learner has a task there; None, nowhere."""
        with self._transaction() as db:
            db.execute("DELETE FROM deployed WHERE learner = ? AND task = ?", (learner, task))
            if path is not None:
                db.execute("INSERT INTO deployed VALUES (?, ?, ?)", (learner, task, path))

    def is_verified(self, digest: str) -> bool:
        """Whether a task of this hash has passed its own checks."""
        return bool(self._query("SELECT 1 FROM verified WHERE hash = ?", digest))

    def verify(self, digest: str) -> None:
        """A task of this hash has passed its own checks."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO verified VALUES (?)", (digest,))


def _drop(db: sqlite3.Connection, learner: str, task: str, attempt: int) -> None:
    db.execute("DELETE FROM submissions WHERE learner = ? AND task = ? AND attempt = ?", (learner, task, attempt))


def _submission(
    learner: str, task: str, attempt: int, at: float, source_hash: str, path: str, sources: str
) -> SubmissionRow:
    by_step = {int(step): each for step, each in json.loads(sources).items()}
    return SubmissionRow(learner, task, attempt, at, source_hash, path, by_step)


def _result(row: Sequence[Any]) -> ResultRow:
    return ResultRow(**dict(zip(COLUMNS, row, strict=False)), told=json.loads(row[len(COLUMNS)]))


@contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """Open the results, made when they are not there: folder 0700, file 0600. No other process has them meanwhile.

    Raises:
        Unavailable: they cannot be made or read, are of a newer version, or another service has them.
    """
    named = Named("results", path, "Free disk space, or end the other service that has them.")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise named.unavailable(error) from error
    try:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > 1:
                raise sqlite3.DatabaseError("they are from a newer version")
            if version == 0:
                connection.executescript(_SCHEMA)
            # The lock is taken by the first write, and kept.
            connection.execute("BEGIN IMMEDIATE").execute("COMMIT")
        except sqlite3.Error as error:
            raise named.unavailable(error) from error
        yield Results(connection, named)
    finally:
        connection.close()
