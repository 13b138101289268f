"""Taking edits back, the newest first: pure, on the copy that `contents.edit` hands out.

Edits are replayed backwards one by one, so that what others did in between stays where it is; what comes out is one
change for each cell and part of it, however often it was edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .cells import source_hash
from .nodes import node, shallow

if TYPE_CHECKING:
    from nbformat import NotebookNode

_SOURCE = ("id", "cell_type", "source")
_OUTPUTS = ("id", "outputs", "execution_count")


class Changed(Exception):
    """The cell is no longer as the edit left it; the text says how."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one cell that takes back the edits `undoes`."""

    kind: str
    cell_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    before_index: int | None = None
    after_index: int | None = None
    undoes: tuple[int, ...] = ()


def edited_part(kind: str, cell: Mapping[str, Any]) -> dict[str, Any] | None:
    """What must be remembered of a cell to take an edit of it back: not the outputs when the source was changed."""
    if kind == "move":
        return None
    parts = {"source": _SOURCE, "insert": _SOURCE, "outputs": _OUTPUTS}.get(kind)
    return dict(cell) if parts is None else {key: cell[key] for key in parts if key in cell}


@dataclass(eq=False, slots=True)
class _Slot:
    """A cell while edits are taken back: how it was at first, and which edits changed its source and its outputs."""

    cell: NotebookNode
    first: NotebookNode
    undone: dict[str, list[int]] = field(default_factory=dict)


class Undoing:
    """Edits of one notebook being taken back. `take_back` them from the newest to the oldest, then `finish`."""

    def __init__(self, notebook: NotebookNode) -> None:
        self._notebook = notebook
        self._slots = [_Slot(cell, cell) for cell in notebook.cells]
        self._by_id = {slot.cell["id"]: slot for slot in reversed(self._slots)}
        self._changes: list[Change] = []

    def take_back(
        self,
        edit_id: int,
        kind: str,
        cell_id: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        before_index: int | None,
        after_index: int | None,
    ) -> None:
        """Apply the opposite of one edit.

        Raises:
            Changed: somebody changed the cell after the edit; nothing was done.
        """
        if kind == "delete":
            self._put_back(edit_id, cell_id, before or {}, before_index or 0)
            return
        slot = self._by_id.get(cell_id)
        if slot is None:
            raise Changed("it is gone")
        if kind == "move":
            self._move(edit_id, slot, before_index or 0, after_index)
        elif kind == "outputs":
            self._restore_outputs(edit_id, slot, before or {}, after or {})
        elif after is not None and source_hash(slot.cell) != source_hash(after):
            raise Changed("its source is another now")
        elif kind == "insert":
            self._remove(edit_id, slot, after_index)
        else:
            self._change(edit_id, slot, "source", before or {}, ("source", "cell_type"))

    def finish(self) -> list[Change]:
        """Put the cells into the notebook; what was changed, in the order that undoes it backwards."""
        self._notebook.cells[:] = [slot.cell for slot in self._slots]
        for slot in self._slots:
            self._flush(slot)
        return self._changes

    def _put_back(self, edit_id: int, cell_id: str, before: Mapping[str, Any], index: int) -> None:
        if cell_id in self._by_id:
            raise Changed("a cell with its id is there")
        cell = node(before)
        index = min(index, len(self._slots))
        slot = self._by_id[cell_id] = _Slot(cell, cell)
        self._slots.insert(index, slot)
        part = edited_part("insert", cell)
        self._changes.append(Change("insert", cell_id, None, part, after_index=index, undoes=(edit_id,)))

    def _remove(self, edit_id: int, slot: _Slot, index: int | None) -> None:
        self._flush(slot)
        index = self._index(slot, index)
        del self._slots[index]
        cell_id = slot.cell["id"]
        del self._by_id[cell_id]
        self._changes.append(Change("delete", cell_id, slot.cell, None, before_index=index, undoes=(edit_id,)))

    def _move(self, edit_id: int, slot: _Slot, to: int, index: int | None) -> None:
        index = self._index(slot, index)
        to = min(to, len(self._slots) - 1)
        self._slots.insert(to, self._slots.pop(index))
        moved = Change("move", slot.cell["id"], before_index=index, after_index=to, undoes=(edit_id,))
        self._changes.append(moved)

    def _restore_outputs(self, edit_id: int, slot: _Slot, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        if slot.cell.cell_type != "code":
            raise Changed("it is no code cell now")
        if any(slot.cell.get(key) != after[key] for key in ("outputs", "execution_count") if key in after):
            raise Changed("its outputs are others now")
        self._change(edit_id, slot, "outputs", before, ("outputs", "execution_count"))

    def _change(self, edit_id: int, slot: _Slot, part: str, before: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        restored = node({key: before[key] for key in keys if key in before})
        slot.cell = shallow(slot.cell, **restored)
        slot.undone.setdefault(part, []).append(edit_id)

    def _flush(self, slot: _Slot) -> None:
        for part, ids in slot.undone.items():
            before, after = edited_part(part, slot.first), edited_part(part, slot.cell)
            self._changes.append(Change(part, slot.cell["id"], before, after, undoes=tuple(ids)))
        slot.undone, slot.first = {}, slot.cell

    def _index(self, slot: _Slot, likely: int | None) -> int:
        if likely is not None and 0 <= likely < len(self._slots) and self._slots[likely] is slot:
            return likely
        return self._slots.index(slot)
