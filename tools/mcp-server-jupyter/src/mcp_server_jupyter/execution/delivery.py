"""Outputs on their way into the notebook: streamed while the cell runs, confirmed when they are on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio

from ..errors import Conflict, InvalidNotebook, JupyterMcpError, NotFound
from ..events import Events
from ..journal import Journal
from ..notebooks import find_cell, set_outputs
from ..ports import Contents
from .execution import Execution

if TYPE_CHECKING:
    from nbformat import NotebookNode

FIRST_FLUSH_SECONDS = 0.02
FLUSH_SECONDS = 0.1


class Delivery:
    """Writes executions' outputs into their cells. `recent` are finished executions by id, the latest last."""

    def __init__(self, contents: Contents, journal: Journal, events: Events, recent: Mapping[str, Execution]) -> None:
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
                if execution.notebook is not None:
                    with anyio.CancelScope(shield=True):
                        await self.write(execution)
                await anyio.sleep(FLUSH_SECONDS)
                await execution.news(written)

    async def write(self, execution: Execution) -> None:
        """Put the outputs into the cell. A cell or notebook that is gone meanwhile is said, not brought back."""
        if execution.notebook is None or execution.cell_id is None:
            return
        try:
            async with self._contents.edit(execution.notebook, durable=False) as notebook:
                index = find_cell(notebook, cell_id=execution.cell_id)
                set_outputs(notebook, index, execution.outputs(), execution.reducer.execution_count)
                self._apply_foreign_updates(execution, notebook)
        except NotFound:
            gone = "The cell was deleted while it ran; its outputs are kept with the execution only."
            if gone not in execution.note:
                execution.note = f"{execution.note} {gone}".strip()
        except (Conflict, InvalidNotebook) as error:
            execution.note = f"The outputs are not in the notebook: {error.message}"

    def _apply_foreign_updates(self, execution: Execution, notebook: NotebookNode) -> None:
        """`update_display_data` for a display that an earlier cell made."""
        updates = execution.reducer.foreign_updates
        if not updates:
            return
        owners = {e.cell_id: e for e in self._recent.values() if e.notebook == execution.notebook and e.cell_id}
        for index, cell in enumerate(notebook.cells):
            owner = owners.get(cell.get("id"))
            if owner is not None and owner.reducer.apply_updates(updates):
                set_outputs(notebook, index, owner.outputs(), owner.reducer.execution_count)
        updates.clear()

    async def confirm(self, execution: Execution) -> None:
        """Note in the journal that the outputs have reached the disk."""
        try:
            await self._contents.flush(execution.notebook, urgent=False)
        except JupyterMcpError as error:
            execution.note = f"{execution.note} The notebook could not be written: {error.message}".strip()
            self._journal.update_execution(execution.id, events_lost=execution.note)
            return
        self._journal.update_execution(execution.id, on_disk=True)
