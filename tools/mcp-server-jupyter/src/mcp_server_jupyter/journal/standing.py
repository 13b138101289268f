"""What stands in the notebooks by what was written through us, and who has been told what became of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .database import storable
from .edits import EditHead, EditRow, Edits, stands_after
from .kernels import Kernels
from .tables import text_again

PERSON = "person"
"""The author of what a save from outside did: a person's, or another program's."""

_NOTEBOOKS = 64
_HEAD = tuple(EditHead.__dataclass_fields__)


@dataclass(slots=True)
class Stood:
    """A cell as the last edit left it that went through us, and at which position.

    `seen` is the source that was found to be that.
    """

    edit_id: int
    text: str
    index: int | None = None
    seen: Any = None


@dataclass(slots=True)
class Stands:
    """The cells of one notebook that were written through us and are to be there.

    Edits up to `confirmed` are known to have reached it. `order` is how the cells stood when they were last looked at,
    `newest` the last edit from outside, `told` up to which edit an author knows.
    """

    cells: dict[str, Stood]
    confirmed: int
    newest: int
    order: list[str] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)


class Standing(Edits, Kernels):
    """The journal's knowledge of what was written, kept in memory for the notebooks used last."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._stands: OrderedDict[str, Stands] = OrderedDict()

    def stands(self, notebook: str) -> Stands:
        """What was written through us into a notebook and is to be there."""
        self._settle()
        known = self._stands.get(notebook)
        if known is None:
            known = self._stands[notebook] = self._read_stands(notebook)
            if len(self._stands) > _NOTEBOOKS:
                self._stands.popitem(last=False)
        self._stands.move_to_end(notebook)
        return known

    def _read_stands(self, notebook: str) -> Stands:
        rows = self._query(
            "SELECT cell_id, max(id), stands, after_index FROM edits WHERE notebook = ? AND stands IS NOT NULL"
            " GROUP BY cell_id",
            notebook,
        )
        cells = {
            text_again(cell_id): Stood(int(edit_id), text, index) for cell_id, edit_id, text, index in rows if text
        }
        newest = self._query(
            "SELECT coalesce(max(id), 0) FROM edits WHERE notebook = ? AND author = ?", notebook, PERSON
        )
        confirmed = self._query("SELECT edit_id FROM confirmed WHERE notebook = ?", notebook)
        return Stands(cells, int(confirmed[0][0]) if confirmed else 0, int(newest[0][0]))

    def confirm(self, notebook: str) -> None:
        """All edits of a notebook so far are in it, or will be whatever becomes of this process."""
        stands = self.stands(notebook)
        newest = max((stood.edit_id for stood in stands.cells.values()), default=0)
        if newest > stands.confirmed:
            with self._transaction() as db:
                values = storable(notebook), newest
                db.execute("INSERT OR REPLACE INTO confirmed (notebook, edit_id) VALUES (?, ?)", values)
            stands.confirmed = newest

    def unheard(self, notebook: str, author: str) -> list[EditHead]:
        """What was done from outside to cells that an author wrote before, and was not told yet; the oldest first.

        Whoever asks is to tell it: it is not said again.
        """
        stands = self.stands(notebook)
        if not stands.newest:
            return []
        if author not in stands.told:
            rows = self._query("SELECT edit_id FROM told WHERE notebook = ? AND author = ?", notebook, author)
            stands.told[author] = int(rows[0][0]) if rows else 0
        told, newest = stands.told[author], stands.newest
        if told >= newest:
            return []
        found = self._query(
            f"SELECT {', '.join(_HEAD)} FROM edits AS done WHERE notebook = ?1 AND author = ?2 AND id > ?3"
            " AND undone_by IS NULL AND EXISTS (SELECT 1 FROM edits AS wrote WHERE wrote.notebook = ?1"
            " AND wrote.cell_id = done.cell_id AND wrote.author = ?4 AND wrote.id < done.id AND wrote.stands <> '')"
            " ORDER BY id",
            notebook,
            PERSON,
            told,
            author,
        )
        if found:
            with self._transaction() as db:
                values = storable(notebook), storable(author), newest
                db.execute("INSERT OR REPLACE INTO told (notebook, author, edit_id) VALUES (?, ?, ?)", values)
        stands.told[author] = newest
        return [EditHead(*map(text_again, row)) for row in found]

    def is_doubtful(self, notebook: str, stood: Stood) -> bool:
        """Whether an earlier server may have been killed between writing an edit down and making it."""
        return self.stands(notebook).confirmed < stood.edit_id <= self.earlier_edits

    def doubt(self, notebook: str, edits: Iterable[int]) -> None:
        """These edits never reached the notebook: what stands there is what stood there before them."""
        with self._transaction() as db:
            db.executemany("UPDATE edits SET stands = NULL WHERE id = ?", [(each,) for each in edits])
        self._stands.pop(notebook, None)

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: what is known of it is known of that."""
        super().renamed(notebook, to)
        for path in (notebook, to):
            self._stands.pop(path, None)

    def _written(self, edits: Iterable[EditRow], ids: Iterable[int]) -> None:
        for edit, edit_id in zip(edits, ids, strict=True):
            known = self._stands.get(edit.notebook)
            if known is None:
                continue
            if edit.author == PERSON:
                known.newest = edit_id
            text = stands_after(edit.kind, edit.after)
            if text and edit.cell_id is not None:
                known.cells[edit.cell_id] = Stood(edit_id, text, edit.after_index)
            elif text is not None:
                known.cells.pop(edit.cell_id or "", None)

    def _withdrawn_from(self, edits: Iterable[EditRow]) -> None:
        for notebook in {edit.notebook for edit in edits}:
            self._stands.pop(notebook, None)
