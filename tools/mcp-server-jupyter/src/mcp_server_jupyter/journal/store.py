"""What must outlive the process: executions, attributed edits and which kernel belongs to which notebook.

One SQLite file in the state directory, in WAL mode with `synchronous=NORMAL`: a commit survives the death of the
process, a power cut may cost the last ones. One commit costs less than a thread's switch: calls with little to write do
not switch tasks at all. Every call is one transaction; what is big is written part by part before it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Unavailable
from .activity import Activity
from .agents import AgentRules
from .executions import Executions
from .leases import Leases
from .places import Places
from .retention import Retention
from .runs import Runs
from .schema import open_database
from .standing import Standing


class Journal(Executions, Standing, Places, Leases, AgentRules, Activity, Runs, Retention):
    """The open journal. Made by `open_journal`; used from one thread.

    Every method raises `Unavailable` when SQLite cannot do its work (disk full, file locked by another process).
    """


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal, made when it is not there; one that is damaged is moved aside (`Journal.reset` says so).

    The folder is made with mode 0700, the file with 0600.

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
        journal.earlier_edits = journal.newest_edit()
        yield journal
    finally:
        connection.close()
