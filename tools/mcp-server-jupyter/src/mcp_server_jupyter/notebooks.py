"""Pure functions on notebooks: cells, edits, hashes, outline, three-way merge.

Cells are values (see `ports.Contents`): a function that changes a cell puts a new cell in its place. The notebook
given is the copy that `contents.edit` hands out, so its `cells` list itself is changed.

Formats and field names: https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import difflib
import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TYPES = ("code", "markdown", "raw")
_OUTLINE_CHARS = 80


def node_type() -> type[NotebookNode]:
    """The class NotebookNode."""
    from nbformat import NotebookNode  # noqa: PLC0415 - nbformat takes 60 ms to import

    return NotebookNode


def node(value: Mapping[str, Any]) -> NotebookNode:
    """A mapping, with all mappings below it, as NotebookNode."""
    return node_type()({key: _node_below(below) for key, below in value.items()})


def _node_below(value: Any) -> Any:
    if isinstance(value, Mapping):
        return node(value)
    return [_node_below(below) for below in value] if isinstance(value, list | tuple) else value


def shallow(value: Mapping[str, Any], **changed: Any) -> NotebookNode:
    """A new node with the same values, but for `changed`: how a cell is changed without touching it."""
    made = node_type()(value)
    for key, changed_value in changed.items():
        made[key] = changed_value
    return made


def new_notebook(kernel_name: str, display_name: str | None = None, language: str = "python") -> NotebookNode:
    """An empty notebook of nbformat 4.5 for a kernelspec."""
    kernelspec = {"name": kernel_name, "display_name": display_name or kernel_name, "language": language}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": language}}
    return node({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def new_id() -> str:
    """A cell id (nbformat 4.5: 1 to 64 characters of letters, digits, - and _)."""
    return uuid.uuid4().hex[:8]


def new_cell(cell_type: str, source: str) -> NotebookNode:
    """A new cell with an id.

    Raises:
        InvalidRequest: `cell_type` is none of code, markdown and raw.
    """
    if cell_type not in CELL_TYPES:
        raise InvalidRequest(f"There is no cell type {cell_type!r}.", hint=f"Use one of {', '.join(CELL_TYPES)}.")
    cell: dict[str, Any] = {"cell_type": cell_type, "id": new_id(), "metadata": {}, "source": source}
    if cell_type == "code":
        cell |= {"execution_count": None, "outputs": []}
    return node(cell)


def source_hash(cell: Mapping[str, Any]) -> str:
    """12 hex digits that change with the cell's type or source, and with nothing else."""
    text = f"{cell['cell_type']}\0{cell['source']}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# --------------------------------------------------------------------------- finding


def find_cell(nb: NotebookNode, *, cell_index: int | None = None, cell_id: str | None = None) -> int:
    """The position (from 0) of the cell meant by its index (negative: from the end), its id, or both.

    Raises:
        InvalidRequest: neither was given, or they mean different cells.
        NotFound: no such cell; names the range or the nearest ids.
    """
    if cell_index is None and cell_id is None:
        raise InvalidRequest("No cell was named.", hint="Give cell_index (from 0) or cell_id.")
    by_id = None if cell_id is None else _find_id(nb, cell_id)
    by_index = None if cell_index is None else _find_index(nb, cell_index)
    if by_id is not None and by_index is not None and by_id != by_index:
        raise InvalidRequest(
            f"Cell {cell_id!r} is at index {by_id}, not {cell_index}.", hint="Give one of the two, or read the outline."
        )
    return by_index if by_id is None else by_id  # type: ignore[return-value]


def _find_index(nb: NotebookNode, index: int) -> int:
    count = len(nb.cells)
    if -count <= index < count:
        return index % count
    if not count:
        raise NotFound(f"There is no cell {index}: the notebook is empty.", hint="Insert a cell first.")
    raise NotFound(f"There is no cell {index}.", hint=f"Cells go from 0 to {count - 1}.")


def _find_id(nb: NotebookNode, cell_id: str) -> int:
    ids = [cell["id"] for cell in nb.cells]
    if cell_id in ids:
        return ids.index(cell_id)
    near = difflib.get_close_matches(cell_id, ids, n=3, cutoff=0.4) or ids[:5]
    hint = f"Ids like it: {', '.join(near)}." if near else "The notebook is empty."
    raise NotFound(f"There is no cell with id {cell_id!r}; it may have been deleted.", hint=hint)


# --------------------------------------------------------------------------- edits


def insert_cell(nb: NotebookNode, index: int, cell: NotebookNode) -> int:
    """Insert before `index` (0 to the number of cells; that number or -1 appends). Returns the new cell's position.

    Raises:
        InvalidRequest: out of range; names the range.
    """
    count = len(nb.cells)
    if index == -1:
        index = count
    if not 0 <= index <= count:
        raise InvalidRequest(f"Cannot insert at {index}.", hint=f"Use 0 to {count}, or -1 to append.")
    nb.cells.insert(index, cell)
    return index


def delete_cell(nb: NotebookNode, index: int) -> NotebookNode:
    """Take a cell out and return it.

    Raises:
        NotFound: no such cell.
    """
    removed: NotebookNode = nb.cells.pop(_find_index(nb, index))
    return removed


def move_cell(nb: NotebookNode, index: int, to: int) -> int:
    """Move a cell so that it stands at `to` afterwards (negative: from the end). Returns that position.

    Raises:
        NotFound: one of the positions is out of range.
    """
    index, to = _find_index(nb, index), _find_index(nb, to)
    nb.cells.insert(to, nb.cells.pop(index))
    return to


def check_hash(cell: NotebookNode, expected_hash: str | None, asked: str | None = None) -> None:
    """Refuse a change that was meant for another state of the cell.

    Args:
        asked: the source that was to be written, for the diff.

    Raises:
        Conflict: the hash differs; carries the diff from the current source to `asked`.
    """
    if expected_hash is None or expected_hash == source_hash(cell):
        return
    raise Conflict(
        f"Cell {cell.id!r} was changed since it was read (its hash is {source_hash(cell)}).",
        diff="" if asked is None else diff(cell.source, asked, "current", "asked"),
        hint="Read the cell again, then repeat the change with its new hash.",
    )


def replace_source(nb: NotebookNode, index: int, source: str, expected_hash: str | None = None) -> NotebookNode:
    """Give a cell another source; id, metadata, attachments and outputs stay. Returns the new cell.

    Raises:
        NotFound: no such cell.
        Conflict: `expected_hash` is not the cell's; carries a diff from the current source to the asked one.
    """
    index = _find_index(nb, index)
    cell = nb.cells[index]
    check_hash(cell, expected_hash, source)
    nb.cells[index] = shallow(cell, source=source)
    replaced: NotebookNode = nb.cells[index]
    return replaced


def edit_source(
    nb: NotebookNode, index: int, old: str, new: str, replace_all: bool = False, expected_hash: str | None = None
) -> NotebookNode:
    """Replace a piece of a cell's source. Returns the new cell.

    Raises:
        NotFound: no such cell.
        InvalidRequest: `old` is empty, does not occur, or occurs more than once without `replace_all`.
        Conflict: `expected_hash` is not the cell's.
    """
    index = _find_index(nb, index)
    source: str = nb.cells[index].source
    check_hash(nb.cells[index], expected_hash, source.replace(old, new) if old else None)
    if not old:
        raise InvalidRequest("The text to replace is empty.", hint="Give old_string, or overwrite the whole source.")
    count = source.count(old)
    if count == 0:
        raise InvalidRequest(f"old_string does not occur in cell {index}.", hint=_nearest(source, old))
    if count > 1 and not replace_all:
        lines = [str(source.count("\n", 0, at) + 1) for at in _occurrences(source, old)[:10]]
        raise InvalidRequest(
            f"old_string occurs {count} times in cell {index} (lines {', '.join(lines)}).",
            hint="Give more of the text around it, or set replace_all.",
        )
    return replace_source(nb, index, source.replace(old, new))


def _occurrences(source: str, old: str) -> list[int]:
    found, at = [], source.find(old)
    while at >= 0:
        found.append(at)
        at = source.find(old, at + len(old))
    return found


def _nearest(source: str, old: str) -> str:
    lines = source.splitlines()
    wanted = max(old.splitlines() or [old], key=len).strip()
    stripped = [line.strip() for line in lines[:2_000]]
    near = difflib.get_close_matches(wanted, stripped, n=1, cutoff=0.3)
    if not near:
        return f"No line of its {len(lines)} is like it; read the cell again."
    at = stripped.index(near[0])
    return f"The nearest line is {at + 1}: {lines[at][:200]!r}. White space counts."


def set_outputs(
    nb: NotebookNode, index: int, outputs: Sequence[Mapping[str, Any]], execution_count: int | None
) -> NotebookNode:
    """Give a code cell other outputs and execution count. Returns the new cell.

    Raises:
        NotFound: no such cell.
        InvalidRequest: not a code cell.
    """
    index = _find_index(nb, index)
    cell = nb.cells[index]
    if cell.cell_type != "code":
        raise InvalidRequest(f"Cell {index} is a {cell.cell_type} cell and has no outputs.", hint="Name a code cell.")
    nb.cells[index] = shallow(cell, outputs=list(outputs), execution_count=execution_count)
    changed: NotebookNode = nb.cells[index]
    return changed


def clear_outputs(nb: NotebookNode, index: int | None = None) -> int:
    """Take the outputs and execution counts away, of one cell or of all. Returns how many cells had any.

    Raises:
        NotFound: no such cell.
    """
    positions = range(len(nb.cells)) if index is None else [_find_index(nb, index)]
    cleared = 0
    for at in positions:
        cell = nb.cells[at]
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            nb.cells[at] = shallow(cell, outputs=[], execution_count=None)
            cleared += 1
    return cleared


# --------------------------------------------------------------------------- outline


@dataclass(frozen=True, slots=True)
class CellLine:
    """One cell in an outline. `first_line` has at most 80 characters; `lines` counts the source's."""

    index: int
    id: str
    cell_type: str
    execution_count: int | None
    first_line: str
    lines: int
    output_kinds: tuple[str, ...]
    hash: str


def outline(nb: NotebookNode) -> list[CellLine]:
    """One line for each cell."""
    return [
        CellLine(
            index=index,
            id=cell.id,
            cell_type=cell.cell_type,
            execution_count=cell.get("execution_count"),
            first_line=_first_line(cell.source),
            lines=len(cell.source.splitlines()),
            output_kinds=output_kinds(cell),
            hash=source_hash(cell),
        )
        for index, cell in enumerate(nb.cells)
    ]


def _first_line(source: str) -> str:
    text = source.lstrip()
    line = text[: text.find("\n")] if "\n" in text else text
    line = line.rstrip()
    return line if len(line) <= _OUTLINE_CHARS else line[: _OUTLINE_CHARS - 1] + "…"


_KINDS = (
    ("image/", "image"),
    ("text/html", "html"),
    ("text/markdown", "markdown"),
    ("text/latex", "latex"),
    ("application/vnd.jupyter.widget", "widget"),
    ("application/vnd.plotly", "plot"),
    ("application/vnd.vega", "plot"),
    ("application/javascript", "javascript"),
    ("application/json", "json"),
    ("text/", "text"),
)


def output_kinds(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Short names of what a cell put out, each once, in order: text, stream, image, html, error, ..."""
    kinds: dict[str, None] = {}
    for output in cell.get("outputs", ()):
        kind = output.get("output_type", "")
        kinds[_kind_of_data(output.get("data", {})) if kind in ("display_data", "execute_result") else kind] = None
    return tuple(kinds)


def _kind_of_data(data: Mapping[str, Any]) -> str:
    for prefix, name in _KINDS:
        if any(mime.startswith(prefix) for mime in data):
            return name
    return next(iter(data), "empty")


def diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """A unified diff of two sources."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="")
    return "\n".join(lines)


# --------------------------------------------------------------------------- alignment and merge


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
