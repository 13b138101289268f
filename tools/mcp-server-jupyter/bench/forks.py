"""Kernels that are forked, beside plain ones: their start, their memory, many at once."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import zmq
from jupyter_client.connect import KernelConnectionInfo, write_connection_file
from jupyter_client.session import Session

from . import notebooks
from .quiet import Quiet
from .server import Server, stdio

DATA = "import pandas, matplotlib.pyplot\nprint(pandas.DataFrame({'a': [1]}).a.sum())"
PRELOAD = "pandas,matplotlib.pyplot"

Samples = dict[str, dict[str, list[float]]]


async def measure(folder: Path, rounds: int, at_once: int, quiet: Quiet) -> Samples:
    """Call to first result, in turn with `python -m ipykernel_launcher`; memory; many notebooks at once."""
    samples: Samples = {"fork": {"plain": [], "forked": []}, "fork with data": {"plain": [], "forked": []}}
    for name, code, more in (("fork", "1+1", ()), ("fork with data", DATA, ("--preload", PRELOAD))):
        async with _forking(folder / name.replace(" ", "-"), more) as server:
            for number in range(rounds):
                await quiet()
                samples[name]["plain"].append(await plain(server.folder, code))
                path = _notebook(server, f"{number}.ipynb")
                await quiet()
                samples[name]["forked"].append((await server.execute(path, code)).seconds)
                _require_forked(await server.kernel_pid(path))
                await server.call("shutdown_kernel", notebook_path=path)
    samples["fork warm"] = await _warm(folder / "warm", rounds, quiet)
    async with _forking(folder / "forks", ()) as server:
        paths = [_notebook(server, f"{number}.ipynb") for number in range(at_once)]
        await quiet()
        started = time.perf_counter()
        await asyncio.gather(*(server.execute(path, "1+1") for path in paths))
        samples["fork at once"] = {"seconds": [time.perf_counter() - started], "wanted": [float(at_once)]}
        pids = [await server.kernel_pid(path) for path in paths[:10]]
        # With their recorders, and with the process that all of them come from.
        family = {*pids, *(psutil.Process(pid).ppid() for pid in pids), _require_forked(pids[0])}
        forked = sum(map(_pss, family))
    samples["fork memory"] = {"forked": [forked], "plain": [await _plain_memory(folder, len(pids))]}
    return samples


async def _warm(folder: Path, rounds: int, quiet: Quiet) -> dict[str, list[float]]:
    """A kernel that waits: until it is somebody's, and until its first result, in turn with a plain one."""
    found: dict[str, list[float]] = {"plain": [], "first result": [], "start": []}
    async with _forking(folder, ("--warm-kernels", "1")) as server:
        for number in range(rounds):
            await quiet()
            found["plain"].append(await plain(server.folder, "1+1"))
            path = _notebook(server, f"{number}.ipynb")
            await _until_warm(server)
            await quiet()
            found["first result"].append((await server.execute(path, "1+1")).seconds)
            await _until_warm(server)
            await quiet()
            found["start"].append((await server.call("start_kernel")).seconds)
            for session in re.findall(r"^(\S+) python3 ", (await server.call("list_kernels")).text, re.MULTILINE):
                await server.call("shutdown_kernel", kernel_id=session)
    return found


async def _until_warm(server: Server) -> None:
    deadline = time.monotonic() + 60
    while "kept warm" not in (await server.call("list_kernels")).text:
        if time.monotonic() > deadline:
            raise TimeoutError("No kernel is kept warm.")
        await asyncio.sleep(0.05)


async def plain(folder: Path, code: str) -> float:
    """Seconds from the start of a plain ipykernel to its first result."""
    started = time.perf_counter()
    async with _plain_kernel(folder, code):
        return time.perf_counter() - started


@asynccontextmanager
async def _plain_kernel(folder: Path, code: str) -> AsyncIterator[int]:
    with tempfile.TemporaryDirectory(prefix="plain-") as place:
        file, info = write_connection_file(f"{place}/connection.json", ip=f"{place}/k", transport="ipc")
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", file]
        silent = subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=silent, stderr=silent)
        try:
            await asyncio.to_thread(_first_result, info, code)
            yield process.pid
        finally:
            process.kill()
            await process.wait()


def _first_result(info: KernelConnectionInfo, code: str) -> None:
    """Send code at once, which waits in the socket for the kernel, and wait for its reply."""
    key = info["key"]
    session = Session(key=key.encode() if isinstance(key, str) else key)
    with zmq.Context() as context, context.socket(zmq.DEALER) as shell:
        shell.linger = 0
        shell.reconnect_ivl = 3
        shell.connect(f"ipc://{info['ip']}-{info['shell_port']}")
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        session.send(shell, "execute_request", content)
        if not shell.poll(120_000):
            raise TimeoutError("A plain kernel did not answer.")


async def _plain_memory(folder: Path, count: int) -> float:
    async with AsyncExitStack() as stack:
        pids = [await stack.enter_async_context(_plain_kernel(folder, "1+1")) for _ in range(count)]
        return sum(map(_pss, pids))


@asynccontextmanager
async def _forking(folder: Path, more: Sequence[str]) -> AsyncIterator[Server]:
    """A server whose next kernels are forked."""
    os.makedirs(folder, exist_ok=True)
    async with stdio(folder, more=["--fork-kernels", *more]) as server:
        deadline = time.monotonic() + 60
        while True:
            path = _notebook(server, "first.ipynb")
            forked = _fork_server(await server.kernel_pid(path)) is not None
            await server.call("shutdown_kernel", notebook_path=path)
            if forked:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("No kernel is forked.")
        yield server


def _notebook(server: Server, name: str) -> str:
    notebooks.write(server.folder / name, notebooks.small())
    return name


def _require_forked(kernel: int) -> int:
    found = _fork_server(kernel)
    if found is None:
        raise RuntimeError("The kernel was spawned.")
    return found


def _fork_server(kernel: int) -> int | None:
    """The process that a kernel's recorder was forked from."""
    parent = psutil.Process(kernel).parent().parent()
    return parent.pid if parent is not None and any("forkserver.py" in each for each in parent.cmdline()) else None


def _pss(pid: int) -> float:
    """Bytes of a process, pages that it shares counted by their share. Source: proc(5), smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) * 1024
    raise OSError(os.strerror(2))
