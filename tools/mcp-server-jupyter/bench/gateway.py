"""The gateway against what else runs whole notebooks: nbclient and papermill, each in a process that is warm."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil  # type: ignore[import-untyped]

from . import notebooks
from .server import COMMAND

if TYPE_CHECKING:
    from .scenarios import Plan, Samples

SMALL_RUNS = 20
_OTHERS = """
import sys, time, warnings
warnings.simplefilter("ignore")
import nbclient, nbformat, papermill
for line in sys.stdin:
    how, source, target, times = line.split()
    started = time.perf_counter()
    for number in range(int(times)):
        if how == "nbclient":
            notebook = nbformat.read(source, 4)
            nbclient.NotebookClient(notebook, kernel_name="python3").execute()
            nbformat.write(notebook, target)
        else:
            papermill.execute_notebook(source, target, {"run": number}, kernel_name="python3", progress_bar=False)
    print("took", time.perf_counter() - started, flush=True)
"""


class Gateway:
    """A gateway of its own, and a client of it."""

    def __init__(self, process: psutil.Process, client: httpx2.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def run(self, notebook: Any) -> float:
        started = time.perf_counter()
        answer = await self.client.post("/run", json={"notebook": notebook, "parameters": {"run": 1}})
        answer.raise_for_status()
        return time.perf_counter() - started

    async def accept(self, notebook: Any) -> str:
        answer = await self.client.post("/run", json=notebook, headers={"prefer": "respond-async"})
        answer.raise_for_status()
        return str(answer.json()["run_id"])

    async def until_ended(self, count: int) -> float:
        """Seconds until so many runs have ended well."""
        started = time.perf_counter()
        while True:
            counts = (await self.client.get("/metrics")).json()["runs"]
            if not counts["queued"] and not counts["running"]:
                break
            await asyncio.sleep(0.05)
        if counts["finished"] != {"done": count}:
            raise RuntimeError(f"Of {count} runs: {counts['finished']}")
        return time.perf_counter() - started

    @property
    def memory(self) -> float:
        return float(self.process.memory_info().rss)


@asynccontextmanager
async def gateway(folder: Path, *options: str) -> AsyncIterator[Gateway]:
    """The command, until the end of the context."""
    given = ["gateway", "--no-auth", "--gateway-port=0", "--rate-limit=0", f"--state-dir={folder}", *options]
    log = folder / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(COMMAND, *given, stdout=file, stderr=file, cwd=folder)
    try:
        while not (found := re.search(r"Address +(\S+)", log.read_text())):
            if process.returncode is not None:
                raise RuntimeError(log.read_text()[-500:])
            await asyncio.sleep(0.05)
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=found[1], timeout=600, limits=limits, trust_env=False) as client:
            yield Gateway(psutil.Process(process.pid), client)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class Others:
    """nbclient and papermill, imported once."""

    def __init__(self, process: asyncio.subprocess.Process, source: Path, log: Path) -> None:
        self._process = process
        self._source = source
        self._log = log

    async def run(self, how: str, times: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = f"{how} {self._source} {self._source.with_suffix('.out.ipynb')} {times}\n"
        self._process.stdin.write(line.encode())
        while answer := await self._process.stdout.readline():
            if answer.startswith(b"took "):
                return float(answer.split()[1])
        raise RuntimeError(f"{how} has ended: {self._log.read_text()[-500:]}")


@asynccontextmanager
async def others(folder: Path, notebook: Any) -> AsyncIterator[Others]:
    """Their process, until the end of the context."""
    source = notebooks.write(folder / "others.ipynb", notebook)
    pipe, log = asyncio.subprocess.PIPE, folder / "others.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _OTHERS, stdin=pipe, stdout=pipe, stderr=file
        )
    try:
        yield Others(process, source, log)
    finally:
        process.kill()
        await process.wait()


async def runs(folder: Path, plan: Plan) -> Samples:
    """One run beside nbclient's, twenty beside papermill's, fifty at once, and a queue of a thousand."""
    small = notebooks.small()
    for name in ("gateway", "queue"):
        os.makedirs(folder / name)
    samples: Samples = {"run": {"gateway": [], "nbclient": []}, "runs": {"gateway": [], "papermill": []}}
    async with gateway(folder / "gateway") as ours, others(folder, small) as theirs:
        await ours.run(small)
        await theirs.run("nbclient", 1)
        for _ in range(plan.few):
            await plan.quiet()
            samples["run"]["nbclient"].append(await theirs.run("nbclient", 1))
            await plan.quiet()
            samples["run"]["gateway"].append(await ours.run(small))
        for _ in range(max(1, plan.few // 4)):
            await plan.quiet()
            samples["runs"]["papermill"].append(await theirs.run("papermill", SMALL_RUNS))
            await plan.quiet()
            started = time.perf_counter()
            await asyncio.gather(*(ours.run(small) for _ in range(SMALL_RUNS)))
            samples["runs"]["gateway"].append(time.perf_counter() - started)
        before = ours.memory
        await asyncio.gather(*(ours.run(small) for _ in range(plan.kernels)))
        middle = ours.memory
        await asyncio.gather(*(ours.run(small) for _ in range(plan.kernels)))
        samples["runs memory"] = {"before": [before], "after": [middle], "after as many again": [ours.memory]}
    return {**samples, **await _queue(folder, plan.queued)}


async def _queue(folder: Path, count: int) -> Samples:
    small = notebooks.small(3)
    async with gateway(folder / "queue", "--kernels=memory", f"--queue={count}") as ours:
        before = ours.memory
        started = time.perf_counter()
        ids = [await ours.accept(small) for _ in range(count)]
        accepted = time.perf_counter() - started
        looks: list[float] = []

        async def look() -> None:
            for number in range(10**9):
                begun = time.perf_counter()
                (await ours.client.get(f"/runs/{ids[number * 7 % count]}")).raise_for_status()
                looks.append(time.perf_counter() - begun)
                await asyncio.sleep(0.02)

        looking = asyncio.create_task(look())
        await ours.until_ended(count)
        total = time.perf_counter() - started
        looking.cancel()
        return {
            "queue": {"count": [float(count)], "accepted": [accepted], "total": [total], "looks": looks},
            "queue memory": {"before": [before], "after": [ours.memory]},
        }
