"""Several agents at once, at random, with kernels killed, restarted and interrupted under them.

Every piece of code first leaves a mark of its own in a file and prints it: so it is known what ran, and how often, and
whether an answer and a cell show the output of their own code.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter.errors import JupyterMcpError
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from support import outputs_text

pytestmark = [pytest.mark.anyio, pytest.mark.long]

# What each agent must have seen to its end by the answer to the call that began it.
ENDED = 5
SOURCES = [
    "1 + 1",
    "print('out', flush=True)",
    "1 / 0",
    "import time; time.sleep(0.3)",
    "for i in range(2000): print(i)",
    "import os; os._exit(3)",
    "from IPython.display import display, clear_output; display('x'); clear_output(wait=True); display(MARK)",
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


@dataclass(frozen=True)
class Ran:
    """One piece of code that an agent had run, and how that was answered."""

    mark: str
    path: str
    status: str
    text: str
    cell_id: str | None


class Agent:
    """Does one thing after the other in any of the notebooks; only known errors may come back."""

    def __init__(self, services: Services, name: str, seed: int) -> None:
        self.services, self.name, self.random = services, name, random.Random(seed)
        self.ran: list[Ran] = []
        self.refused: list[str] = []
        self.deleted: set[str] = set()

    async def call(self, operation: str, **arguments: Any) -> Answer | None:
        """The answer; None for an error of ours, which is noted."""
        try:
            with anyio.fail_after(60):
                return await invoke(self.services, operation, arguments, caller=Caller(self.name))
        except JupyterMcpError as error:
            self.refused.append(f"{operation}: {error}")
            return None

    async def run(self, operation: str, path: str, argument: str, **more: Any) -> None:
        mark = f"{self.name.replace(' ', '-')}-{len(self.ran)}-{self.random.randrange(10**9)}"
        code = f"print({mark!r}, file=open('ran.txt', 'a'))\nprint({mark!r}, flush=True)\n"
        code += self.random.choice(SOURCES).replace("MARK", repr(mark))
        answer = await self.call(operation, notebook_path=path, **{argument: code}, **more)
        if answer is None:
            self.ran.append(Ran(mark, path, "refused", self.refused[-1], None))
            return
        self.ran.append(Ran(mark, path, answer.data["status"], answer.text, answer.data.get("cell_id")))

    async def step(self, path: str) -> None:
        choose = self.random.random()
        if choose < 0.5:
            await self.run("append_execute_code_cell", path, "cell_source")
        elif choose < 0.65:
            await self.run("execute_code", path, "code", timeout_seconds=0.1)
        elif choose < 0.72:
            await self.call("interrupt_kernel", notebook_path=path)
        elif choose < 0.80:
            await self.call("restart_kernel", notebook_path=path)
        elif choose < 0.84:
            await self.call("shutdown_kernel", notebook_path=path)
        elif choose < 0.88:
            answer = await self.call("delete_cell", cell_index=0, notebook_path=path)
            self.deleted |= {answer.data["cell_id"]} if answer else set()
        elif choose < 0.92:
            await self.call("list_variables", notebook_path=path)
        elif choose < 0.96:
            await self.call("get_notebook_info", notebook_path=path)
        else:
            await self.call(self.random.choice(["run_all_cells", "undo"]), notebook_path="again.ipynb")
            await self.call("append_execute_code_cell", cell_source="1 + 1", notebook_path="again.ipynb")


async def test_whatever_happens_code_runs_once_and_its_output_is_its_own(services: Services) -> None:
    paths = ["a.ipynb", "b.ipynb"]
    agents = [Agent(services, f"agent {number}", number) for number in range(3)]
    for path in [*paths, "again.ipynb"]:
        await agents[0].call("create_notebook", notebook_path=path)

    async def work(agent: Agent) -> None:
        steps = 0
        # On a busy machine more of the calls are answered before their code has ended: then it takes more of them.
        while steps < 60 or sum(ran.status == "ok" for ran in agent.ran) < ENDED:
            await agent.step(agent.random.choice(paths))
            steps += 1

    async with anyio.create_task_group() as killer:
        killer.start_soon(_kill_kernels, services, random.Random(99))
        with anyio.fail_after(250):
            async with anyio.create_task_group() as tasks:
                for agent in agents:
                    tasks.start_soon(work, agent)
        killer.cancel_scope.cancel()

    for session in services.sessions.all():
        await services.executions.interrupt_session(session)
    with anyio.fail_after(60):
        await services.drain(50)
    assert services.executions.active() == ()
    assert services.journal.unfinished() == []
    await services.contents.flush()
    _check(services.settings.root, agents, paths)


async def _kill_kernels(services: Services, chance: random.Random) -> None:
    while True:
        await anyio.sleep(chance.uniform(0.5, 1.5))
        for session in services.sessions.all():
            pid = (await session.kernel.stats()).pid
            if pid is not None and chance.random() < 0.3:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _check(root: Path, agents: list[Agent], paths: list[str]) -> None:
    """What was answered, what ran and what the files show must be one story."""
    times = Counter((root / "ran.txt").read_text().split())
    everything = [ran for agent in agents for ran in agent.ran]
    assert len(everything) > 60
    assert sum(ran.status == "ok" for ran in everything) >= ENDED * len(agents)
    assert set(times) <= {ran.mark for ran in everything}
    deleted = set().union(*(agent.deleted for agent in agents))
    for ran in everything:
        assert times[ran.mark] <= 1, ran
        if ran.status in ("refused", "aborted"):
            assert times[ran.mark] == 0, ran
        if ran.status in ("ok", "error"):
            assert times[ran.mark] == 1, ran
            assert ran.mark in ran.text, ran
        assert not any(other.mark in ran.text for other in everything if other is not ran and ran.status == "ok"), ran
    for path in paths:
        stored = json.loads((root / path).read_text())
        cells = {cell["id"]: cell for cell in stored["cells"]}
        assert len(cells) == len(stored["cells"])
        for ran in everything:
            if ran.path != path or ran.cell_id is None or ran.cell_id in deleted:
                continue
            cell = cells[ran.cell_id]
            assert ran.mark in "".join(cell["source"])
            if ran.status in ("ok", "error"):
                assert ran.mark in outputs_text(cell), ran
