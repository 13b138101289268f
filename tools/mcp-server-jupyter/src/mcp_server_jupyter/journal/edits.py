"""Attributed edits: what undo takes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .tables import Tables, nodes, packed, unpacked

EditKind = Literal["insert", "delete", "source", "type", "move", "outputs", "metadata", "create"]


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


_COLUMNS = tuple(EditRow.__dataclass_fields__)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM edits"
_INSERT = f"INSERT INTO edits ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_CELLS = frozenset({"before", "after"})


class Edits(Tables):
    """The journal's edits."""

    def add_edits(self, edits: Sequence[EditRow]) -> list[int]:
        """Write attributed edits down, all or none; their ids, which the rows get too."""
        ids: list[int] = []
        with self._transaction() as db:
            for edit in edits:
                cursor = db.execute(_INSERT, [_stored(name, getattr(edit, name)) for name in _COLUMNS])
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
        rows = self._query(f"{_SELECT} {where}ORDER BY id DESC LIMIT ?", *wanted.values(), limit)
        return [_row(row) for row in rows]

    def last_edit(self, notebook: str, author: str) -> EditRow | None:
        """The newest edit of an author in a notebook."""
        return next(iter(self.edits(notebook, author=author, limit=1)), None)

    def mark_undone(self, edit_ids: Sequence[int], undone_by: str) -> None:
        """Note that edits were taken back, and by whom or what."""
        with self._transaction() as db:
            db.executemany("UPDATE edits SET undone_by = ? WHERE id = ?", [(undone_by, each) for each in edit_ids])


def _stored(name: str, value: Any) -> Any:
    return packed(value) if name in _CELLS else value


def _row(row: Sequence[Any]) -> EditRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _CELLS:
        values[name] = nodes(unpacked(values[name]))
    return EditRow(**values)
