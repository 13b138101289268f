"""Attributed edits: what undo takes back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio.lowlevel

from ..errors import Unavailable
from ..notebooks import text_hash
from .database import storable
from .packing import INLINE_BYTES
from .tables import Tables, nodes, text_again

EditKind = Literal["insert", "delete", "source", "type", "move", "outputs", "metadata", "create"]

TURN_SECONDS = 120.0
"""Edits of one author in one notebook less than this apart are one turn."""

UNDO, REDO = "undo-", "redo-"
"""How turns begin that took edits back, or brought them back. No other edit ever joins them."""


@dataclass(slots=True)
class EditRow:
    """One attributed change of one cell. `before` and `after` hold what changed of it, None where there was no cell.

    `undoes` are the ids of the edits this one takes back: they are marked in the transaction that writes it.
    """

    notebook: str
    author: str
    kind: EditKind
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
    undoes: Sequence[int] = ()
    call: str | None = None
    """The handle of the operation that made it, with others perhaps."""


@dataclass(frozen=True, slots=True)
class EditHead:
    """An edit without its cells, which may be megabytes."""

    id: int
    at: float
    author: str
    turn: str | None
    kind: str
    cell_id: str | None
    before_index: int | None
    after_index: int | None
    call: str | None = None


CALL = "e-"
"""How handles of single edits begin."""


def new_turn(beginning: str = "t-") -> str:
    """An id for a turn, or with another beginning for an edit, that nobody else has."""
    return beginning + uuid.uuid4().hex[:10]


_COLUMNS = tuple(name for name in EditRow.__dataclass_fields__ if name != "undoes")
_HEAD = tuple(EditHead.__dataclass_fields__)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM edits"
_INSERT = f"INSERT INTO edits ({', '.join(_COLUMNS)}, stands) VALUES ({', '.join('?' * len(_COLUMNS))}, ?)"
_CELLS = ("before", "after")
_INLINE_ALL_BYTES = 4 * 2**20
_INLINE_MANY_BYTES = 4096
_CHUNK = 128


class Edits(Tables):
    """The journal's edits."""

    _withdrawn: tuple[EditRow, ...] = ()
    earlier_edits: int = 0
    """The id of the newest edit that an earlier server wrote."""

    async def add_edits(self, edits: Sequence[EditRow]) -> None:
        """Write attributed edits down, all or none; the rows get their ids.

        Thousands of them are several transactions, between which others have their turn. A process that is killed
        between two leaves the first ones, as one that is killed before the notebook is written leaves all of them.
        """
        written = 0
        try:
            for start in range(0, len(edits), _CHUNK):
                if start:
                    await anyio.lowlevel.checkpoint()
                await self._add_chunk(edits[start : start + _CHUNK])
                written = start + _CHUNK
        except BaseException:
            if written:
                self.withdraw_edits(edits[:written])
            raise

    async def _add_chunk(self, edits: Sequence[EditRow]) -> None:
        cells: list[dict[str, bytes | None]] = []
        blobs: list[int | None] = []
        size = 0
        try:
            for edit in edits:
                columns: dict[str, bytes | None] = {}
                for name in _CELLS:
                    # What goes into one transaction is bounded too.
                    inline = INLINE_BYTES if size < _INLINE_ALL_BYTES else _INLINE_MANY_BYTES
                    columns[name], blob = await self._stored(*_halves(getattr(edit, name)), inline=inline)
                    size += len(columns[name] or b"")
                    blobs.append(blob)
                cells.append(columns)
            ids = self._insert(edits, cells, blobs)
        finally:
            self._release_blobs(blobs)
        self._grow(size)
        for edit, edit_id in zip(edits, ids, strict=True):
            edit.id = edit_id

    def _insert(
        self, edits: Sequence[EditRow], cells: Sequence[Mapping[str, bytes | None]], blobs: Sequence[int | None]
    ) -> list[int]:
        self._settle()
        ids: list[int] = []
        with self._transaction() as db:
            for edit, columns in zip(edits, cells, strict=True):
                values = [columns[name] if name in columns else storable(getattr(edit, name)) for name in _COLUMNS]
                values.append(stands_after(edit.kind, edit.after))
                ids.append(int(db.execute(_INSERT, values).lastrowid or 0))
                taken_back = [(edit.turn or edit.author, each) for each in edit.undoes]
                db.executemany("UPDATE edits SET undone_by = ? WHERE id = ?", taken_back)
            self._keep_blobs(db, blobs)
        self._written(edits, ids)
        return ids

    def _written(self, edits: Sequence[EditRow], ids: Sequence[int]) -> None:
        """These edits were written down, under these ids."""

    def _withdrawn_from(self, edits: Sequence[EditRow]) -> None:
        """These edits were withdrawn."""

    def withdraw_edits(self, edits: Sequence[EditRow]) -> None:
        """Take back rows whose change was not made after all, and what they say of the edits they undo.

        Never raises: what cannot be written now is written before the next edit is, or is read.
        """
        self._withdrawn = (*self._withdrawn, *edits)
        try:
            self._settle()
        except Unavailable:
            return

    def _settle(self) -> None:
        if not self._withdrawn:
            return
        with self._transaction() as db:
            for edit in self._withdrawn:
                for name in _CELLS:
                    self._drop_blobs(db, "edits", name, "id = ?", edit.id)
                db.execute("DELETE FROM edits WHERE id = ?", (edit.id,))
                marks = [(each,) for each in edit.undoes]
                db.executemany("UPDATE edits SET undone_by = NULL WHERE id = ?", marks)
        withdrawn, self._withdrawn = self._withdrawn, ()
        self._withdrawn_from(withdrawn)

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
        self._settle()
        given = {"notebook": notebook, "author": author, "execution_id": execution_id, "turn": turn}
        wanted = {name: value for name, value in given.items() if value is not None}
        clauses = [f"{name} = ?" for name in wanted] + ([] if include_undone else ["undone_by IS NULL"])
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        rows = self._query(f"{_SELECT} {where}ORDER BY id DESC LIMIT ?", *wanted.values(), limit)
        return [self._edit(row) for row in rows]

    def turn_of(self, notebook: str, author: str) -> str:
        """The turn of an edit made now: that of the author's last one, or a new one when that is long ago or undid."""
        self._settle()
        rows = self._query(
            "SELECT at, turn FROM edits WHERE notebook = ? AND author = ? ORDER BY id DESC LIMIT 1",
            notebook,
            author,
        )
        for at, turn in rows:
            if turn and not turn.startswith((UNDO, REDO)) and abs(time.time() - at) < TURN_SECONDS:
                return str(turn)
        return new_turn()

    def last_edit(self, notebook: str, author: str, *, after: int = 0) -> EditHead | None:
        """An author's newest edit that can be undone; one that undid is none.

        Args:
            after: the id of an edit: only later ones count.
        """
        self._settle()
        rows = self._query(
            f"SELECT {', '.join(_HEAD)} FROM edits WHERE notebook = ? AND author = ? AND undone_by IS NULL "
            f"AND turn NOT LIKE '{UNDO}%' AND id > ? ORDER BY id DESC LIMIT 1",
            notebook,
            author,
            after,
        )
        return next((EditHead(*map(text_again, row)) for row in rows), None)

    def newest_edit(self) -> int:
        """The id of the newest edit of all; 0 before the first."""
        return int(self._query("SELECT coalesce(max(id), 0) FROM edits")[0][0])

    def undoable(
        self,
        notebook: str,
        *,
        author: str | None = None,
        turn: str | None = None,
        execution_id: str | None = None,
        call: str | None = None,
    ) -> list[EditHead]:
        """All edits of an author, a turn, an execution or an operation that were not taken back, newest first."""
        self._settle()
        given = {"notebook": notebook, "author": author, "turn": turn, "execution_id": execution_id, "call": call}
        wanted = {name: value for name, value in given.items() if value is not None}
        where = " AND ".join([f"{name} = ?" for name in wanted] + ["undone_by IS NULL"])
        rows = self._query(f"SELECT {', '.join(_HEAD)} FROM edits WHERE {where} ORDER BY id DESC", *wanted.values())
        return [EditHead(*map(text_again, row)) for row in rows]

    async def cells_of_edit(self, edit_id: int) -> tuple[Any, Any]:
        """What an edit's cell was before and after it, as plain JSON values; None where there was no cell."""
        for before, after in self._query("SELECT before, after FROM edits WHERE id = ?", edit_id):
            return _cell(await self._lines_apart(before)), _cell(await self._lines_apart(after))
        return None, None

    def editors(self, notebook: str) -> dict[str, int]:
        """Who has edits in a notebook that can be undone, the latest first, and how many."""
        self._settle()
        rows = self._query(
            "SELECT author, count(*) FROM edits WHERE notebook = ? AND undone_by IS NULL "
            f"AND turn NOT LIKE '{UNDO}%' GROUP BY author ORDER BY max(id) DESC",
            notebook,
        )
        return {text_again(author): int(count) for author, count in rows}

    def last_change(self, notebook: str, cell_id: str, kinds: Sequence[EditKind]) -> tuple[EditKind, float] | None:
        """The newest edit of one of these kinds of a cell, and its time."""
        self._settle()
        rows = self._query(
            f"SELECT kind, at FROM edits WHERE notebook = ? AND cell_id = ? AND kind IN ({', '.join('?' * len(kinds))})"
            " ORDER BY id DESC LIMIT 1",
            notebook,
            cell_id,
            *kinds,
        )
        return rows[0] if rows else None

    def _edit(self, row: Sequence[Any]) -> EditRow:
        values = dict(zip(_COLUMNS, row, strict=True))
        for name in _CELLS:
            values[name] = nodes(_cell(self._lines(values[name])))
        return EditRow(**{name: text_again(value) for name, value in values.items()})


def stands_after(kind: str, after: Any) -> str | None:
    """A cell's text after an edit, as `text_hash`; "" where it is gone, None where the edit says nothing of it."""
    if kind == "delete":
        return ""
    is_whole = isinstance(after, Mapping) and "cell_type" in after and isinstance(after.get("source"), str)
    return text_hash(after) if is_whole and kind != "outputs" else None


def _cell(lines: Sequence[Any] | None) -> Any:
    """A cell from what its column holds: itself, then its outputs."""
    if lines is None:
        return None
    cell, *outputs = lines
    return {**cell, "outputs": outputs} if isinstance(cell, Mapping) and "outputs" in cell else cell


def _halves(cell: Any) -> tuple[Any, Sequence[Any] | None]:
    """A cell without its outputs, then these, which may be big."""
    if not isinstance(cell, Mapping) or "outputs" not in cell:
        return cell, None if cell is None else []
    return {**cell, "outputs": None}, cell["outputs"]
