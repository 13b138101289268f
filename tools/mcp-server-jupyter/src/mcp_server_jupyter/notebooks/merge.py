"""Three-way merge of notebooks, and the alignment of cells that have no ids. Public through `notebooks`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Conflict
from .nodes import diff, new_id, shallow

if TYPE_CHECKING:
    from nbformat import NotebookNode


def align(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """For every new cell the position of the old one it continues, by type and source; None for a new one."""
    before = [(cell["cell_type"], cell["source"]) for cell in old]
    after = [(cell["cell_type"], cell["source"]) for cell in new]
    found: list[int | None] = [None] * len(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal" or (tag == "replace" and old_end - old_start == new_end - new_start):
            found[new_start:new_end] = range(old_start, old_end)
        elif tag == "replace":
            _pair_by_type(before, after, found, range(old_start, old_end), range(new_start, new_end))
    return found


def _pair_by_type(
    before: Sequence[tuple[str, str]],
    after: Sequence[tuple[str, str]],
    found: list[int | None],
    old: range,
    new: range,
) -> None:
    at = old.start
    for position in new:
        if at < old.stop and before[at][0] == after[position][0]:
            found[position] = at
            at += 1


Resolve = Callable[[Conflict], None]
"""Told of a clash that was settled for theirs instead of being raised."""


def merge(
    base: NotebookNode, ours: NotebookNode, theirs: NotebookNode, *, on_conflict: Resolve | None = None
) -> NotebookNode:
    """Three-way merge, cell by cell and field by field. Never loses or doubles a cell.

    Cells are matched by id; where one side has none, by type and source. Identical objects count as unchanged
    without a look inside. Outputs changed on both sides: ours win. A cell deleted on one side and changed in its
    outputs only on the other is deleted.

    Args:
        on_conflict: told of each clash; theirs is kept then.

    Raises:
        Conflict: a source changed in two ways, or changed on one side and deleted on the other.
    """
    if theirs is base or ours is theirs:
        return ours
    if ours is base:
        return theirs
    cells = _identified(base.cells)
    state = _Merge(cells, _identified(ours.cells, cells), _identified(theirs.cells, cells), on_conflict)
    merged = shallow(theirs, cells=state.cells())
    merged["metadata"] = _merge_mapping(base.metadata, ours.metadata, theirs.metadata)
    return merged


def _identified(cells: Sequence[NotebookNode], base: Sequence[NotebookNode] = ()) -> list[NotebookNode]:
    if all("id" in cell for cell in cells):
        return list(cells)
    origin = align(base, cells)
    return [shallow(cell, id=new_id() if at is None else base[at].id) for at, cell in zip(origin, cells, strict=True)]


class _Merge:
    def __init__(
        self,
        base: list[NotebookNode],
        ours: list[NotebookNode],
        theirs: list[NotebookNode],
        on_conflict: Resolve | None,
    ) -> None:
        self.base = {cell["id"]: cell for cell in base}
        self.ours = {cell["id"]: cell for cell in ours}
        self.theirs = {cell["id"]: cell for cell in theirs}
        self.order = ([*self.base], [*self.ours], [*self.theirs])
        self.on_conflict = on_conflict

    def cells(self) -> list[NotebookNode]:
        kept: dict[str, NotebookNode] = {}
        for cell_id in {**self.theirs, **self.ours}:
            cell = self.cell(cell_id)
            if cell is not None:
                kept[cell_id] = cell
        return [kept[cell_id] for cell_id in _merge_order(*self.order) if cell_id in kept]

    def cell(self, cell_id: str) -> NotebookNode | None:
        base, ours, theirs = self.base.get(cell_id), self.ours.get(cell_id), self.theirs.get(cell_id)
        if ours is not None and theirs is not None:
            return self.both(base, ours, theirs)
        present = ours if theirs is None else theirs
        if base is None or present is None:
            return present
        if present is base or (present.source == base.source and present.cell_type == base.cell_type):
            return None
        side = "you changed was deleted" if theirs is None else "you deleted was changed"
        self.clash(
            Conflict(
                f"Cell {cell_id!r} {side} in the file meanwhile.",
                diff=diff(base.source, present.source, "before", "ours" if theirs is None else "theirs"),
                hint="Read the notebook again, then decide.",
            )
        )
        return theirs

    def both(self, base: NotebookNode | None, ours: NotebookNode, theirs: NotebookNode) -> NotebookNode:
        if ours is theirs or ours is base:
            return theirs
        if theirs is base:
            return ours
        old: Mapping[str, Any] = {} if base is None else base
        merged = dict(theirs)
        source_key = ("cell_type", "source")
        if any(ours.get(key) != old.get(key) for key in source_key):
            if base is None or any(theirs.get(key) != old.get(key) for key in source_key):
                self.sources(ours, theirs)
            else:
                merged |= {key: ours[key] for key in source_key}
        for key in {**theirs, **ours}:
            if key not in source_key and key not in ("id", "outputs", "execution_count"):
                _merge_key(merged, key, old, ours, theirs)
        self.outputs(merged, old, ours)
        return shallow(merged)

    def outputs(self, merged: dict[str, Any], old: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        keys = ("outputs", "execution_count")
        if merged["cell_type"] != "code":
            for key in keys:
                merged.pop(key, None)
        elif "outputs" not in merged or any(ours.get(key) != old.get(key) for key in keys if key in ours):
            merged["outputs"] = ours.get("outputs", [])
            merged["execution_count"] = ours.get("execution_count")

    def sources(self, ours: NotebookNode, theirs: NotebookNode) -> None:
        if (ours.cell_type, ours.source) == (theirs.cell_type, theirs.source):
            return
        self.clash(
            Conflict(
                f"Cell {ours.id!r} was changed in the file meanwhile, in another way.",
                diff=diff(theirs.source, ours.source, "current", "asked"),
                hint="Read the cell again, then repeat the change on what is there now.",
            )
        )

    def clash(self, conflict: Conflict) -> None:
        if self.on_conflict is None:
            raise conflict
        self.on_conflict(conflict)


def _merge_order(base: list[str], ours: list[str], theirs: list[str]) -> list[str]:
    """Theirs' order with our insertions next to their neighbours; ours' order where only ours moved cells."""
    common = set(base) & set(ours) & set(theirs)
    in_base, in_ours, in_theirs = ([i for i in side if i in common] for side in (base, ours, theirs))
    lead, follow = (ours, theirs) if in_theirs == in_base and in_ours != in_base else (theirs, ours)
    known = set(lead)
    after: dict[str | None, list[str]] = {}
    anchor: str | None = None
    for cell_id in follow:
        if cell_id in known:
            anchor = cell_id
        else:
            after.setdefault(anchor, []).append(cell_id)
    merged = list(after.get(None, ()))
    for cell_id in lead:
        merged.append(cell_id)
        merged += after.get(cell_id, ())
    return merged


_ABSENT = object()


def _merge_key(
    merged: dict[str, Any], key: str, base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    old, our, their = (side.get(key, _ABSENT) for side in (base, ours, theirs))
    if our is old or our == old:
        return
    if isinstance(our, Mapping) and isinstance(their, Mapping):
        merged[key] = _merge_mapping(old if isinstance(old, Mapping) else {}, our, their)
    elif our is _ABSENT:
        if their is old or their == old:
            merged.pop(key, None)
    else:
        merged[key] = our


def _merge_mapping(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Any:
    if ours is base or ours is theirs:
        return theirs
    if theirs is base:
        return ours
    merged = dict(theirs)
    for key in {**theirs, **ours}:
        _merge_key(merged, key, base, ours, theirs)
    return shallow(merged)
