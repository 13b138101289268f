"""After a crash: take over the kernels that run on, finish what ran, and say what is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from ..errors import JupyterMcpError, NotFound
from ..journal import FINISHED, ExecutionRow, Journal
from ..notebooks import find_cell, insert_cell, may_raise, new_cell, node, outputs_mark, set_outputs
from ..outputs import OutputReducer
from ..ports import Contents, Editors, Kernel, Kernels, Message
from .execution import Batch, Execution
from .queue import Executions
from .sessions import Sessions

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unsaved:
    """Executions whose cells and outputs were put into a notebook that an editor's window has still to save."""

    notebook: str
    rows: Sequence[ExecutionRow]

    async def confirm(self, contents: Contents, journal: Journal) -> None:
        """Note in the journal that they are in the file, once they are."""
        try:
            await contents.flush(self.notebook, urgent=False)
            journal.placed([row.id for row in self.rows])
            journal.delivered([row.id for row in self.rows if row.status in FINISHED])
        except JupyterMcpError as error:
            logger.warning("outputs of %s wait for the next server: %s", self.notebook, error)


async def recover(
    contents: Contents,
    editors: Editors,
    kernels: Kernels,
    journal: Journal,
    sessions: Sessions,
    executions: Executions,
) -> Sequence[Unsaved]:
    """Bring sessions, executions and notebooks to where the last server left them.

    Returns what is told to editors' windows for that, and is yet to be saved by them.
    """
    adopted = {kernel.id: kernel for kernel in await kernels.adopt()}
    _rebind(adopted, journal, sessions)
    unfinished = journal.unfinished()
    undelivered = journal.undelivered()
    owned = editors.leases()
    for row in (*undelivered, *unfinished):
        if await _restore_cell(contents, journal, row) and row.notebook not in owned:
            journal.placed([row.id])
    for row in undelivered:
        if await _deliver(contents, journal, row) and row.notebook not in owned:
            journal.delivered([row.id])
    batches: dict[str, Batch] = {}
    for row in unfinished:
        if row.status == "waiting_approval":
            await _never_approved(journal, row)
        elif row.kernel_id in adopted and adopted[row.kernel_id].epoch == row.kernel_epoch:
            execution = _revive(row, sessions, executions.max_output_bytes)
            if row.turn is not None:
                execution.batch = batches.setdefault(row.turn, Batch(stop_on_error=True, id=row.turn))
                execution.may_raise = await _may_raise(contents, row)
            await executions.resume(sessions.get(row.kernel_id), execution)
        else:
            await _give_up(contents, journal, row)
            if row.status == "lost" and await _deliver(contents, journal, row) and row.notebook not in owned:
                journal.delivered([row.id])
    for session in sessions.all():
        executions.listen(session)
    rows = (*undelivered, *unfinished)
    unsaved = [Unsaved(path, [row for row in rows if row.notebook == path]) for path in owned]
    return [each for each in unsaved if each.rows]


def _rebind(adopted: dict[str, Kernel], journal: Journal, sessions: Sessions) -> None:
    bindings = journal.bindings()
    for kernel in adopted.values():
        sessions.adopt(kernel, *(binding.notebook for binding in bindings if binding.kernel_id == kernel.id))
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
        # People run by routes whose author is always this one.
        by_agent=row.author != "user",
    )


async def _may_raise(contents: Contents, row: ExecutionRow) -> bool:
    if row.notebook is None or row.cell_id is None:
        return False
    try:
        notebook = await contents.read(row.notebook)
        return may_raise(notebook.cells[find_cell(notebook, cell_id=row.cell_id)])
    except JupyterMcpError:
        # Its cell is gone: then there is nothing that would let it fail.
        return False


def _asked(row: ExecutionRow) -> Message | None:
    """The `input()` it waits in: the prompt went to the server that is gone, the answer only names the request."""
    if row.status != "waiting_input":
        return None
    return Message("stdin", "input_request", uuid4().hex, row.msg_id, {"prompt": row.input_prompt or ""})


async def _restore_cell(contents: Contents, journal: Journal, row: ExecutionRow) -> bool:
    """Find the cell of an execution; one made for it that had not reached the file when the server died is put back.

    True if it is there now, or was deleted, and the journal said before that it was yet to be put there.
    """
    if row.notebook is None or row.cell_id is None:
        return False
    try:
        cell_id = _find(await contents.read(row.notebook), row)
        if cell_id is not None and cell_id != row.cell_id:
            journal.found(row.id, cell_id)
            row.cell_id = cell_id
            return False
        if row.cell_index is None:
            return False
        if cell_id is None and not _was_deleted(journal, row):
            async with contents.edit(row.notebook) as notebook:
                cell = new_cell("code", row.code)
                cell["id"] = row.cell_id
                insert_cell(notebook, _position(notebook, row), cell)
    except JupyterMcpError as error:
        journal.noted(row.id, f"The cell could not be put back: {error.message}")
        return False
    return True


def _find(notebook: NotebookNode, row: ExecutionRow) -> str | None:
    """The id of the execution's cell now.

    Formats below 4.5 keep no ids in the file, so each server makes up its own: the cell is known by its source and its
    place, which a person may have moved down, not up, by what they put above it.
    """
    if any(cell.get("id") == row.cell_id for cell in notebook.cells):
        return row.cell_id
    if notebook.get("nbformat_minor", 5) >= 5:
        return None
    same = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source == row.code]
    if row.cell_index is not None:
        same = [index for index in same if index >= (row.cell_index or 0)]
    elif len(same) > 1:
        return None
    return str(notebook.cells[same[0]]["id"]) if same else None


def _was_deleted(journal: Journal, row: ExecutionRow) -> bool:
    last = journal.last_change(row.notebook or "", row.cell_id or "", ("insert", "delete"))
    return last is not None and last[0] == "delete"


def _position(notebook: NotebookNode, row: ExecutionRow) -> int:
    for index, cell in enumerate(notebook.cells):
        if cell.get("id") == row.after_cell_id:
            return index + 1
    return min(row.cell_index or 0, len(notebook.cells))


async def _deliver(contents: Contents, journal: Journal, row: ExecutionRow) -> bool:
    """Outputs that were answered but had not reached the file, unless the cell shows something newer. False if they
    could not be written."""
    stored = await journal.recall(row.id)
    if row.notebook is not None and row.cell_id is not None and stored is not None and stored.outputs is not None:
        try:
            if _owns(await contents.read(row.notebook), journal, row):
                async with contents.edit(row.notebook) as notebook:
                    if _owns(notebook, journal, row):
                        index = find_cell(notebook, cell_id=row.cell_id)
                        set_outputs(notebook, index, [node(output) for output in stored.outputs], row.execution_count)
        except NotFound:
            pass
        except JupyterMcpError as error:
            journal.noted(row.id, f"The outputs could not be written: {error.message}")
            return False
    return True


def _owns(notebook: NotebookNode, journal: Journal, row: ExecutionRow) -> bool:
    """Whether the cell still shows what this execution replaced or streamed.

    It does not when it ran again, was cleared, or when a person or another program gave it other outputs.

    Raises:
        NotFound: the cell is gone.
    """
    cell = notebook.cells[find_cell(notebook, cell_id=row.cell_id)]
    if cell.cell_type != "code" or not journal.is_newest(row):
        return False
    cleared = journal.last_change(row.notebook or "", row.cell_id or "", ("outputs",))
    if cleared is not None and cleared[1] > (row.finished_at or row.started_at or row.queued_at):
        return False
    if row.replaced is None:
        return not cell.outputs
    return outputs_mark(cell) in (row.replaced, *(row.streamed or "").split())


async def _never_approved(journal: Journal, row: ExecutionRow) -> None:
    """Who was asked for it does not know any more: it is not run, and may be asked for again."""
    note = "Not run: the server was started anew before anybody had approved it."
    await journal.finished(row.id, "aborted", at=time.time(), outputs=[], note=note, on_disk=True)


async def _give_up(contents: Contents, journal: Journal, row: ExecutionRow) -> None:
    """Its kernel is gone: say so in the journal and, after what the cell had shown, in the cell."""
    if row.status == "queued":
        note = "Not run: its kernel ended while the server was away."
        await journal.finished(row.id, "aborted", at=time.time(), outputs=[], note=note, on_disk=True)
        return
    note = "The kernel ended while the server was away; what the cell showed after the server stopped is lost."
    reducer = OutputReducer()
    reducer.add_error("KernelDead", note)
    shown, count = await _shown(contents, journal, row)
    row.execution_count = row.execution_count if count is None else count
    await journal.finished(
        row.id,
        "lost",
        at=time.time(),
        outputs=[*shown, *reducer.outputs()],
        execution_count=row.execution_count,
        note=note,
    )
    row.status = "lost"


async def _shown(contents: Contents, journal: Journal, row: ExecutionRow) -> tuple[list[NotebookNode], int | None]:
    """The outputs of this execution that had reached the notebook, and its count."""
    if row.notebook is None or row.cell_id is None:
        return [], None
    try:
        notebook = await contents.read(row.notebook)
        cell = notebook.cells[find_cell(notebook, cell_id=row.cell_id)]
        if not _owns(notebook, journal, row) or outputs_mark(cell) == row.replaced:
            return [], None
        return list(cell.get("outputs", [])), cell.get("execution_count")
    except JupyterMcpError:
        return [], None
