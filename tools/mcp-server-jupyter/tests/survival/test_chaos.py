"""Several agents at once, at random, with kernels killed, restarted and interrupted under them."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter.errors import JupyterMcpError
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.long]

SOURCES = [
    "1 + 1",
    "print('out', flush=True)",
    "1 / 0",
    "import time; time.sleep(0.3)",
    "for i in range(2000): print(i)",
    "import os; os._exit(3)",
    "from IPython.display import display, clear_output; display('x'); clear_output(wait=True); display('y')",
    "input('name?')",
    "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
]


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    root = tmp_path / "root"
    root.mkdir()
    settings = Settings.load({"root": root, "state_dir": tmp_path / "state", "wait_seconds": 2}, {})
    async with open_services(settings) as services:
        yield services


class Agent:
    """Does one thing after the other in any of the notebooks; only known errors may come back."""

    def __init__(self, services: Services, name: str, seed: int) -> None:
        self.services, self.name, self.random = services, name, random.Random(seed)
        self.answers: list[str] = []

    async def call(self, operation: str, **arguments: Any) -> str:
        try:
            with anyio.fail_after(30):
                answer = await invoke(self.services, operation, arguments, caller=Caller(self.name))
        except JupyterMcpError as error:
            return str(error)
        return answer.text

    async def step(self, path: str) -> None:
        choose, source = self.random.random(), self.random.choice(SOURCES)
        if choose < 0.45:
            text = await self.call("append_execute_code_cell", cell_source=source, notebook_path=path)
        elif choose < 0.55:
            text = await self.call("execute_code", code=source, notebook_path=path, timeout_seconds=0.1)
        elif choose < 0.65:
            text = await self.call("run_all_cells", notebook_path=path, timeout_seconds=0.5)
        elif choose < 0.72:
            text = await self.call("interrupt_kernel", notebook_path=path)
        elif choose < 0.80:
            text = await self.call("restart_kernel", notebook_path=path)
        elif choose < 0.84:
            text = await self.call("shutdown_kernel", notebook_path=path)
        elif choose < 0.88:
            text = await self.call("delete_cell", cell_index=0, notebook_path=path)
        elif choose < 0.92:
            text = await self.call("undo", notebook_path=path)
        elif choose < 0.96:
            text = await self.call("list_variables", notebook_path=path)
        else:
            text = await self.call("get_notebook_info", notebook_path=path)
        self.answers.append(text)


async def test_nothing_hangs_and_nothing_unknown_comes_back(services: Services) -> None:
    paths = ["a.ipynb", "b.ipynb"]
    agents = [Agent(services, f"agent {number}", number) for number in range(3)]
    for path in paths:
        await agents[0].call("create_notebook", notebook_path=path)

    async def work(agent: Agent) -> None:
        for _ in range(60):
            await agent.step(agent.random.choice(paths))

    async def kill_kernels(chance: random.Random) -> None:
        while True:
            await anyio.sleep(chance.uniform(0.5, 1.5))
            for session in services.sessions.all():
                pid = (await session.kernel.stats()).pid
                if pid is not None and chance.random() < 0.3:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    async with anyio.create_task_group() as killer:
        killer.start_soon(kill_kernels, random.Random(99))
        with anyio.fail_after(100):
            async with anyio.create_task_group() as tasks:
                for agent in agents:
                    tasks.start_soon(work, agent)
        killer.cancel_scope.cancel()

    for session in services.sessions.all():
        await services.executions.interrupt_session(session)
    with anyio.fail_after(20):
        await services.drain(20)
    assert services.executions.active() == ()
    assert services.journal.unfinished() == []
    await services.contents.flush()
    for path in paths:
        stored = json.loads((services.settings.root / path).read_text())
        ids = [cell["id"] for cell in stored["cells"]]
        assert len(ids) == len(set(ids))
