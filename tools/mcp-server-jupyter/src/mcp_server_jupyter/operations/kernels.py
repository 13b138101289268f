"""Operations on kernels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequest, JupyterMcpError, KernelStarting
from ..execution.session import Session, describe, require_alive
from ..execution.start import Start
from ..ports import Environment, Interpreters, Kernel, KernelStats, Warmed
from .call import Answer, Call
from .interpreter import choose, folder_of

STOP_SECONDS = 5.0
SHOWN = 10


async def find_session(call: Call, notebook_path: str, kernel_id: str) -> Session:
    """The session a caller means, by kernel or by notebook.

    Raises:
        KernelStarting, KernelStartFailed: there is a start instead, which goes on or has failed.
    """
    if kernel_id:
        return call.kernel(kernel_id)
    path = call.path(notebook_path)
    sessions = call.services.sessions
    if start := sessions.starts.of(path):
        return start.require()
    session = await sessions.meet(path)
    if session is None:
        _, news = sessions.news(path)
        last = f" The last one {news.cause}: its variables are gone." if news is not None and news.cause else ""
        raise InvalidRequest(f"{path} has no kernel.{last}", hint="Executing a cell or start_kernel starts one.")
    return call.other(session)


async def interrupt_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """Interrupt the running cell (KeyboardInterrupt) and drop the queued ones. Variables stay."""
    session = await find_session(call, notebook_path, kernel_id)
    require_alive(session)
    executions = call.services.executions
    running = executions.running(session)
    is_foreign = session.kernel.foreign_since is not None
    dropped = await executions.interrupt_session(session)
    if running is not None:
        await running.wait_finished(STOP_SECONDS)
    stopped = running is None or running.finished
    text = "Nothing was running." if running is None else f"Interrupted execution {running.id}."
    if is_foreign:
        text = f"Interrupted code that somebody else ran in this kernel. {text if running else ''}".rstrip()
    if dropped:
        text += f" {dropped} queued execution(s) were dropped."
    if not stopped:
        text += " It has not stopped yet: code that ignores interrupts needs restart_kernel."
    return Answer(
        text,
        {"kernel_id": session.id, "kernel_epoch": session.kernel.epoch, "stopped": stopped, "dropped": dropped},
    )


async def restart_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """Start the kernel's process anew. All variables are lost; the answer names the cells that had run.

    A restart that takes longer than the call goes on; the same call joins it, and what is run meanwhile waits for it.
    """
    services = call.services
    session = await find_session(call, notebook_path, kernel_id)
    cells = await _ran(call, session)
    await _stop_work(call, session)
    restart = services.sessions.begin_restart(session, by=call.author)
    done = await restart.wait(call.answers.wait_seconds - call.seconds)
    text = f"Restarted kernel {session.id}: epoch {session.kernel.epoch}, all variables are gone."
    if not done:
        text = (
            f"Kernel {session.id} is restarting, since {time.monotonic() - restart.since:.0f} s"
            f"{unreachable(session.kernel)}: all variables are gone. The same call joins this restart; "
            "what is run meanwhile waits for it."
        )
    if cells:
        text += f" To rebuild, run again cells {', '.join(map(str, cells))} (run_all_cells runs all)."
    state = "idle" if done else "restarting"
    epoch = session.kernel.epoch
    return Answer(text, {"kernel_id": session.id, "state": state, "kernel_epoch": epoch, "cells_to_rerun": cells})


async def _stop_work(call: Call, session: Session) -> None:
    """Before the process ends: let what runs be told as interrupted, and what waits as not run."""
    executions = call.services.executions
    if executions.running(session) or executions.waiting(session):
        await executions.interrupt_session(session)


async def _ran(call: Call, session: Session) -> list[int]:
    """Indexes of the cells whose last successful run was in the epoch that ends; none if they cannot be read."""
    if session.notebook is None:
        return []
    try:
        notebook = await call.services.contents.read(session.notebook)
        runs = call.services.journal.last_runs(session.notebook)
    except JupyterMcpError:
        # Renamed or deleted: no reason not to restart.
        return []
    epoch = session.kernel.epoch
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if (run := runs.get(cell.get("id", ""))) is not None
        and run.kernel_id == session.id
        and run.epoch == epoch
        and run.status == "ok"
    ]


async def list_kernels(call: Call) -> Answer:
    """Running kernels (state, memory, notebook) and the kernelspecs that can be started."""
    lines, kernels = [], []
    for session in call.services.sessions.all():
        line, facts = await _listed(call, session)
        lines.append(line)
        kernels.append(facts)
    for start in call.services.sessions.starts.all():
        line, facts = _listed_start(start)
        lines.append(line)
        kernels.append(facts)
    waiting = call.services.kernels.waiting if isinstance(call.services.kernels, Warmed) else 0
    if waiting:
        lines.append(f"{waiting} more {'is' if waiting == 1 else 'are'} kept warm, for whoever starts the next.")
    specs = await call.services.kernels.specs()
    lines.append("Kernelspecs:" if kernels else "No kernel runs. Kernelspecs:")
    lines += [f"  {spec.name}: {spec.display_name} ({spec.language})" for spec in specs]
    environments = await _environments(call)
    lines += _unready(environments)
    names = {spec.name: spec.display_name for spec in specs}
    for each in kernels:
        each["display_name"] = names.get(each.get("name", ""), each.get("name"))
    data = {"kernels": kernels, "warm": waiting, "kernelspecs": list(names), "display_names": names}
    return Answer("\n".join(lines), {**data, "environments": [dataclasses.asdict(each) for each in environments]})


async def _environments(call: Call) -> Sequence[Environment]:
    kernels = call.services.kernels
    if not isinstance(kernels, Interpreters):
        return ()
    return await kernels.environments(environ=call.caller.environment)


def _unready(environments: Sequence[Environment]) -> list[str]:
    """Environments that no kernel can be started in, and what to do about it."""
    lines = []
    for each in environments:
        name = f"  {each.prefix} ({f'{each.kind}, Python {each.version}' if each.version else each.kind})"
        if each.problem:
            lines.append(f"{name} cannot be used: {each.problem}")
        elif not each.has_ipykernel:
            lines.append(f"{name} needs ipykernel: {each.adding_ipykernel}")
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"  … {len(lines) - SHOWN} more"]
    return ["Environments that run no kernel yet:", *lines] if lines else []


async def _listed(call: Call, session: Session) -> tuple[str, dict[str, Any]]:
    kernel = session.kernel
    stats = KernelStats() if kernel.unreachable_since is not None else await kernel.stats()
    memory = _megabytes(stats.memory_bytes) if stats.memory_bytes is not None else "-"
    if stats.limit_bytes is not None:
        memory += f" of {_megabytes(stats.limit_bytes)}"
    death = f" (it {describe(session.death)})" if session.death else ""
    state = "dead" if session.death else kernel.state
    queued = call.services.executions.waiting(session)
    waiting = f" +{len(queued)} queued" if queued else ""
    place = f" in {stats.where}" if stats.where else ""
    line = (
        f"{session.id} {kernel.name} {state}{death}{unreachable(kernel)}{waiting} {memory} epoch={kernel.epoch} "
        f"{session.notebook or '(no notebook)'}{place}"
    )
    return line, {
        "kernel_id": session.id,
        "name": kernel.name,
        "state": state,
        "memory_bytes": stats.memory_bytes,
        "limit_bytes": stats.limit_bytes,
        "where": stats.where,
        "unreachable_since": kernel.unreachable_since,
        "kernel_epoch": kernel.epoch,
        "notebook_path": session.notebook,
    }


def _listed_start(start: Start) -> tuple[str, dict[str, Any]]:
    state = "starting" if start.goes_on else "failed"
    line = f"{start.id} {start.kernel_name} {state} ({start.about()}) epoch={start.epoch} "
    return line + (start.notebook or "(no notebook)"), {
        "kernel_id": start.id,
        "name": start.kernel_name,
        "state": state,
        "stage": start.about(),
        "since": start.since,
        "kernel_epoch": start.epoch,
        "notebook_path": start.notebook,
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def unreachable(kernel: Kernel) -> str:
    """Since when a living kernel cannot be reached, to be put behind its state; nothing while it can."""
    since = kernel.unreachable_since
    return "" if since is None else f", not reachable since {max(0, time.time() - since):.0f} s"


async def start_kernel(
    call: Call, kernel_name: str = "", python: str = "", cwd: str = "", notebook_path: str = "", kernel_id: str = ""
) -> Answer:
    """Start a kernel by kernelspec or by the path of a Python that has ipykernel; with a notebook, for it.

    Named neither, it is the one that the notebook's cells, or the folder's, would start. It works in `cwd`, relative to
    the root; absent, in the notebook's folder. With `kernel_id` none is
    started: the notebook runs on that one, which other notebooks may use too. A start that takes longer than the call
    goes on; the answer says its stage, and the same call joins it.

    Raises:
        AlreadyExists: the notebook has a living kernel.
    """
    services = call.services
    if kernel_name and python:
        raise InvalidRequest("Give kernel_name or python, not both.")
    path = call.path(notebook_path) if notebook_path else None
    notebook = None if path is None else await services.contents.read(path)
    folder = cwd or ("" if path is None else folder_of(path))
    if kernel_id:
        if path is None or kernel_name or python or cwd:
            raise InvalidRequest("With kernel_id give notebook_path, and nothing else.")
        return await _attach(call, path, kernel_id)
    if path is not None:
        await services.sessions.meet(path)
    chosen = ""
    name = python or kernel_name
    present = None if path is None else services.sessions.starts.of(path) or services.sessions.find(path)
    if not name and isinstance(present, Start):
        name, chosen = present.kernel_name, present.chosen
    elif not name:
        choice = await choose(call, folder if path is None else folder_of(path), notebook)
        name, chosen = choice.name, str(choice)
    start = services.sessions.start(name, cwd=folder, notebook=path, env=call.caller.environment, chosen=chosen)
    try:
        session = await come_up(call, start)
    except KernelStarting as error:
        again = "the same call joins it" if path else f'execute_code(kernel_id="{start.id}") waits for it'
        return Answer(f"{error.message} It goes on: {again}, shutdown_kernel ends it.", _listed_start(start)[1])
    kernel = session.kernel
    call.kernel_id = session.id
    return Answer(
        f"Started kernel {session.id} ({kernel.name}), epoch {kernel.epoch}{f', for {path}' if path else ''}.",
        {
            "kernel_id": session.id,
            "name": kernel.name,
            "state": kernel.state,
            "kernel_epoch": kernel.epoch,
            "notebook_path": path,
        },
    )


async def _attach(call: Call, path: str, kernel_id: str) -> Answer:
    """Run a notebook on a kernel that is there."""
    session = await call.services.sessions.choose(path, kernel_id)
    kernel = session.kernel
    others = [each for each in session.notebooks if each != path]
    shared = f", as {', '.join(others)} does" if others else ""
    return Answer(
        f"{path} runs on kernel {session.id} ({kernel.name}), epoch {kernel.epoch}{shared}.",
        {
            "kernel_id": session.id,
            "name": kernel.name,
            "state": kernel.state,
            "kernel_epoch": kernel.epoch,
            "notebook_path": path,
        },
    )


async def shutdown_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """End a kernel, or its start. Its variables are lost; the notebook stays."""
    sessions = call.services.sessions
    start = sessions.starts.get(kernel_id) if kernel_id else sessions.starts.of(call.path(notebook_path))
    if start is not None:
        failed = start.error
        await sessions.starts.cancel(start, by=call.author)
        if failed is not None:
            return Answer(f"There was no kernel: its start had failed. {failed}", {"kernel_id": start.id})
        if start.session is None:
            return Answer(f"Cancelled the start of kernel {start.id}: nothing of it is left.", {"kernel_id": start.id})
    # A start that came up at this very moment is a kernel like any other.
    session = await find_session(call, notebook_path, kernel_id)
    await _stop_work(call, session)
    await sessions.shutdown(session, by=call.author)
    return Answer(f"Shut down kernel {session.id}.", {"kernel_id": session.id})


async def come_up(call: Call, start: Start, seconds: float = 0.0) -> Session:
    """Wait for a start as long as this call may: `seconds`, yet not less than what its client waits for an answer.

    Raises:
        KernelStarting, KernelStartFailed, NotFound, Unavailable
    """

    async def report(stage: str) -> None:
        await call.report(f"The kernel is starting: {stage}")

    patience = max(call.answers.wait_seconds, seconds) - call.seconds
    return await start.wait(patience, report if call.progress is not None else None)
