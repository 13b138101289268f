"""Operations on kernels."""

from __future__ import annotations

from ..errors import InvalidRequest, JupyterMcpError
from ..execution.session import Session, describe, require_alive
from .call import Answer, Call

STOP_SECONDS = 5.0


def find_session(call: Call, notebook_path: str, kernel_id: str) -> Session:
    """The session a caller means, by kernel or by notebook."""
    if kernel_id:
        return call.kernel(kernel_id)
    path = call.path(notebook_path)
    sessions = call.services.sessions
    session = sessions.find(path)
    if session is None:
        _, news = sessions.news(path)
        last = f" The last one {news.cause}: its variables are gone." if news is not None and news.cause else ""
        raise InvalidRequest(f"{path} has no kernel.{last}", hint="Executing a cell or start_kernel starts one.")
    return session


async def interrupt_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """Interrupt the running cell (KeyboardInterrupt) and drop the queued ones. Variables stay."""
    session = find_session(call, notebook_path, kernel_id)
    require_alive(session)
    executions = call.services.executions
    running = executions.running(session)
    dropped = await executions.interrupt_session(session)
    if running is not None:
        await executions.wait_finished(running, STOP_SECONDS)
    stopped = running is None or running.finished
    text = "Nothing was running." if running is None else f"Interrupted execution {running.id}."
    if dropped:
        text += f" {dropped} queued execution(s) were dropped."
    if not stopped:
        text += " It has not stopped yet: code that ignores interrupts needs restart_kernel."
    return Answer(
        text,
        {"kernel_id": session.id, "kernel_epoch": session.kernel.epoch, "stopped": stopped, "dropped": dropped},
    )


async def restart_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """Start the kernel's process anew. All variables are lost; the answer names the cells that had run."""
    services = call.services
    session = find_session(call, notebook_path, kernel_id)
    cells = await _ran(call, session)
    await _stop_work(call, session)
    await services.sessions.restart(session, by=call.author)
    text = f"Restarted kernel {session.id}: epoch {session.kernel.epoch}, all variables are gone."
    if cells:
        text += f" To rebuild, run again cells {', '.join(map(str, cells))} (run_all_cells runs all)."
    return Answer(text, {"kernel_id": session.id, "kernel_epoch": session.kernel.epoch, "cells_to_rerun": cells})


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
        kernel = session.kernel
        stats = await kernel.stats()
        memory = f"{stats.memory_bytes / 1e6:.0f} MB" if stats.memory_bytes is not None else "-"
        death = f" (it {describe(session.death)})" if session.death else ""
        state = "dead" if session.death else kernel.state
        queued = call.services.executions.waiting(session)
        waiting = f" +{len(queued)} queued" if queued else ""
        lines.append(
            f"{session.id} {kernel.name} {state}{death}{waiting} {memory} epoch={kernel.epoch} "
            f"{session.notebook or '(no notebook)'}"
        )
        kernels.append(
            {
                "kernel_id": session.id,
                "name": kernel.name,
                "state": state,
                "memory_bytes": stats.memory_bytes,
                "kernel_epoch": kernel.epoch,
                "notebook_path": session.notebook,
            }
        )
    specs = await call.services.kernels.specs()
    lines.append("Kernelspecs:" if lines else "No kernel runs. Kernelspecs:")
    lines += [f"  {spec.name}: {spec.display_name} ({spec.language})" for spec in specs]
    return Answer("\n".join(lines), {"kernels": kernels, "kernelspecs": [spec.name for spec in specs]})


async def start_kernel(
    call: Call, kernel_name: str = "", python: str = "", cwd: str = "", notebook_path: str = ""
) -> Answer:
    """Start a kernel by kernelspec or by the path of a Python that has ipykernel; with a notebook, for it.

    Raises:
        AlreadyExists: the notebook has a living kernel.
    """
    services = call.services
    if kernel_name and python:
        raise InvalidRequest("Give kernel_name or python, not both.")
    path = call.path(notebook_path) if notebook_path else None
    if path is not None:
        await services.contents.read(path)
    session = await services.sessions.start(
        python or kernel_name or None, cwd=cwd, notebook=path, env=call.caller.environment
    )
    kernel = session.kernel
    return Answer(
        f"Started kernel {session.id} ({kernel.name}), epoch {kernel.epoch}{f', for {path}' if path else ''}.",
        {"kernel_id": session.id, "name": kernel.name, "kernel_epoch": kernel.epoch, "notebook_path": path},
    )


async def shutdown_kernel(call: Call, notebook_path: str = "", kernel_id: str = "") -> Answer:
    """End a kernel. Its variables are lost; the notebook stays."""
    session = find_session(call, notebook_path, kernel_id)
    await _stop_work(call, session)
    await call.services.sessions.shutdown(session, by=call.author)
    return Answer(f"Shut down kernel {session.id}.", {"kernel_id": session.id})
