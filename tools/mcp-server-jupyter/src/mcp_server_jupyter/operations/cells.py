"""Operations that edit cells. Every edit is attributed in the journal, so that it can be undone alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from ..errors import InvalidRequest
from ..journal import EditKind, EditRow
from ..notebooks import check_hash, edit_source, find_cell, new_cell, replace_source
from ..notebooks import clear_outputs as clear_cells
from ..notebooks import delete_cell as remove_cell
from ..notebooks import insert_cell as put_cell
from ..notebooks import move_cell as shift_cell
from ..notebooks.undoing import edited_part
from .call import Answer, Call, Param
from .permit import editing
from .render import cell_data, edited, takes_back

if TYPE_CHECKING:
    from nbformat import NotebookNode

CellType = Literal["code", "markdown", "raw"]
Index = Annotated[int, Param(ge=-1)]


def edit_row(
    call: Call,
    path: str,
    kind: EditKind,
    before: NotebookNode | None,
    after: NotebookNode | None,
    *,
    before_index: int | None = None,
    after_index: int | None = None,
    execution_id: str | None = None,
) -> EditRow:
    """The journal's line for one changed cell."""
    cell = after if after is not None else before
    return EditRow(
        at=time.time(),
        notebook=path,
        author=call.author,
        execution_id=execution_id,
        kind=kind,
        cell_id=None if cell is None else cell["id"],
        before=None if before is None else edited_part(kind, before),
        after=None if after is None else edited_part(kind, after),
        before_index=before_index,
        after_index=after_index,
    )


def check_size(call: Call, text: str) -> None:
    limit = call.services.settings.max_body_bytes
    if len(text) > limit:
        raise InvalidRequest(f"A cell of {len(text)} characters is over the limit of {limit}.")


async def insert_cell(
    call: Call, cell_index: Index, cell_type: CellType, cell_source: str, notebook_path: str = ""
) -> Answer:
    """Put a new cell before `cell_index` (-1 or the number of cells: at the end)."""
    check_size(call, cell_source)
    path = call.path(notebook_path)
    async with editing(call, path) as edit:
        cell = new_cell(cell_type, cell_source)
        index = put_cell(edit.notebook, cell_index, cell)
        cell = edit.notebook.cells[index]
        edit.rows.append(edit_row(call, path, "insert", None, cell, after_index=index))
    return edited(index, cell, "Inserted", edit.handle)


async def append_markdown_cell(call: Call, cell_source: str, notebook_path: str = "") -> Answer:
    """Put a markdown cell at the end."""
    return await insert_cell(call, -1, "markdown", cell_source, notebook_path)


async def overwrite_cell_source(
    call: Call,
    cell_source: str,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
    expected_hash: str | None = None,
) -> Answer:
    """Replace a cell's source. With `expected_hash` (the hash you read) a cell changed since is not overwritten.

    Raises:
        Conflict: the cell has another hash; the diff shows what is there now.
    """

    def replace(notebook: NotebookNode, index: int) -> None:
        replace_source(notebook, index, cell_source, expected_hash)

    check_size(call, cell_source)
    return await _change_source(call, notebook_path, cell_index, cell_id, replace, "Overwrote")


async def edit_cell_source(
    call: Call,
    old_string: str,
    new_string: str,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
    replace_all: bool = False,
    expected_hash: str | None = None,
) -> Answer:
    """Replace `old_string`, which must occur exactly once unless `replace_all`, by `new_string`.

    Raises:
        InvalidRequest: it does not occur, or more than once.
        Conflict: the cell has another hash than `expected_hash`.
    """

    def replace(notebook: NotebookNode, index: int) -> None:
        edit_source(notebook, index, old_string, new_string, replace_all, expected_hash)

    check_size(call, new_string)
    return await _change_source(call, notebook_path, cell_index, cell_id, replace, "Edited")


async def _change_source(
    call: Call,
    notebook_path: str,
    cell_index: int | None,
    cell_id: str | None,
    replace: Callable[[NotebookNode, int], None],
    what: str,
) -> Answer:
    path = call.path(notebook_path)
    async with editing(call, path) as edit:
        notebook = edit.notebook
        index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id)
        before = notebook.cells[index]
        replace(notebook, index)
        after = notebook.cells[index]
        edit.rows.append(edit_row(call, path, "source", before, after, before_index=index, after_index=index))
    return edited(index, after, what, edit.handle)


async def move_cell(
    call: Call,
    to_index: Index,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
) -> Answer:
    """Move a cell so that it ends up at `to_index` (-1: at the end)."""
    path = call.path(notebook_path)
    async with editing(call, path) as edit:
        notebook = edit.notebook
        index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id)
        target = len(notebook.cells) - 1 if to_index == -1 else to_index
        if target >= len(notebook.cells):
            raise InvalidRequest(f"to_index={to_index}, but the last cell is {len(notebook.cells) - 1}.")
        shift_cell(notebook, index, target)
        cell = notebook.cells[target]
        edit.rows.append(edit_row(call, path, "move", cell, cell, before_index=index, after_index=target))
    return edited(target, cell, f"Moved from [{index}] to", edit.handle)


async def delete_cell(
    call: Call,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
    expected_hash: str | None = None,
) -> Answer:
    """Delete a cell (undo brings it back). With `expected_hash` only if it is still what you read."""
    path = call.path(notebook_path)
    async with editing(call, path) as edit:
        notebook = edit.notebook
        index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id)
        before = notebook.cells[index]
        check_hash(before, expected_hash)
        remove_cell(notebook, index)
        left = len(notebook.cells)
        edit.rows.append(edit_row(call, path, "delete", before, None, before_index=index))
    text = f"Deleted [{index}] id={before['id']}; {left} cells left.{takes_back(edit.handle)} brings it back."
    return Answer(text, {**cell_data(index, before), "edit": edit.handle})


async def clear_outputs(
    call: Call, notebook_path: str = "", cell_index: int | None = None, cell_id: str | None = None
) -> Answer:
    """Clear the outputs of one cell, or of all when none is named."""
    path = call.path(notebook_path)
    async with editing(call, path) as edit:
        notebook = edit.notebook
        named = cell_index is not None or cell_id is not None
        index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id) if named else None
        before = list(notebook.cells)
        count = clear_cells(notebook, index)
        edit.rows += _changed_rows(call, path, before, notebook.cells)
    handle = {"edit": edit.handle} if edit.rows else {}
    back = takes_back(edit.handle) if edit.rows else ""
    return Answer(f"Cleared the outputs of {count} cell(s).{back}", {"cleared": count, **handle})


def _changed_rows(
    call: Call, path: str, before: Sequence[NotebookNode], after: Sequence[NotebookNode]
) -> list[EditRow]:
    return [
        edit_row(call, path, "outputs", old, new, before_index=index, after_index=index)
        for index, (old, new) in enumerate(zip(before, after, strict=True))
        if old is not new
    ]
