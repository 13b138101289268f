"""What notebooks are known by when their files get other names."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .tables import Tables

MOST = 5_000


@dataclass(frozen=True, slots=True)
class Known:
    """A notebook's file: `identity` is its number on the disk, `marks` tell its cells."""

    notebook: str
    identity: str
    marks: frozenset[str]


class Places(Tables):
    """The journal's knowledge of files."""

    def know(self, *notebooks: Known) -> None:
        """Write down what notebooks are known by; the oldest of too many are forgotten."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO places (notebook, identity, marks) VALUES (?, ?, ?)",
                [(known.notebook, known.identity, json.dumps(sorted(known.marks))) for known in notebooks],
            )
            db.execute(
                "DELETE FROM places WHERE rowid <= (SELECT rowid FROM places ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
                (MOST,),
            )

    def forget(self, *notebooks: str) -> None:
        """Know nothing of these any more; their history stays."""
        if notebooks:
            with self._transaction() as db:
                db.executemany("DELETE FROM places WHERE notebook = ?", [(notebook,) for notebook in notebooks])

    def known(self, most: int) -> list[Known]:
        """What notebooks were known by last, the newest `most` of them, the oldest first."""
        rows = self._query("SELECT notebook, identity, marks FROM places ORDER BY rowid DESC LIMIT ?", most)
        return [Known(notebook, identity, frozenset(json.loads(marks))) for notebook, identity, marks in reversed(rows)]
