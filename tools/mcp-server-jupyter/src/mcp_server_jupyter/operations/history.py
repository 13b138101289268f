"""Undo: an author's edits alone, everybody else's kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequest, JupyterMcpError
from ..journal import EditRow
from ..notebooks import find_cell, insert_cell, move_cell, node, shallow, source_hash
from .call import Answer, Call
from .cells import edit_row

if TYPE_CHECKING:
    from nbformat import NotebookNode


async def undo(call: Call, notebook_path: str = "", author: str = "", execution_id: str = "", turn: str = "") -> Answer:
    """Take back an author's last turn (default: yours), or one execution's or one turn's edits; others' stay.

    A cell that somebody changed since is left alone and named.
    """
    services = call.services
    path = call.path(notebook_path)
    rows = _chosen(call, path, author or call.author, execution_id, turn)
    reverted: list[str] = []
    kept: list[str] = []
    records: list[EditRow] = []
    done: list[int] = []
    async with services.contents.edit(path) as notebook:
        for row in rows:
            try:
                records.append(_revert(call, notebook, row))
                reverted.append(f"{row.kind} of {row.cell_id}")
                done.append(row.id or 0)
            except _Changed as why:
                kept.append(f"{row.kind} of {row.cell_id}: {why}")
    redo = f"undo-{rows[0].id}"
    for record in records:
        record.turn = redo
    services.record(records)
    services.journal.mark_undone(done, call.author)
    text = f"Undid {len(reverted)} edit(s) of {rows[0].author}: {'; '.join(reverted) or 'none'}."
    if reverted:
        text += f' undo(turn="{redo}") brings it back.'
    if kept:
        text += f"\nLeft alone, changed since: {'; '.join(kept)}."
    return Answer(text, {"undone": reverted, "left": kept, "turn": redo}, is_error=not reverted)


class _Changed(Exception):
    """Somebody changed the cell after this edit."""


def _chosen(call: Call, path: str, author: str, execution_id: str, turn: str) -> list[EditRow]:
    """The edits to take back, the newest first."""
    journal = call.services.journal
    if execution_id:
        rows = journal.edits(path, execution_id=execution_id)
    elif turn:
        rows = journal.edits(path, turn=turn)
    else:
        rows = journal.edits(path, author=author)
    rows = [row for row in rows if row.undone_by is None]
    if not execution_id and not turn:
        rows = [row for row in rows if not (row.turn or "").startswith("undo-")]
    if not rows:
        raise InvalidRequest(
            f"No edits of {author!r} in {path} to undo." if not (execution_id or turn) else "No such edits to undo.",
            hint=f"Authors with edits here: {_authors(call, path)}.",
        )
    rows.sort(key=lambda row: row.id or 0, reverse=True)
    if not execution_id and not turn:
        rows = [row for row in rows if row.turn == rows[0].turn]
    return rows


def _authors(call: Call, path: str) -> str:
    return (
        ", ".join(sorted({row.author for row in call.services.journal.edits(path) if row.undone_by is None})) or "none"
    )


def _revert(call: Call, notebook: NotebookNode, row: EditRow) -> EditRow:
    """Apply the opposite of one edit.

    Raises:
        _Changed: the cell is no longer as the edit left it.
    """
    if row.kind == "delete":
        return _put_back(call, notebook, row)
    try:
        index = find_cell(notebook, cell_id=row.cell_id)
    except JupyterMcpError as error:
        raise _Changed("it is gone") from error
    now = notebook.cells[index]
    if row.kind == "move":
        target = min(row.before_index or 0, len(notebook.cells) - 1)
        move_cell(notebook, index, target)
        return edit_row(call, row.notebook, "move", now, now, before_index=index, after_index=target)
    if row.after is not None and row.kind != "outputs" and source_hash(now) != source_hash(row.after):
        raise _Changed("its source is another now")
    if row.kind == "insert":
        del notebook.cells[index]
        return edit_row(call, row.notebook, "delete", now, None, before_index=index)
    return _restore(call, notebook, index, row)


def _put_back(call: Call, notebook: NotebookNode, row: EditRow) -> EditRow:
    assert row.before is not None
    if any(cell.get("id") == row.cell_id for cell in notebook.cells):
        raise _Changed("a cell with its id is there")
    index = insert_cell(notebook, min(row.before_index or 0, len(notebook.cells)), node(row.before))
    return edit_row(call, row.notebook, "insert", None, notebook.cells[index], after_index=index)


def _restore(call: Call, notebook: NotebookNode, index: int, row: EditRow) -> EditRow:
    assert row.before is not None
    now = notebook.cells[index]
    keys = ("outputs", "execution_count") if row.kind == "outputs" else ("source", "cell_type")
    before = node(row.before)
    cell = shallow(now, **{key: before[key] for key in keys if key in before})
    notebook.cells[index] = cell
    return edit_row(call, row.notebook, row.kind, now, cell, before_index=index, after_index=index)
