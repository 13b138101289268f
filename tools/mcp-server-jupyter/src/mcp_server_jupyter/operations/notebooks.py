"""Operations on whole notebooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import InvalidRequest
from ..journal import LastRun
from ..notebooks import CellLine, find_cell, kernelspec_name, new_notebook, outline
from ..ports import Listing
from .call import Answer, Call, Param, Picture
from .interpreter import choose, folder_of, interpreter_line
from .kernels import unreachable
from .render import add_outputs, cell_data, cell_header, cell_outputs, numbered, output_page

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..execution.session import Session
    from ..execution.start import Start


async def list_notebooks(call: Call, path: str = "") -> Answer:
    """Every notebook below `path` (a folder relative to the root; absent, the root), with its kernel's state."""
    services = call.services
    found = await services.contents.list(path, recursive=True)
    entries = [e for e in found if e.kind == "notebook"]
    lines = [found.cut] if isinstance(found, Listing) and found.cut else []
    for entry in entries:
        session = services.sessions.find(entry.path)
        mark = f"  kernel {session.kernel.state}" if session else ""
        if start := services.sessions.starts.of(entry.path):
            mark = "  kernel starting" if start.goes_on else "  kernel failed to start"
        default = "  (default)" if entry.path == call.default_notebook else ""
        lines.append(f"{entry.path}  {_size(entry.size)}{mark}{default}")
    if not entries and not lines:
        return Answer("No notebooks yet. create_notebook makes one.", {"notebooks": []})
    text = numbered(lines, call.answers.max_chars, "give a path to see fewer.")
    return Answer(text, {"notebooks": [e.path for e in entries]})


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


async def create_notebook(call: Call, notebook_path: str, kernel_name: str = "") -> Answer:
    """Make an empty notebook for the kernelspec `kernel_name` (absent, the default one).

    An environment may be named instead, by its folder or its Python. The notebook then says `python3`, which every
    Jupyter program understands; where it would run on another one here, the answer says so.

    Raises:
        AlreadyExists: it is there already.
        InvalidRequest: no such kernelspec or environment.
    """
    services = call.services
    if not notebook_path.rpartition("/")[2].removesuffix(".ipynb").strip(". "):
        raise InvalidRequest("notebook_path names no file.", hint="Give a name, as analysis.ipynb.")
    name = kernel_name or services.settings.kernel_name
    specs = {spec.name: spec for spec in await services.kernels.specs()}
    spec = specs.get(name) or specs.get(f"{name.rstrip('/')}/bin/python")
    if spec is None and kernel_name:
        raise InvalidRequest(f"No kernelspec {kernel_name!r}.", hint=f"There are: {', '.join(specs) or 'none'}.")
    path = notebook_path if notebook_path.endswith(".ipynb") else f"{notebook_path}.ipynb"
    is_environment = spec is not None and spec.source == "environment"
    written = "python3" if is_environment else name
    notebook = new_notebook(written, spec.display_name if spec else None, spec.language if spec else "python")
    await services.contents.create(path, notebook)
    path = services.contents.resolve(path)
    answer = Answer(f"Created {path} for kernel {written}.", {"notebook_path": path, "kernel_name": written})
    if spec is not None and is_environment:
        choice = await choose(call, folder_of(path), notebook)
        if choice.name != spec.name:
            start = f"start_kernel(python={json.dumps(spec.name)}, notebook_path={json.dumps(path)})"
            answer.text += f"\nIts cells would run on {choice}. {start} runs them on {spec.name}."
        else:
            answer.text += f" It runs on {choice}."
    return answer


async def get_notebook_info(call: Call, notebook_path: str = "") -> Answer:
    """The outline: one line a cell (index, id, type, count, first line, output kinds, staleness) and the kernel."""
    services = call.services
    path = call.path(notebook_path)
    notebook = await services.contents.read(path)
    start = services.sessions.starts.of(path)
    session = services.sessions.find(path) if start else await services.sessions.meet(path)
    runs = services.journal.last_runs(path)
    spec = kernelspec_name(notebook) or services.settings.kernel_name
    cells = outline(notebook)
    head = f"{path}: {len(cells)} cells, {_format(notebook)}, kernelspec {spec}"
    lines = [_line(cell, runs.get(cell.id), session) for cell in cells]
    text = numbered(lines, call.answers.max_chars, "read_all_cells(start=..., limit=...) pages.")
    python = await interpreter_line(call, path, notebook, session) if start is None else start.chosen
    kernel = _start_line(start) if start else _kernel_line(call, session)
    return Answer(
        f"{head}\n{kernel}{f'; {python}' if python else ''}\n{text}",
        {
            "notebook_path": path,
            "cells": len(cells),
            "runs_on": python or None,
            "outline": [_facts(cell, runs.get(cell.id), session) for cell in cells],
            **_kernel_facts(session, start),
        },
    )


def _facts(cell: CellLine, run: LastRun | None, session: Session | None) -> dict[str, Any]:
    """A cell for a program that shows it: its hash, whether its outputs are stale, and who ran it last."""
    return {
        "cell_id": cell.id,
        "hash": cell.hash,
        "cell_type": cell.cell_type,
        "execution_count": cell.execution_count,
        "staleness": _staleness(cell, run, session) or None,
        "author": None if run is None else run.author,
    }


def _format(notebook: NotebookNode) -> str:
    was = notebook.get("orig_nbformat")
    return f"read-only: old format {was}" if was else f"nbformat {notebook.nbformat}.{notebook.nbformat_minor}"


def _kernel_facts(session: Session | None, start: Start | None) -> dict[str, Any]:
    if start is not None:
        state = "starting" if start.goes_on else "failed"
        stage = {"kernel_stage": start.about(), "kernel_since": start.since}
        return {"kernel_state": state, "kernel_id": start.id, "kernel_epoch": None, **stage}
    if session is None:
        return {"kernel_state": "none", "kernel_id": None, "kernel_epoch": None}
    return {"kernel_state": session.kernel.state, "kernel_id": session.id, "kernel_epoch": session.kernel.epoch}


def _start_line(start: Start) -> str:
    return f"kernel: {'starting' if start.goes_on else 'failed'} id={start.id} ({start.about()})"


def _kernel_line(call: Call, session: Session | None) -> str:
    if session is None:
        return "kernel: none running; executing a cell starts one"
    executions = call.services.executions
    running, queued = executions.running(session), executions.waiting(session)
    what = f", runs execution {running.id} of {running.author}" if running else ""
    waiting = f", {len(queued)} waiting" if queued else ""
    state = f"{session.kernel.state}{unreachable(session.kernel)}"
    return f"kernel: {state} id={session.id[:8]} epoch={session.kernel.epoch}{what}{waiting}"


def _line(cell: CellLine, run: LastRun | None, session: Session | None) -> str:
    kind = {"code": "c", "markdown": "m", "raw": "r"}.get(cell.cell_type, cell.cell_type)
    count = f"[{cell.execution_count if cell.execution_count is not None else ' '}]" if kind == "c" else ""
    outputs = f" ->{','.join(cell.output_kinds)}" if cell.output_kinds else ""
    more = f" +{cell.lines - 1}" if cell.lines > 1 else ""
    stale = _staleness(cell, run, session)
    first = cell.first_line if len(cell.first_line) <= 36 else cell.first_line[:35] + "…"
    return f"{cell.index} {cell.id} {kind}{count} {first}{more}{outputs}{f' !{stale}' if stale else ''}"


def _staleness(cell: CellLine, run: LastRun | None, session: Session | None) -> str:
    if cell.cell_type != "code" or run is None:
        return ""
    if run.source_hash is not None and run.source_hash != cell.hash:
        return "edited"
    if session is None or run.epoch != session.kernel.epoch or run.kernel_id != session.id:
        return "old kernel"
    return "" if run.status == "ok" else run.status


async def read_all_cells(
    call: Call,
    notebook_path: str = "",
    start: Annotated[int, Param(ge=0)] = 0,
    limit: Annotated[int, Param(ge=1)] = 100,
    include_outputs: bool = True,
) -> Answer:
    """Cells from `start` on, whole sources and bounded outputs, as many as fit one answer; it says where to go on."""
    services = call.services
    path = call.path(notebook_path)
    notebook = await services.contents.read(path)
    total = len(notebook.cells)
    if start and start >= total:
        raise InvalidRequest(f"start={start}, but {path} has {total} cells.", hint=f"Give 0 to {max(0, total - 1)}.")
    answer = Answer(f"{path}: {total} cells", {"notebook_path": path, "total": total})
    answers = call.answers
    position = start
    for position in range(start, min(total, start + limit)):
        part = await _render_cell(
            call, notebook, position, path, include_outputs, answers.max_chars // 4, answer.images
        )
        if len(answer.text) + len(part.text) > answers.max_chars and position > start:
            break
        answer.text += "\n" + part.text[: answers.max_chars]
        answer.images += part.images
    else:
        position = min(total, start + limit)
    answer.data["next_start"] = position if position < total else None
    if position < total:
        answer.text += f"\n… cells {position}-{total - 1} follow: read_all_cells(start={position})."
    return answer


async def read_cell(
    call: Call,
    notebook_path: str = "",
    cell_index: int | None = None,
    cell_id: str | None = None,
    include_outputs: bool = True,
    cursor: Annotated[int, Param(ge=0)] | None = None,
) -> Answer:
    """One cell: source, hash and bounded outputs, its images included. With `cursor` its outputs' whole text, paged."""
    services = call.services
    path = call.path(notebook_path)
    notebook = await services.contents.read(path)
    index = find_cell(notebook, cell_index=cell_index, cell_id=cell_id)
    if cursor is not None:
        return await _page(call, notebook, index, path, cursor)
    answer = await _render_cell(call, notebook, index, path, include_outputs, call.answers.max_chars)
    answer.data["source"] = notebook.cells[index].source
    return answer


async def _page(call: Call, notebook: NotebookNode, index: int, path: str, cursor: int) -> Answer:
    cell = notebook.cells[index]
    outputs = cell_outputs(call, notebook, path, cell)
    answer, following = await output_page(outputs, cursor, call.answers)
    answer.text += "\n(end)" if following is None else f"\n… {_pages_of(path, cell['id'])(following)} goes on."
    answer.data = {**cell_data(index, cell), "next_cursor": following}
    return answer


def _pages_of(path: str, cell_id: str) -> Callable[[int], str]:
    where = f"notebook_path={json.dumps(path, ensure_ascii=False)}, cell_id={json.dumps(cell_id, ensure_ascii=False)}"
    return lambda cursor: f"read_cell({where}, cursor={cursor})"


async def _render_cell(
    call: Call,
    notebook: NotebookNode,
    index: int,
    path: str,
    include_outputs: bool,
    budget: int,
    before: Sequence[Picture] = (),
) -> Answer:
    answers = call.answers
    cell = notebook.cells[index]
    source = cell.source
    if len(source) > answers.max_chars:
        kept = source.rfind("\n", answers.max_chars // 2, answers.max_chars)
        kept = answers.max_chars if kept < 0 else kept
        source = f"{source[:kept]}\n… {len(cell.source) - kept} more characters of source in {path}"
    answer = Answer(f"{cell_header(index, cell)}\n{source}", cell_data(index, cell))
    if include_outputs and cell.get("outputs"):
        answer.text += "\n--- outputs"
        outputs = cell_outputs(call, notebook, path, cell)
        await add_outputs(answer, outputs, answers, _pages_of(path, cell["id"]), budget, before)
    return answer
