"""Outputs on their way into the notebook: streamed while the cell runs, confirmed when they are on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ..errors import JupyterMcpError, NotFound
from ..events import Events
from ..journal import Journal
from ..notebooks import find_cell, set_outputs
from ..outputs.reducer import Update
from ..ports import Contents
from .execution import Execution
from .recent import Recent

if TYPE_CHECKING:
    from nbformat import NotebookNode

FIRST_FLUSH_SECONDS = 0.02
FLUSH_SECONDS = 0.1
NO_CODE_CELL = "The cell is no code cell any more; its outputs are kept with the execution."


class Delivery:
    """Writes executions' outputs into their cells.

    Attributes:
        failing: notebooks whose outputs could not be written when that was tried last.
    """

    def __init__(self, contents: Contents, journal: Journal, events: Events, recent: Recent) -> None:
        self.failing: set[str] = set()
        self._contents = contents
        self._journal = journal
        self._events = events
        self._recent = recent

    async def stream(self, execution: Execution, scope: anyio.CancelScope) -> None:
        """Bring a running cell's outputs into the notebook: soon, then at most ten times a second."""
        with scope:
            # Not at once: most cells are done by then, and are written once.
            await anyio.sleep(FIRST_FLUSH_SECONDS)
            while not execution.finished:
                written = execution.version
                self._events.publish("execution.output", **execution.event())
                with anyio.CancelScope(shield=True):
                    await self.write(execution)
                await anyio.sleep(FLUSH_SECONDS)
                await execution.news(written)

    async def write(self, execution: Execution, *, late: bool = False) -> bool:
        """Put the outputs into the cell; `late` ones only if what the cell shows is still this run's.

        True if they are there. A cell or notebook that is gone or another one meanwhile is said, not brought back.
        """
        path = execution.notebook or execution.home
        updates = list(execution.reducer.foreign_updates)
        if path is None or (execution.cell_id is None and not updates):
            return False
        shown: dict[Execution, NotebookNode] = {}
        try:
            async with self._contents.edit(path, durable=False) as notebook:
                if execution.cell_id is not None:
                    index = find_cell(notebook, cell_id=execution.cell_id)
                    cell = notebook.cells[index]
                    if cell.cell_type != "code":
                        execution.add_note(NO_CODE_CELL)
                    elif not late or execution.owns(cell):
                        shown[execution] = _show(notebook, index, execution)
                self._update_displays(execution, path, updates, notebook, shown)
        except NotFound:
            if execution.cell_id is not None:
                execution.add_note("The cell was deleted while it ran; its outputs are kept with the execution only.")
        except JupyterMcpError as error:
            # Whatever it is, the execution itself is done and must be told.
            execution.add_note(f"The outputs are not in the notebook: {error.message}")
        else:
            for each, cell in shown.items():
                each.written = cell.outputs, cell.execution_count
            del execution.reducer.foreign_updates[: len(updates)]
        return execution in shown

    def _update_displays(
        self,
        execution: Execution,
        path: str,
        updates: list[Update],
        notebook: NotebookNode,
        shown: dict[Execution, NotebookNode],
    ) -> None:
        """`update_display_data` for a display that an earlier cell made and still shows."""
        if not updates:
            return
        for index, cell in enumerate(notebook.cells):
            owner = self._recent.of_cell(path, cell.get("id", ""))
            if owner is None or owner is execution or not owner.owns(cell):
                continue
            if owner.reducer.apply_updates(updates):
                shown[owner] = _show(notebook, index, owner)

    async def confirm(self, execution: Execution) -> None:
        """Note in the journal that the outputs have reached the disk."""
        notebook = execution.notebook or ""
        try:
            await self._contents.flush(execution.notebook, urgent=False)
        except JupyterMcpError as error:
            self.failing.add(notebook)
            execution.add_note(f"The notebook could not be written: {error.message}")
            self._journal.update_execution(execution.id, events_lost=execution.note)
            return
        self.failing.discard(notebook)
        self._journal.update_execution(execution.id, on_disk=True)


def _show(notebook: NotebookNode, index: int, execution: Execution) -> NotebookNode:
    return set_outputs(notebook, index, execution.outputs(), execution.reducer.execution_count)
