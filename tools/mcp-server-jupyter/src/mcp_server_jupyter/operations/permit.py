"""Whether an agent may do what it asks for: its person decides (`execution.agents`), and nobody else is asked about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from ..errors import JupyterMcpError, NotAllowed
from ..execution.edit import Edit
from ..execution.execution import Execution
from .call import Call, Operation


def permit(call: Call, operation: Operation, arguments: Mapping[str, Any]) -> None:
    """Refuse an operation that changes or runs something while the agent may not.

    Raises:
        NotAllowed
    """
    if call.caller.is_agent and not operation.read_only:
        require(call, _notebook(call, arguments), runs=operation.open_world)


def require(call: Call, notebook: str | None, *, runs: bool) -> None:
    """The same for a notebook, or for a kernel that has none.

    Raises:
        NotAllowed
    """
    if not call.caller.is_agent:
        return
    call.services.agents.require(notebook, runs=runs)
    if runs and notebook is not None and not call.services.editors.is_shared(notebook):
        raise NotAllowed(
            f"The person who has {notebook} open runs it on a kernel of their own, which is not shared.",
            hint="Edit cells and ask the person to run them, or to choose the shared kernel (Share This Notebook).",
        )


@asynccontextmanager
async def editing(call: Call, path: str) -> AsyncIterator[Edit]:
    """`Services.edit` for this caller. Asked again once its turn has come: meanwhile a person may have paused agents.

    Raises:
        NotAllowed
    """
    async with call.services.edit(path, call.author) as edit:
        require(call, path, runs=False)
        yield edit


class Gate(TypedDict):
    """What a run is submitted with: whose it is, and whether it waits for an approval."""

    by_agent: bool
    hold: bool


def gate(call: Call, notebook: str | None) -> Gate:
    """What a run of this caller is submitted with. Asked at that very moment: starting a kernel takes long enough for
    a person to change their mind.

    Raises:
        NotAllowed
    """
    if not call.caller.is_agent:
        return {"by_agent": False, "hold": False}
    require(call, notebook, runs=True)
    return {"by_agent": True, "hold": call.services.agents.must_ask(call.author, notebook)}


def ask(call: Call, executions: Sequence[Execution]) -> None:
    """Ask the person about what was held back."""
    held = [execution for execution in executions if execution.status == "waiting_approval"]
    if held:
        call.services.agents.ask(held, is_anybody_here=call.services.editors.is_anybody_here)


def _notebook(call: Call, arguments: Mapping[str, Any]) -> str | None:
    """The notebook an operation is about; None where it is about none, or about one that the operation will refuse."""
    services = call.services
    try:
        if execution := services.executions.get(arguments.get("execution_id") or ""):
            return execution.notebook or execution.home
        if kernel_id := arguments.get("kernel_id"):
            return services.sessions.get(kernel_id).notebook
        return services.path(arguments.get("notebook_path") or call.caller.notebook)
    except JupyterMcpError:
        return None
