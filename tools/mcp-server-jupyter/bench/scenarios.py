"""The measurements. Each takes a folder and a `Plan`, and returns samples by figure and subject."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import forks, notebooks
from .beside import beside, inside
from .gateway import runs
from .pipe import Spawned, spawn
from .quiet import Quiet
from .raw import Answer, Raw, raw_kernel
from .server import Server, http, peak_memory, stdio, wait_until_ended
from .session import session

Subject = Raw | Server
Samples = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int = 40
    few: int = 10
    kernels: int = 50
    at_once: int = 20
    queued: int = 1000
    quiet: Quiet = field(default_factory=Quiet)


QUICK = Plan(rounds=5, few=2, kernels=8, at_once=5, queued=50, quiet=Quiet(0))


async def warm(folder: Path, plan: Plan) -> Samples:
    """`1+1` over every transport and era; insert and run in a small and in a large notebook; big outputs; sizes."""
    samples: Samples = {}
    async with AsyncExitStack() as stack:
        subjects: list[Subject] = [
            await stack.enter_async_context(raw_kernel(_folder(folder, "raw"))),
            await stack.enter_async_context(stdio(_folder(folder, "stdio"))),
            await stack.enter_async_context(stdio(_folder(folder, "legacy"), mode="legacy", name="stdio 2025")),
            await stack.enter_async_context(http(_folder(folder, "http"))),
            # The server in the client's own process, without a relay in between.
            await stack.enter_async_context(stdio(_folder(folder, "own"), name="embedded", more=["--embedded"])),
        ]
        row = [subject for subject in subjects if subject.name != "stdio 2025"]
        three = [subject for subject in subjects if subject.name in ("raw", "stdio", "http")]
        for subject in subjects:
            for name, notebook in (("small", notebooks.small()), ("outputs", notebooks.small())):
                notebooks.write(subject.folder / f"{name}.ipynb", notebook)
            notebooks.write(subject.folder / "large.ipynb", notebooks.large())
        samples["execute"] = await _turns(subjects, lambda s: s.execute("small.ipynb", "1+1"), plan.rounds, plan)
        samples["in a row"] = await _in_a_row(row, lambda s: s.execute("small.ipynb", "1+1"), plan)
        samples["insert"] = await _turns(three, lambda s: s.insert_execute("small.ipynb", "1+1"), plan.rounds, plan)
        samples["insert large"] = await _turns(three, lambda s: s.insert_execute("large.ipynb", "1+1"), plan.few, plan)
        samples["insert in a row"] = await _rows(
            {
                f"{subject.name} {size}": partial(subject.insert_execute, f"{size}.ipynb", "1+1")
                for subject in three
                if isinstance(subject, Server)
                for size in ("small", "large")
            },
            plan,
        )
        for name, code in (("lines", notebooks.LINES), ("picture", notebooks.PICTURE)):
            sizes: dict[str, list[float]] = {}

            async def shown(subject: Subject, code: str = code, sizes: dict[str, list[float]] = sizes) -> Answer:
                answer = await subject.execute("outputs.ipynb", code)
                sizes.setdefault(subject.name, []).append(answer.content_bytes)
                if isinstance(subject, Server) and "display" in code:
                    assert answer.image_bytes, "the picture did not arrive as an image"
                return answer

            samples[name] = await _turns(three, shown, plan.few, plan)
            samples[f"{name} bytes"] = sizes
        samples |= await _outline(three)
        samples["memory"] = {
            f"{subject.name} {part}": [float(size)]
            for subject in three
            if isinstance(subject, Server)
            for part, size in peak_memory(subject.pid).items()
        }
    return samples


async def jupyters(folder: Path, plan: Plan) -> Samples:
    """`1+1`, and insert and run, where the kernels are a Jupyter's: beside it, and in its process."""
    samples: Samples = {}
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(raw_kernel(_folder(folder, "raw-beside")))
        notebooks.write(raw.folder / "small.ipynb", notebooks.small())
        subjects: list[Subject] = [
            raw,
            await stack.enter_async_context(beside(_folder(folder, "beside"))),
            await stack.enter_async_context(inside(_folder(folder, "inside"))),
        ]
        samples["execute at a Jupyter"] = await _turns(
            subjects, lambda s: s.execute("small.ipynb", "1+1"), plan.rounds, plan
        )
        samples["in a row at a Jupyter"] = await _in_a_row(subjects, lambda s: s.execute("small.ipynb", "1+1"), plan)
        samples["insert at a Jupyter"] = await _turns(
            subjects, lambda s: s.insert_execute("small.ipynb", "1+1"), plan.few, plan
        )
    return samples


async def _turns(
    subjects: list[Subject], act: Callable[[Subject], Awaitable[Answer]], rounds: int, plan: Plan
) -> dict[str, list[float]]:
    """Everyone acts once a round, in a new random order; the first two rounds only warm up."""
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for number in range(rounds + 2):
        for subject in random.sample(subjects, len(subjects)):
            await plan.quiet()
            answer = await act(subject)
            if answer.is_error:
                raise RuntimeError(f"{subject.name}: {answer.text[:500]}")
            if number >= 2:
                seconds[subject.name].append(answer.seconds)
    return seconds


async def _in_a_row(
    subjects: list[Subject], act: Callable[[Subject], Awaitable[Answer]], plan: Plan
) -> dict[str, list[float]]:
    return await _rows({subject.name: partial(act, subject) for subject in subjects}, plan)


async def _rows(acts: Mapping[str, Callable[[], Awaitable[Answer]]], plan: Plan) -> dict[str, list[float]]:
    """Each is done 25 times without a pause, in a new random order every round; the first five only warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(plan.few):
        for name in random.sample(list(acts), len(acts)):
            await plan.quiet()
            answers = [await acts[name]() for _ in range(25)]
            seconds[name] += [answer.seconds for answer in answers[5:]]
    return seconds


async def _outline(subjects: list[Subject]) -> Samples:
    sizes: dict[str, list[float]] = {}
    for subject in subjects:
        if isinstance(subject, Server):
            notebooks.write(subject.folder / "fifty.ipynb", notebooks.realistic())
            answer = await subject.call("get_notebook_info", notebook_path="fifty.ipynb")
            sizes[subject.name] = [answer.content_bytes]
    return {"outline bytes": sizes}


async def cold(folder: Path, plan: Plan) -> Samples:
    """From the start of the process to `tools/list` and to the first result of a new kernel."""
    root = _folder(folder, "spawn")
    notebooks.write(root / "small.ipynb", notebooks.small())
    runs: dict[str, list[Spawned]] = {"stdio": [], "attached": []}
    raw = []
    await spawn(root, "small.ipynb")
    for _ in range(plan.few):
        for name, seen in runs.items():
            await asyncio.to_thread(wait_until_ended, root)
            async with AsyncExitStack() as stack:
                if name == "attached":
                    server = await stack.enter_async_context(stdio(root))
                    await server.execute("small.ipynb", "1+1")
                await plan.quiet()
                seen.append(await spawn(root, "small.ipynb"))
        await plan.quiet()
        started = time.perf_counter()
        async with raw_kernel(root) as kernel:
            await kernel.execute("", "1+1")
            raw.append(time.perf_counter() - started)
    tools = {name: [run.tools_seconds for run in seen] for name, seen in runs.items()}
    results = {name: [run.result_seconds for run in seen] for name, seen in runs.items()}
    return {
        "spawn to tools/list": tools,
        "spawn to result": {**results, "raw": raw},
        "tools/list bytes": {"stdio": [float(run.tools_bytes) for run in runs["stdio"]]},
    }


async def forked(folder: Path, plan: Plan) -> Samples:
    """Kernels that are forked, beside plain ones."""
    return await forks.measure(_folder(folder, "forked"), plan.few, plan.at_once, plan.quiet)


async def killed(folder: Path, plan: Plan) -> Samples:
    """A kernel of ours is killed while its cell runs: from the kill to the answer."""
    seconds = []
    async with stdio(_folder(folder, "killed")) as server:
        for number in range(plan.few):
            path = f"killed-{number}.ipynb"
            notebooks.write(server.folder / path, notebooks.small())
            pid = await server.kernel_pid(path)
            flag = server.folder / f"running-{number}"
            code = f"import time\nopen({str(flag)!r}, 'w').close()\ntime.sleep(60)"
            call = asyncio.create_task(server.execute(path, code))
            await asyncio.to_thread(_wait_for, flag)
            os.kill(pid, signal.SIGKILL)
            started = time.perf_counter()
            answer = await call
            seconds.append(time.perf_counter() - started)
            if not answer.is_error and "dead" not in answer.text.lower():
                raise RuntimeError(f"A killed kernel was not called dead: {answer.text[:300]}")
    return {"killed": {"stdio": seconds}}


async def many(folder: Path, plan: Plan) -> Samples:
    """Notebooks at once through one server: each gets its own cell, its own kernel and its own answer."""
    async with stdio(_folder(folder, "many")) as server:
        paths = [f"many-{number}.ipynb" for number in range(plan.at_once)]
        for path in paths:
            notebooks.write(server.folder / path, notebooks.small())
        codes = [f"import os; print('notebook', {number}, 'pid', os.getpid())" for number in range(plan.at_once)]
        started = time.perf_counter()
        answers = await asyncio.gather(*map(server.insert_execute, paths, codes))
        seconds = time.perf_counter() - started
        found = [re.search(r"notebook (\d+) pid (\d+)", answer.text) for answer in answers]
        right = sum(match is not None and int(match[1]) == number for number, match in enumerate(found))
        kernels = len({match[2] for match in found if match})
    placed = sum(map(_holds_once, [server.folder / path for path in paths], codes))
    return {
        "at once": {"seconds": [seconds], "wanted": [float(plan.at_once)]},
        "at once right": {"answers": [float(right)], "kernels": [float(kernels)], "cells": [float(placed)]},
    }


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"The cell did not start: no {file.name}.")
        time.sleep(0.02)


def _holds_once(path: Path, code: str) -> bool:
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_bytes())["cells"]]
    return sources.count(code) == 1 and sum("os.getpid" in source for source in sources) == 1


async def fleet(folder: Path, plan: Plan) -> Samples:
    """Many live kernels: all of them called in one burst, then one after another; and the same without a server."""
    samples: Samples = {}
    async with stdio(_folder(folder, "fleet")) as server:
        paths = [f"fleet-{number}.ipynb" for number in range(plan.kernels)]
        for path in paths:
            notebooks.write(server.folder / path, notebooks.small())

        async def call(path: str) -> float:
            answer = await server.execute(path, "1+1")
            if answer.is_error:
                raise RuntimeError(answer.text[:300])
            return answer.seconds

        samples["fleet"] = await _bursts([partial(call, path) for path in paths], plan, "stdio")
        samples["fleet memory"] = {part: [float(size)] for part, size in peak_memory(server.pid).items()}
    async with AsyncExitStack() as stack:
        root = _folder(folder, "fleet-raw")
        kernels = [await stack.enter_async_context(raw_kernel(root)) for _ in range(plan.kernels)]

        async def direct(kernel: Raw) -> float:
            return (await kernel.execute("", "1+1")).seconds

        samples["fleet"] |= await _bursts([partial(direct, kernel) for kernel in kernels], plan, "raw")
    return samples


async def _bursts(calls: list[Callable[[], Awaitable[float]]], plan: Plan, name: str) -> dict[str, list[float]]:
    for start in range(0, len(calls), 4):  # four kernels start at a time
        await asyncio.gather(*(call() for call in calls[start : start + 4]))
    single, turns, burst = [], [], []
    for _ in range(plan.few):
        await plan.quiet()
        single += [await calls[0]() for _ in range(10)]
        turns += [await call() for call in calls]
        burst += await asyncio.gather(*(call() for call in calls))
    return {f"{name} single": single, f"{name} in turn": turns, f"{name} burst": burst}


async def analysis(folder: Path, plan: Plan) -> Samples:
    """The scripted analysis; bytes, which do not depend on the machine."""
    return await session(_folder(folder, "session"))


SCENARIOS: Mapping[str, Callable[[Path, Plan], Awaitable[Samples]]] = {
    "warm": warm,
    "jupyter": jupyters,
    "spawn": cold,
    "forked": forked,
    "killed": killed,
    "many": many,
    "fleet": fleet,
    "session": analysis,
    "gateway": runs,
}


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
