"""Operations that run code. They answer when the code is done or after their wait, and never kill it by waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio

from ..errors import InvalidRequest, JupyterMcpError, NotFound
from ..execution.execution import Batch, Execution
from ..execution.session import Session, require_alive
from ..execution.start import Start
from ..journal import EditRow, ExecutionRow
from ..notebooks import find_cell, is_skipped
from ..outputs import models_in, readable, slice_text
from .call import Answer, Call, Link, Param
from .cells import Index, check_size, edit_row
from .interpreter import choose, folder_of
from .kernels import come_up
from .permit import ask, gate
from .render import executed, head_and_tail, output_page, pages_of, remembered
from .uris import output_uri

if TYPE_CHECKING:
    from nbformat import NotebookNode

Seconds = Annotated[float, Param(ge=0, le=86_400)]


async def append_execute_code_cell(call: Call, cell_source: str, notebook_path: str = "") -> Answer:
    """Put a code cell at the end and run it."""
    return await insert_execute_code_cell(call, -1, cell_source, notebook_path)


async def insert_execute_code_cell(call: Call, cell_index: Index, cell_source: str, notebook_path: str = "") -> Answer:
    """Put a code cell before `cell_index` (-1: at the end) and run it."""
    check_size(call, cell_source)
    services = call.services
    path = call.path(notebook_path)
    session = await notebook_session(call, path)

    def row(execution: Execution, cell: NotebookNode, index: int) -> EditRow:
        return edit_row(call, path, "insert", None, cell, after_index=index, execution_id=execution.id)

    execution, index = await services.executions.insert(
        session, path, cell_index, cell_source, author=call.author, edit_row=row, **gate(call, path)
    )
    ask(call, [execution])
    await wait_for(call, [execution], call.answers.wait_seconds - call.seconds)
    answer = await executed(execution, call.answers, index=index, is_new=True)
    first, line_break, rest = answer.text.partition("\n")
    answer.text = f'{first} undo(execution_id="{execution.id}"){line_break}{rest}'
    return answer


async def execute_cell_with_progress(
    call: Call,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
    timeout_seconds: Seconds | None = None,
) -> Answer:
    """Run a cell that is there, reporting its output as it comes.

    Args:
        timeout_seconds: how long to wait for the answer (default: the setting `wait_seconds`). Then the cell runs
            on and the answer carries an `execution_id` for `get_execution`.
    """
    services = call.services
    path = call.path(notebook_path)
    notebook = await services.contents.read(path)
    cell = _code_cell(notebook, cell_index, cell_id)
    wait = call.answers.wait_seconds if timeout_seconds is None else timeout_seconds
    session = await notebook_session(call, path, notebook, seconds=wait)
    # A kernel's start takes long enough for somebody to change the cell: what runs is what is there now.
    notebook = await services.contents.read(path)
    cell = _code_cell(notebook, None, cell["id"])
    index = find_cell(notebook, cell_id=cell["id"])
    execution = services.executions.submit(
        session, cell.source, author=call.author, notebook=path, cell=cell, **gate(call, path)
    )
    ask(call, [execution])
    await wait_for(call, [execution], wait - call.seconds)
    return await executed(execution, call.answers, index=index)


def _code_cell(notebook: NotebookNode, cell_index: int | None, cell_id: str | None) -> NotebookNode:
    index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id)
    cell: NotebookNode = notebook.cells[index]
    if cell.cell_type != "code":
        raise InvalidRequest(f"Cell {index} is a {cell.cell_type} cell; only code cells run.")
    return cell


async def execute_code(
    call: Call, code: str, notebook_path: str = "", kernel_id: str = "", timeout_seconds: Seconds | None = None
) -> Answer:
    """Run code in a notebook's kernel, or in the kernel `kernel_id`, without writing a cell."""
    check_size(call, code)
    services = call.services
    wait = call.answers.wait_seconds if timeout_seconds is None else timeout_seconds
    if kernel_id:
        if start := services.sessions.starts.get(kernel_id):
            await come_up(call, start, wait)
        session = call.kernel(kernel_id)
    else:
        session = await notebook_session(call, call.path(notebook_path), seconds=wait)
    execution = services.executions.submit(session, code, author=call.author, **gate(call, session.notebook))
    ask(call, [execution])
    await wait_for(call, [execution], wait - call.seconds)
    return await executed(execution, call.answers)


async def run_all_cells(
    call: Call,
    notebook_path: str = "",
    start: Annotated[int, Param(ge=0)] = 0,
    stop_on_error: bool = True,
    timeout_seconds: Seconds | None = None,
) -> Answer:
    """Run every code cell from `start` on, in order; after the first error the rest is not run.

    As for nbclient, cells tagged `skip-execution` are left out, and one tagged `raises-exception` may fail.
    """
    services = call.services
    path = call.path(notebook_path)
    notebook = await services.contents.read(path)
    if not _cells_to_run(notebook, start):
        return Answer(f"No code cells from index {start} on in {path}.", {"executions": []})
    wait = call.answers.wait_seconds if timeout_seconds is None else timeout_seconds
    session = await notebook_session(call, path, notebook, seconds=wait)
    # Read again, as in `execute_cell_with_progress`.
    notebook = await services.contents.read(path)
    cells = _cells_to_run(notebook, start)
    skipped = [index for index, cell in enumerate(notebook.cells) if index >= start and is_skipped(cell)]
    batch, gated = Batch(stop_on_error, allow_stdin=call.caller.answers_input), gate(call, path)
    executions = [
        services.executions.submit(
            session, cell.source, author=call.author, notebook=path, cell=cell, batch=batch, **gated
        )
        for _, cell in cells
    ]
    batch.places = {execution.id: index for execution, (index, _) in zip(executions, cells, strict=True)}
    ask(call, executions)
    if not executions:
        return Answer(f"No code cells from index {start} on in {path}.", {"executions": []})
    await wait_for(call, executions, wait - call.seconds)
    return await _run_answer(call, path, batch, executions, skipped)


def _cells_to_run(notebook: NotebookNode, start: int) -> list[tuple[int, NotebookNode]]:
    return [
        (index, cell)
        for index, cell in enumerate(notebook.cells)
        if index >= start and cell.cell_type == "code" and cell.source.strip() and not is_skipped(cell)
    ]


async def _run_answer(call: Call, path: str, batch: Batch, executions: list[Execution], skipped: list[int]) -> Answer:
    answers = call.answers
    indexes = [batch.places[execution.id] for execution in executions]
    counts: dict[str, int] = {}
    for execution in executions:
        counts[execution.status] = counts.get(execution.status, 0) + 1
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    allowed = [index for index, e in zip(indexes, executions, strict=True) if e.may_raise and e.status == "error"]
    answer = Answer(f"{path}: {summary}{_told_of('may fail', allowed)}{_told_of('skipped', skipped)}")
    last = executions[-1]
    budget = answers.max_chars - 500
    for index, execution in zip(indexes, executions, strict=True):
        if execution.status in ("waiting_approval", "queued", "aborted"):
            continue
        part = await executed(execution, answers, index=index, before=answer.images)
        room = max(300, budget // 2) if execution.status != "ok" else max(120, budget // 4)
        text = head_and_tail(part.text, room, f" {pages_of(execution.id)(0)} shows all of it …")
        if budget > len(text):
            answer.text += f"\n{text}"
            budget -= len(text)
            answer.images += part.images
    queued = [index for index, e in zip(indexes, executions, strict=True) if e.status == "queued"]
    aborted = [index for index, e in zip(indexes, executions, strict=True) if e.status == "aborted"]
    if queued:
        answer.text += f"\nqueued: {_some_cells(queued)}"
    if aborted:
        answer.text += f"\nnot run: {_some_cells(aborted)}{f'; {batch.failure()}' if batch.failed else ''}"
    answer.data = {
        "notebook_path": path,
        "run": batch.id,
        "status": counts,
        "execution_id": last.id,
        "executions": [
            {"cell_index": index, "execution_id": e.id, "status": e.status, "may_raise": e.may_raise}
            for index, e in zip(indexes, executions, strict=True)
        ],
        "kernel_epoch": last.kernel_epoch,
    }
    if last.waits_for:
        answer.text += f"\nNot run yet. {last.waits_for}"
    if not last.finished:
        answer.text += (
            f'\nStill running: get_execution(execution_id="{batch.id}", wait_seconds=45) waits and tells of every cell.'
        )
    return answer


def _told_of(what: str, indexes: list[int]) -> str:
    """Cells that a run treats otherwise, because of their tags."""
    if not indexes:
        return ""
    return f"; {what} by tag: {_some_cells(indexes)}"


def _some_cells(indexes: list[int]) -> str:
    return f"{', '.join(map(str, indexes[:20]))}{', …' if len(indexes) > 20 else ''}"


async def get_execution(
    call: Call,
    execution_id: str,
    wait_seconds: Seconds = 0,
    cursor: Annotated[int, Param(ge=0)] | None = None,
) -> Answer:
    """How an execution, or a run of many cells, stands. With `cursor` (0 first) an execution's whole text, paged."""
    services = call.services
    if batch := services.executions.batch(execution_id):
        executions = [e for e in map(services.executions.get, batch.places) if e is not None]
        if executions:
            await wait_for(call, executions, wait_seconds)
            return await _run_answer(call, executions[-1].notebook or "", batch, executions, [])
    execution = services.executions.get(execution_id)
    if execution is None:
        row = await services.journal.recall(execution_id)
        if row is None:
            raise NotFound(f"No execution {execution_id!r}.", hint="get_notebook_info shows what runs now.")
        outputs = await _readable(call, row)
        if cursor is not None:
            return await _page(call, execution_id, row.status, outputs, cursor, True)
        return await remembered(row, outputs, call.answers)
    await execution.wait(wait_seconds, _reporter(call))
    if cursor is not None:
        return await _page(call, execution_id, execution.status, execution.readable(), cursor, execution.finished)
    if execution.warnings.get("journal"):
        await services.executions.make_up()
    index = await _index_of(call, execution)
    return await executed(execution, call.answers, index=index)


async def _index_of(call: Call, execution: Execution) -> int | None:
    if execution.notebook is None or execution.cell_id is None:
        return None
    try:
        notebook = await call.services.contents.read(execution.notebook)
        return find_cell(notebook, cell_id=execution.cell_id)
    except NotFound:
        return None


async def _readable(call: Call, row: ExecutionRow) -> Sequence[Any]:
    """The outputs that the journal has, with what widgets among them showed last."""
    if row.notebook is None:
        return row.outputs or []
    try:
        return readable(row.outputs or [], models_in((await call.services.contents.read(row.notebook)).metadata))
    except JupyterMcpError:
        # The notebook is gone: then its widgets are only what their kernel said of them.
        return row.outputs or []


async def _page(
    call: Call, execution_id: str, status: str, outputs: Sequence[Any], cursor: int, finished: bool
) -> Answer:
    answer, following = await output_page(list(outputs), cursor, call.answers)
    text = answer.text
    data = {"execution_id": execution_id, "status": status, "next_cursor": following}
    if following is not None:
        tail = f"\n… cursor={following} goes on."
    elif finished:
        tail = "\n(end)"
    else:
        tail = f"\n(end so far; cursor={cursor + len(text)} goes on)"
        data["next_cursor"] = cursor + len(text)
    return Answer(f"{status}\n{text}{tail}", data, answer.images, [Link(output_uri(execution_id), execution_id)])


async def send_input(call: Call, execution_id: str, text: str) -> Answer:
    """Answer the `input()` or `getpass()` an execution waits in, then wait on as for an execution."""
    services = call.services
    execution = services.executions.get(execution_id)
    if execution is None:
        raise NotFound(f"No running execution {execution_id!r}.")
    await services.executions.send_input(execution, text)
    await wait_for(call, [execution], call.answers.wait_seconds)
    return await executed(execution, call.answers, index=await _index_of(call, execution))


# ---------------------------------------------------------------------- shared


async def notebook_session(
    call: Call, path: str, notebook: NotebookNode | None = None, *, seconds: float = 0.0
) -> Session:
    """The notebook's session, started on what `choose` says if there is none.

    Raises:
        KernelStarting: it was not up within the call's wait; the start goes on.
    """
    sessions = call.services.sessions
    found: Session | Start | None = sessions.starts.of(path) or await sessions.meet(path)
    if found is None:
        if not call.services.settings.start_new_runtime:
            raise NotFound(
                f"{path} has no kernel, and this server starts none by itself.",
                hint="start_kernel starts one; so does a person who opens the notebook in Jupyter.",
            )
        if notebook is None:
            notebook = await call.services.contents.read(path)
        choice = await choose(call, folder_of(path), notebook)
        found = sessions.of_notebook(path, choice.name, call.caller.environment, chosen=str(choice))
    if isinstance(found, Start):
        found = await come_up(call, found, seconds)
    require_alive(found)
    return call.other(found)


async def wait_for(call: Call, executions: Sequence[Execution], seconds: float) -> None:
    """Wait for the last of them (or an earlier one that asks for input), reporting progress.

    A caller that cancels interrupts what it started; one that merely goes away does not.
    """
    manager = call.services.executions
    report = _reporter(call)
    try:
        with anyio.move_on_after(seconds):
            for execution in executions:
                await execution.wait(seconds, report)
                if execution.input_request is not None:
                    return
    except anyio.get_cancelled_exc_class():
        if call.cancelled_by_caller():
            for execution in executions:
                manager.interrupt_soon(execution)
        raise


def _reporter(call: Call) -> Callable[[Execution], Awaitable[None]] | None:
    """Progress for the caller: the output since the last report."""
    if call.progress is None:
        return None
    sent: dict[str, int] = {}

    async def progress(execution: Execution) -> None:
        cursor = sent.get(execution.id, 0)
        text, following = slice_text(execution.outputs(), cursor, 2_000)
        sent[execution.id] = following if following is not None else cursor + len(text)
        await call.report(text or f"{execution.status} {execution.seconds:.0f}s")

    return progress
