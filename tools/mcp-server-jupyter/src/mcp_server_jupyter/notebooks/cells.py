"""Pure functions on notebooks: cells, edits, hashes.

Cells are values (see `ports.Contents`): a function that changes a cell puts a new cell in its place. The notebook
given is the copy that `contents.edit` hands out, so its `cells` list itself is changed.

Formats and field names: https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, InvalidRequest, NotFound
from .nodes import diff, new_id, node, shallow

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TYPES = ("code", "markdown", "raw")


def new_notebook(kernel_name: str, display_name: str | None = None, language: str = "python") -> NotebookNode:
    """An empty notebook of nbformat 4.5 for a kernelspec."""
    kernelspec = {"name": kernel_name, "display_name": display_name or kernel_name, "language": language}
    metadata = {"kernelspec": kernelspec, "language_info": {"name": language}}
    return node({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


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


def text_hash(cell: Mapping[str, Any]) -> str:
    """`source_hash` of what the cell says: white space at the ends of lines and of the cell is no part of that."""
    lines = [line.rstrip() for line in cell["source"].split("\n")]
    return source_hash({"cell_type": cell["cell_type"], "source": "\n".join(lines).strip("\n")})


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
