"""What windows are told, as JSON has it: docs/editor-protocol.md lists every field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ...execution.execution import Execution
from ...execution.session import Session, describe
from ...execution.start import Start
from ...outputs import OutputOp
from ...services import Services

API = 1
"""The number of the protocol."""

KERNEL_EVENTS = {
    "kernel.started": "started",
    "kernel.restarted": "restarted",
    "kernel.bound": "bound",
    "kernel.died": "died",
    "kernel.stopped": "stopped",
}


def state(services: Services, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Everything a window knows at first."""
    return {
        "server": {
            "api": API,
            "version": __version__,
            "root": str(services.settings.root),
            "detached": services.retire is not None,
        },
        "kernels": [
            *(kernel(session, names) for session in services.sessions.all()),
            *(starting(start, names) for start in services.sessions.starts.all() if start.goes_on),
        ],
        "executions": [execution.event() for execution in services.executions.active()],
        "approvals": [approval.data() for approval in services.agents.waiting()],
        "agents": services.agents.data(),
        "leases": [{"path": path, "owner": owner} for path, owner in services.editors.leases().items()],
    }


def kernel(session: Session, names: Mapping[str, tuple[str, str]], change: str | None = None) -> dict[str, Any]:
    """A Kernel. `names` are the display names and languages of kernelspecs."""
    own = session.kernel
    death = session.death
    display_name, language = names.get(own.name, (own.name, own.language))
    found = {
        "kernel_id": session.id,
        "name": own.name,
        "display_name": display_name,
        "language": own.language or language,
        "state": "dead" if death else own.state,
        "kernel_epoch": own.epoch,
        "notebooks": list(session.notebooks),
        "death": describe(death) if death else None,
    }
    return found if change is None else {**found, "change": change}


def starting(start: Start, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """A Kernel that is not there yet, under the id of its start."""
    display_name, language = names.get(start.kernel_name, (start.kernel_name, ""))
    return {
        "kernel_id": start.id,
        "name": start.kernel_name,
        "display_name": display_name,
        "language": language,
        "state": "starting",
        "kernel_epoch": start.epoch,
        "notebooks": [start.notebook] if start.notebook is not None else [],
        "death": None,
        "stage": start.about(),
    }


def stopped_kernel(kernel_id: str) -> dict[str, Any]:
    """A Kernel that was shut down."""
    return {
        "kernel_id": kernel_id,
        "name": "",
        "display_name": "",
        "language": "",
        "state": "gone",
        "kernel_epoch": 0,
        "notebooks": [],
        "death": None,
        "change": "stopped",
    }


def output(execution: Execution, ops: Sequence[OutputOp]) -> dict[str, Any]:
    """What became of an execution's outputs."""
    return {
        "execution_id": execution.id,
        "notebook": execution.notebook,
        "cell_id": execution.cell_id,
        "seq": execution.seq,
        "ops": [op.data() for op in ops],
    }
