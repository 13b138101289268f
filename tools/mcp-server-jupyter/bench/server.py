"""Our server, started as a user starts it, driven by the official client."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TextIO

import httpx2
import psutil  # type: ignore[import-untyped]
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from mcp_server_jupyter.ownership import read_record, wait_until_free
from mcp_server_jupyter.settings import Settings

from .raw import Answer

COMMAND = shutil.which("mcp-server-jupyter", path=os.path.dirname(sys.executable)) or "mcp-server-jupyter"
TOKEN = "bench-token-of-this-run-only"


class Server:
    """A connection to our server. `folder` is its root, `pid` the server's process."""

    def __init__(self, name: str, folder: Path, client: Client, pid: int) -> None:
        self.name = name
        self.folder = folder
        self.pid = pid
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> Answer:
        started = time.perf_counter()
        result = await self._client.call_tool(tool, arguments, read_timeout_seconds=300)
        seconds = time.perf_counter() - started
        text = "\n".join(block.text for block in result.content if block.type == "text")
        images = sum(len(block.data) for block in result.content if block.type == "image")
        return Answer(seconds, text, len(text.encode()) + images, images, bool(result.is_error))

    async def execute(self, notebook: str, code: str) -> Answer:
        return await self.call("execute_code", notebook_path=notebook, code=code)

    async def insert_execute(self, notebook: str, code: str) -> Answer:
        return await self.call("insert_execute_code_cell", notebook_path=notebook, cell_index=5, cell_source=code)

    async def kernel_pid(self, notebook: str) -> int:
        answer = await self.execute(notebook, "import os; print('pid', os.getpid(), 'end')")
        return int(answer.text.split("pid ")[1].split(" end")[0])


@asynccontextmanager
async def stdio(
    folder: Path,
    *,
    mode: Literal["auto", "legacy"] = "auto",
    name: str = "stdio",
    more: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Server]:
    """A client of the root's server at the end of a pipe; the server ends with the last client that started it.

    `settings` are given as options.
    """
    options = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    with log_of(folder, name) as log:
        given = [*arguments(folder), *options, *more]
        parameters = StdioServerParameters(command=COMMAND, args=given, env=dict(os.environ))
        async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:
            await client.list_tools()
            record = read_record(_state(folder, settings).root_state)
            assert record is not None
            yield Server(name, folder, client, record.pid)


def wait_until_ended(folder: Path) -> None:
    """Return once the server of a root has ended."""
    if not wait_until_free(_state(folder), 30):
        raise TimeoutError(f"The server of {folder} does not end.")


def _state(folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Settings:
    return Settings.load({"root": folder, "state_dir": folder / ".state", **settings}, {})


@asynccontextmanager
async def http(folder: Path) -> AsyncIterator[Server]:
    """`serve` on a free port, with a token."""
    limits = ["--port", "0", "--token", TOKEN, "--rate-limit", "0"]
    with log_of(folder, "http") as log:
        command = [COMMAND, "serve", *arguments(folder), *limits]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=log)
        try:
            url = await asyncio.wait_for(_address(process), 60)
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with (
                httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=600)) as http_client,
                Client(streamable_http_client(url, http_client=http_client)) as client,
            ):
                await client.list_tools()
                yield Server("http", folder, client, process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def log_of(folder: Path, name: str) -> TextIO:
    """Where a process writes what it says; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return open(folder / f"{name.replace(' ', '-')}.log", "w")


def arguments(folder: Path) -> list[str]:
    place = ["--root", str(folder), "--state-dir", str(folder / ".state")]
    return [*place, "--log-level", "error", "--linger-minutes", "0"]


def peak_memory(pid: int) -> dict[str, int]:
    """Largest resident set in bytes of the server's process, and of all its other helpers that are not kernels."""
    peaks = {"server": _peak(pid), "helpers": 0}
    for child in psutil.Process(pid).children(recursive=True):
        if "ipykernel_launcher" not in " ".join(child.cmdline()):
            peaks["helpers"] += _peak(child.pid)
    return peaks


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        words = line.decode().split()
        if words[:1] == ["Address"]:
            return words[1]
    raise RuntimeError("The server ended before it said where it listens.")
