"""What a person or another program did to cells that were written through us: found, written down, and told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from ..journal import CALL, PERSON, EditRow, Journal, Stands, new_turn
from ..notebooks import new_cell, shallow, source_hash, text_hash
from ..ports import Contents

if TYPE_CHECKING:
    from nbformat import NotebookNode

LOOK_SECONDS = 10.0
"""How long an answer waits to be told of what was done from outside; then a later one tells it."""

_KEEPS_IDS = 5
"""The minor version of nbformat 4 from which on cells have ids."""


@dataclass(slots=True)
class Differences:
    """Ids of cells that are not as they were written through us."""

    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.removed or self.changed)


def differences(journal: Journal, path: str, notebook: NotebookNode) -> Differences:
    """Compare a notebook with what was written into it. A cell that merely got another id has neither gone nor changed.

    Raises:
        Unavailable: the journal cannot be read.
    """
    found = Differences()
    stands = journal.stands(path)
    if not stands.cells:
        return found
    cells = {cell.get("id"): cell for cell in notebook.cells}
    for cell_id, stood in stands.cells.items():
        cell = cells.get(cell_id)
        if cell is None:
            found.removed.append(cell_id)
        elif cell["source"] is not stood.seen:
            if text_hash(cell) == stood.text:
                stood.seen = cell["source"]
            else:
                found.changed.append(cell_id)
    if found.removed:
        _leave_out_renamed(journal, stands, notebook, found)
    return found


def _leave_out_renamed(journal: Journal, stands: Stands, notebook: NotebookNode, found: Differences) -> None:
    """Formats below 4.5 keep no ids in the file, and other programs give new ones: such a cell is known by its text."""
    others = [text_hash(cell) for cell in notebook.cells if cell.get("id") not in stands.cells]
    has_ids = notebook.get("nbformat_minor", _KEEPS_IDS) >= _KEEPS_IDS
    removed, found.removed = found.removed, []
    for cell_id in removed:
        stood = stands.cells[cell_id]
        if stood.text in others:
            others.remove(stood.text)
        elif has_ids or stood.edit_id > journal.earlier_edits:
            found.removed.append(cell_id)


async def look(contents: Contents, journal: Journal, path: str) -> None:
    """Write down what was done to a notebook from outside since the last look. Costs next to nothing if nothing was.

    Raises:
        JupyterMcpError: the notebook cannot be read, or the journal cannot be written.
    """
    if not journal.stands(path).cells:
        return
    notebook = await contents.read(path)
    if not differences(journal, path, notebook):
        remember_order(journal, path, notebook)
        return
    # An edit that is on its way is in the journal already: only whoever may edit sees both as they are. Who waits for
    # a window that is away is not kept waiting by this.
    with suppress(_Seen), anyio.move_on_after(LOOK_SECONDS) as entering:
        async with contents.edit(path) as notebook:
            entering.deadline = math.inf
            await note(journal, path, notebook)
            raise _Seen


class _Seen(Exception):
    """Leaves an edit that changes nothing."""


async def note(journal: Journal, path: str, notebook: NotebookNode) -> None:
    """Write down what differs from what was written through us, as a person's edits; the caller may edit the notebook.

    Raises:
        Unavailable: the journal cannot be written.
    """
    found = differences(journal, path, notebook)
    while found:
        stands = journal.stands(path)
        named = [*found.removed, *found.changed]
        doubtful = [stands.cells[each].edit_id for each in named if journal.is_doubtful(path, stands.cells[each])]
        if not doubtful:
            break
        journal.doubt(path, doubtful)
        found = differences(journal, path, notebook)
    if found:
        turn = new_turn()
        await journal.add_edits(await _removals(journal, path, notebook, found.removed, turn))
        await journal.add_edits(await _changes(journal, path, notebook, found.changed, turn))
    remember_order(journal, path, notebook)


def remember_order(journal: Journal, path: str, notebook: NotebookNode) -> None:
    """Keep how the cells stand, for when one of them is removed."""
    journal.stands(path).order = [cell["id"] for cell in notebook.cells if "id" in cell]


async def _removals(
    journal: Journal, path: str, notebook: NotebookNode, removed: Sequence[str], turn: str
) -> list[EditRow]:
    """The rows of removed cells, so that undoing them one after the other puts each where it was."""
    stands = journal.stands(path)
    before = _with_removed([cell.get("id") for cell in notebook.cells], stands, removed)
    handle = new_turn(CALL)
    rows = []
    for index in reversed([at for at, cell_id in enumerate(before) if cell_id in removed]):
        cell_id = before[index]
        cell = await _as_it_was(journal, path, cell_id, stands.cells[cell_id].edit_id)
        rows.append(EditRow(path, PERSON, "delete", cell_id, cell, None, before_index=index, turn=turn, call=handle))
    return rows


def _with_removed(now: Sequence[Any], stands: Stands, removed: Sequence[str]) -> list[Any]:
    """The ids of now with the removed ones behind the cell that they followed, else where they were written last."""
    before = list(now)
    for at, cell_id in enumerate(stands.order):
        if cell_id in removed:
            follows = next((before.index(each) + 1 for each in reversed(stands.order[:at]) if each in before), 0)
            before.insert(follows, cell_id)
    places = {cell_id: stands.cells[cell_id].index for cell_id in removed if cell_id not in before}
    for cell_id, index in sorted(places.items(), key=lambda place: place[1] or 0):
        before.insert(len(before) if index is None else index, cell_id)
    return before


async def _as_it_was(journal: Journal, path: str, cell_id: str, edit_id: int) -> NotebookNode:
    """A cell that is gone: its text as it was written, and what it put out when this text ran last."""
    _, written = await journal.cells_of_edit(edit_id)
    cell = shallow(new_cell(written["cell_type"], written["source"]), id=cell_id)
    run = journal.last_runs(path).get(cell_id)
    if run is None or run.source_hash != source_hash(cell):
        return cell
    row = await journal.recall(run.execution_id)
    if row is None or row.outputs is None:
        return cell
    return shallow(cell, outputs=list(row.outputs), execution_count=row.execution_count)


async def _changes(
    journal: Journal, path: str, notebook: NotebookNode, changed: Sequence[str], turn: str
) -> list[EditRow]:
    stands, handle, rows = journal.stands(path), new_turn(CALL), []
    for index, cell in enumerate(notebook.cells):
        if cell.get("id") in changed:
            _, written = await journal.cells_of_edit(stands.cells[cell.id].edit_id)
            before, after = ({key: each[key] for key in ("id", "cell_type", "source")} for each in (written, cell))
            rows.append(EditRow(path, PERSON, "source", cell.id, before, after, index, index, turn=turn, call=handle))
    return rows
