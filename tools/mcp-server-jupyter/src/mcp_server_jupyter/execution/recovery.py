"""After a crash: take over the kernels that run on, finish what ran, and say what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from ..errors import JupyterMcpError, NotFound
from ..journal import ExecutionRow, Journal
from ..notebooks import find_cell, insert_cell, new_cell, node, set_outputs
from ..outputs import OutputReducer
from ..ports import Contents, Kernel, Kernels, Message
from .execution import Batch, Execution
from .queue import Executions
from .session import Sessions

if TYPE_CHECKING:
    from nbformat import NotebookNode


async def recover(
    contents: Contents, kernels: Kernels, journal: Journal, sessions: Sessions, executions: Executions
) -> str:
    """Bring sessions, executions and notebooks to where the last server left them. Returns a sentence for the log."""
    adopted = {kernel.id: kernel for kernel in await kernels.adopt()}
    _rebind(adopted, journal, sessions)
    unfinished = journal.unfinished()
    undelivered = journal.undelivered()
    for row in (*undelivered, *unfinished):
        await _restore_cell(contents, journal, row)
    for row in undelivered:
        await _deliver(contents, journal, row)
    resumed = 0
    batches: dict[str, Batch] = {}
    for row in unfinished:
        if row.kernel_id in adopted and adopted[row.kernel_id].epoch == row.kernel_epoch:
            execution = _revive(row, sessions, executions.max_output_bytes)
            if row.turn is not None:
                execution.batch = batches.setdefault(row.turn, Batch(stop_on_error=True, id=row.turn))
            await executions.resume(sessions.get(row.kernel_id), execution)
            resumed += 1
        else:
            await _give_up(contents, journal, row)
    if not (adopted or unfinished or undelivered):
        return ""
    return f"adopted {len(adopted)} kernel(s), took up {resumed} execution(s), gave up {len(unfinished) - resumed}"


def _rebind(adopted: dict[str, Kernel], journal: Journal, sessions: Sessions) -> None:
    bindings = journal.bindings()
    notebooks = {binding.kernel_id: binding.notebook for binding in bindings}
    for kernel in adopted.values():
        sessions.adopt(kernel, notebooks.get(kernel.id))
    for binding in bindings:
        if binding.kernel_id not in adopted:
            sessions.lose(binding)


def _revive(row: ExecutionRow, sessions: Sessions, max_output_bytes: int | None) -> Execution:
    session = sessions.get(row.kernel_id)
    return Execution(
        row.id,
        session.kernel,
        row.code,
        row.author,
        row.notebook,
        row.cell_id,
        session.notebook,
        msg_id=row.msg_id,
        status=row.status,
        queued_at=row.queued_at,
        started_at=row.started_at,
        kernel_epoch=row.kernel_epoch,
        reducer=OutputReducer(max_bytes=max_output_bytes),
        input_request=_asked(row),
    )


def _asked(row: ExecutionRow) -> Message | None:
    """The `input()` it waits in: the prompt went to the server that is gone, the answer only names the request."""
    if row.status != "waiting_input":
        return None
    return Message("stdin", "input_request", uuid4().hex, row.msg_id, {"prompt": row.input_prompt or ""})


async def _restore_cell(contents: Contents, journal: Journal, row: ExecutionRow) -> None:
    """A cell made for this execution that had not reached the file when the server died."""
    if row.notebook is None or row.cell_id is None or row.cell_index is None:
        return
    try:
        async with contents.edit(row.notebook) as notebook:
            if any(cell.get("id") == row.cell_id for cell in notebook.cells):
                return
            cell = new_cell("code", row.code)
            cell["id"] = row.cell_id
            insert_cell(notebook, _position(notebook, row), cell)
    except JupyterMcpError as error:
        journal.update_execution(row.id, events_lost=f"The cell could not be put back: {error.message}")
        return
    journal.update_execution(row.id, cell_index=None)


def _position(notebook: NotebookNode, row: ExecutionRow) -> int:
    for index, cell in enumerate(notebook.cells):
        if cell.get("id") == row.after_cell_id:
            return index + 1
    return min(row.cell_index or 0, len(notebook.cells))


async def _deliver(contents: Contents, journal: Journal, row: ExecutionRow) -> None:
    """Outputs that were answered but had not reached the file."""
    if row.notebook is not None and row.cell_id is not None and row.outputs is not None:
        try:
            async with contents.edit(row.notebook) as notebook:
                index = find_cell(notebook, cell_id=row.cell_id)
                set_outputs(notebook, index, [node(output) for output in row.outputs], row.execution_count)
        except NotFound:
            pass
        except JupyterMcpError as error:
            journal.update_execution(row.id, events_lost=f"The outputs could not be written: {error.message}")
            return
    journal.update_execution(row.id, on_disk=True)


async def _give_up(contents: Contents, journal: Journal, row: ExecutionRow) -> None:
    """Its kernel is gone: say so in the journal and, after what the cell had shown, in the cell."""
    if row.status == "queued":
        note = "Not run: its kernel ended while the server was away."
        journal.update_execution(row.id, status="aborted", events_lost=note, on_disk=True)
        return
    note = "The kernel ended while the server was away; what the cell showed after the server stopped is lost."
    reducer = OutputReducer()
    reducer.add_error("KernelDead", note)
    outputs = [*await _shown(contents, row), *reducer.outputs()]
    journal.update_execution(row.id, status="lost", outputs=outputs, events_lost=note)
    stored = journal.execution(row.id)
    if stored is not None:
        await _deliver(contents, journal, stored)


async def _shown(contents: Contents, row: ExecutionRow) -> list[NotebookNode]:
    """The outputs that had reached the notebook."""
    if row.notebook is None or row.cell_id is None:
        return []
    try:
        notebook = await contents.read(row.notebook)
        return list(notebook.cells[find_cell(notebook, cell_id=row.cell_id)].get("outputs", []))
    except JupyterMcpError:
        return []
