"""One notebook that an editor's window has open: what is in the window, in the file, and owed to the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import anyio

from ... import notebooks
from ...errors import Conflict
from .ops import Op, apply_ops, edit_ops

if TYPE_CHECKING:
    from nbformat import NotebookNode

Outcome = Literal["applied", "refused", "opened", "gone"]
_KEYS = ("outputs", "execution_count")


@dataclass(eq=False)
class Request:
    """An edit that the window was asked for, until it has said what became of it."""

    id: str
    ops: Sequence[Op]
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome = "gone"

    def settle(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.done.set()


@dataclass(eq=False)
class Document:
    """A notebook and the window that owns it.

    Attributes:
        buffer: what is in the window, with the outputs that came since. What readers see.
        saved: what the file had when it was read or saved last.
        owed: `saved` with what others than the person have done since: edits that the window has acknowledged, and
            outputs. The file must get these, however the window ends; what the person types it gets when they save.
        is_live: the window has a stream and has said what it has; False while it is waited for.
        ran: cells whose outputs came from runs since the file was saved.
    """

    path: str
    owner: str
    buffer: NotebookNode
    saved: NotebookNode
    owed: NotebookNode
    version: int = 1
    is_shared: bool = True
    is_live: bool = True
    observers: dict[str, bool] = field(default_factory=dict)
    """Other windows that have it open, in the order they came, and whether they share it."""
    ran: set[str] = field(default_factory=set)
    request: Request | None = None
    given_up: list[tuple[NotebookNode, NotebookNode]] = field(default_factory=list)
    """Edits that the window said nothing of in time: what they began with, and what they led to. They have failed: if
    the window turns out to have made them, they are taken back."""
    speaker: str = ""
    """The window whose buffer this is: not yet the owner, while an heir has not said what it has."""
    is_recovered: bool = False
    """The server takes over what an earlier one left: the owner has still to be waited for."""
    news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_owed(self) -> bool:
        """Whether the file lacks something that only the window has."""
        return self.owed is not self.saved

    def cells(self) -> list[dict[str, str]]:
        """As windows are told them."""
        return [{"id": cell["id"], "hash": notebooks.source_hash(cell)} for cell in self.buffer.cells]

    def tell(self) -> None:
        """Wake whoever waits for a change of this document's state."""
        self.news.set()
        self.news = anyio.Event()

    # ------------------------------------------------------------------ what changes it

    def typed(self, ops: Sequence[Op]) -> None:
        """The person has changed it.

        Raises:
            Stale, InvalidRequest: nothing has changed.
        """
        self.buffer = apply_ops(self.buffer, ops)
        self.given_up.clear()
        for op in ops:
            if op["op"] == "outputs":
                self.ran.discard(op["id"])
                self._forget_outputs(op["id"])
            elif op["op"] == "delete":
                self._forget(op["id"])

    def acknowledged(self, ops: Sequence[Op]) -> None:
        """The window has applied an edit of somebody else's.

        Raises:
            Stale: it does not fit what is known of the window.
        """
        before = self.buffer
        self.buffer = apply_ops(before, ops)
        self.given_up.clear()
        self.ran.difference_update(op["id"] for op in ops if op["op"] == "outputs")
        # Where the person has typed into the same cell, it was this very state that was acknowledged.
        self.owed = notebooks.merge(before, self.owed, self.buffer, on_conflict=_theirs)

    def recovered(self, changed: NotebookNode) -> None:
        """What an earlier server had not brought into the file: the owner is told at its next `open`."""
        before = {cell["id"]: cell for cell in self.buffer.cells}
        for cell in changed.cells:
            earlier = before.get(cell["id"])
            if cell.cell_type == "code" and cell.outputs and (earlier is None or earlier is not cell):
                self.ran.add(cell["id"])
        self.buffer = self.owed = changed

    def show(self, cell_id: str, changed: NotebookNode) -> None:
        """A run has put outputs into a cell: `changed` is the buffer with these."""
        self.buffer = changed
        self.ran.add(cell_id)
        cell = _cell(changed, cell_id)
        if cell is not None:
            self._owe_outputs(cell_id, cell.outputs, cell.execution_count)

    def file_is(self, file: NotebookNode) -> None:
        """The file was saved or read: what it still lacks stays owed."""
        owed = file
        if self.is_owed:
            owed = _as_in(notebooks.merge(self.saved, self.owed, file, on_conflict=_theirs), file)
            if not edit_ops(file, owed):
                owed = file
        self.saved, self.owed = file, owed
        for cell_id in list(self.ran):
            kept, shown = _cell(file, cell_id), _cell(self.buffer, cell_id)
            if kept is None or shown is None or notebooks.outputs_mark(kept) == notebooks.outputs_mark(shown):
                self.ran.discard(cell_id)
        self.tell()

    def _owe_outputs(self, cell_id: str, outputs: list[Any], execution_count: int | None) -> None:
        for index, cell in enumerate(self.owed.cells):
            if cell["id"] == cell_id and cell.cell_type == "code":
                cells = list(self.owed.cells)
                cells[index] = notebooks.shallow(cell, outputs=outputs, execution_count=execution_count)
                self.owed = notebooks.shallow(self.owed, cells=cells)
                return

    def _forget_outputs(self, cell_id: str) -> None:
        """The person has cleared them: what is in the file stays, until they save."""
        cell = _cell(self.saved, cell_id)
        if self.is_owed and cell is not None and cell.cell_type == "code":
            self._owe_outputs(cell_id, cell.outputs, cell.execution_count)

    def _forget(self, cell_id: str) -> None:
        """The person has deleted a cell: one that others made, and that was never saved, is not brought back."""
        if self.is_owed and _cell(self.saved, cell_id) is None:
            cells = [cell for cell in self.owed.cells if cell["id"] != cell_id]
            self.owed = notebooks.shallow(self.owed, cells=cells)


def with_outputs(notebook: NotebookNode, other: NotebookNode, cell_ids: set[str]) -> NotebookNode:
    """A notebook whose named cells show what another one's do, as far as both have them as code cells."""
    cells = list(notebook.cells)
    for index, cell in enumerate(cells):
        shown = _cell(other, cell["id"]) if cell["id"] in cell_ids else None
        if shown is not None and shown.cell_type == "code" == cell.cell_type:
            cells[index] = notebooks.shallow(cell, **{key: shown.get(key) for key in _KEYS})
    return notebooks.shallow(notebook, cells=cells)


def clashes(base: NotebookNode, others: NotebookNode, theirs: NotebookNode) -> list[dict[str, str]]:
    """Cells whose source others have changed, and the person in another way: the person's stays. What others wrote."""
    before = {cell["id"]: cell.source for cell in base.cells}
    now = {cell["id"]: cell.source for cell in theirs.cells}
    return [
        {"id": cell["id"], "source": cell.source}
        for cell in others.cells
        if cell["id"] in before
        and cell.source != before[cell["id"]]
        and now.get(cell["id"]) not in (before[cell["id"]], cell.source)
    ]


def _as_in(notebook: NotebookNode, file: NotebookNode) -> NotebookNode:
    """With the file's outputs where they show the same: editors write them down in their own way."""
    known = {cell["id"]: cell for cell in file.cells}
    same = {
        cell["id"]
        for cell in notebook.cells
        if (kept := known.get(cell["id"])) is not None
        and kept is not cell
        and notebooks.outputs_mark(kept) == notebooks.outputs_mark(cell)
    }
    return with_outputs(notebook, file, same) if same else notebook


def _cell(notebook: NotebookNode, cell_id: str) -> NotebookNode | None:
    return next((cell for cell in notebook.cells if cell["id"] == cell_id), None)


def _theirs(conflict: Conflict) -> None:
    """A clash that is settled by what was acknowledged, or saved, later."""
