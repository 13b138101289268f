"""Executions when nothing comes for long. The kernel is the memory one."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from mcp_server_jupyter.execution.execution import PROGRESS_SECONDS, Execution
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_silent_cell_is_reported_on_by_the_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    options = {"root": tmp_path / "root", "state_dir": tmp_path / "state", "kernels": "memory", "notebook": "a.ipynb"}
    reports: list[str] = []

    async def note(execution: Execution) -> None:
        reports.append(execution.status)

    async with open_services(Settings.load(options, {})) as services:
        arguments = {"code": "while True: pass", "timeout_seconds": 0.05}
        answer = await invoke(services, "execute_code", arguments, caller=Caller("tester"))
        execution = services.executions.get(answer.data["execution_id"])
        assert execution is not None
        await execution.wait(2.5, note, heartbeat=0.1)
        assert len(reports) >= 3
        await invoke(services, "interrupt_kernel", {}, caller=Caller("tester"))


def test_the_heartbeat_comes_at_least_every_fifteen_seconds() -> None:
    default = inspect.signature(Execution.wait).parameters["heartbeat"].default
    assert 0 < default + PROGRESS_SECONDS <= 15
