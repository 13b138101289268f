"""A kernel that cannot be reached is not dead: what it runs is kept, and answers say since when."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends.memory.kernels import MemoryKernel, MemoryKernels
from mcp_server_jupyter.operations import Answers, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.ports import Replay

pytestmark = pytest.mark.anyio

SHORT = Answers(8_000, 4, 1_000_000, 0.05)


class Far(MemoryKernels):
    """Kernels that outlive the server's services, and can be out of reach for the next one's."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.reached = anyio.Event()

    async def __aexit__(self, *exc: object) -> None:
        """They are left."""

    async def adopt(self) -> list[MemoryKernel]:
        for kernel in self._kernels.values():
            kernel.unreachable_since = time.time() - 30
            kernel.resume = self._resume(kernel)  # type: ignore[method-assign]
        return list(self._kernels.values())

    def _resume(self, kernel: MemoryKernel) -> Any:
        async def resume(msg_id: str, had: Any = ()) -> Replay:
            await self.reached.wait()
            kernel.unreachable_since = None
            return await MemoryKernel.resume(kernel, msg_id)

        return resume

    def go_on(self) -> None:
        """Let the cell end that waits for it."""
        for kernel in self._kernels.values():
            kernel._interpreter._namespace["go"].append(1)

    def end(self) -> None:
        for kernel in self._kernels.values():
            kernel.die()


async def test_recovery_gives_up_nothing_of_a_kernel_out_of_reach(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, keep_kernels=True)
    kernels = Far(settings)
    async with open_desk(settings, kernels=kernels) as desk:
        answer = await desk.call("append_execute_code_cell", cell_source="print('begun')\nsleep(0.3)\n6 * 7")
        assert answer.data["status"] == "ok"
        running = await _left_running(desk)
    with anyio.fail_after(60):
        async with open_desk(settings, kernels=kernels) as desk:
            told = await desk.call("get_execution", execution_id=running, wait_seconds=0)
            listed = await desk.call("list_kernels")
            info = await desk.call("get_notebook_info")
            assert told.data["status"] == "running"
            assert told.data["unreachable_since"] == pytest.approx(time.time() - 30, abs=8)
            assert "! The kernel cannot be reached, since 3" in told.text
            assert ", not reachable since 3" in listed.text
            assert ", not reachable since 3" in info.text
            kernels.go_on()
            kernels.reached.set()
            done = await desk.call("get_execution", execution_id=running, wait_seconds=45)
            assert done.data["status"] == "ok"
            assert "cannot be reached" not in done.text
            assert "unreachable_since" not in done.data
    kernels.end()


async def _left_running(desk: Desk) -> str:
    await desk.call("execute_code", code="go = []")
    arguments = {"code": "while not go: sleep(0.01)\nprint('the end')", "timeout_seconds": 0}
    return str((await desk.call("execute_code", **arguments)).data["execution_id"])


async def test_a_restart_that_takes_longer_than_its_call_goes_on_and_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = anyio.Event(), []
    restart = MemoryKernel.restart

    async def slowly(kernel: MemoryKernel) -> None:
        begun.append(kernel)
        await go.wait()
        await restart(kernel)

    monkeypatch.setattr(MemoryKernel, "restart", slowly)
    async with open_desk(settings_of(tmp_path)) as desk:
        await desk.call("append_execute_code_cell", cell_source="x = 1")
        for _ in range(2):
            answer = await invoke(desk.services, "restart_kernel", {}, caller=Caller("tester", SHORT))
            assert ": all variables are gone. The same call joins this restart" in answer.text
            assert (answer.data["state"], answer.data["cells_to_rerun"]) == ("restarting", [0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: desk.call("append_execute_code_cell", cell_source="y = 2"))
            await anyio.wait_all_tasks_blocked()
            go.set()
        assert len(begun) == 1
        answer = await desk.call("execute_code", code="y")
        assert (answer.data["status"], answer.data["kernel_epoch"]) == ("ok", 2)
