"""Our server beside a Jupyter and inside one: each with a Jupyter of its own, started as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from . import notebooks
from .server import Server, log_of, stdio

_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Jupyter:
    """One that serves. `url` ends with a slash."""

    url: str
    token: str
    folder: Path
    pid: int


@asynccontextmanager
async def jupyter(folder: Path, *, with_extension: bool) -> AsyncIterator[Jupyter]:
    """A Jupyter server over the folder's `root`, with our extension or with none."""
    root, own = folder / "root", folder / "jupyter"
    root.mkdir(parents=True)
    notebooks.write(root / "small.ipynb", notebooks.small())
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "MCP_JUPYTER_STATE_DIR": str(own / "state"),
    }
    extensions = {"mcp_server_jupyter": True} if with_extension else {}
    command = [
        *(sys.executable, "-m", "jupyter_server"),
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.jpserver_extensions={json.dumps(extensions).replace('true', 'True')}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port_retries=200",
        "--ServerApp.open_browser=False",
        "--ServerApp.allow_root=True",
    ]
    with log_of(folder, "jupyter") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Jupyter(await _address(process, own / "runtime"), token, root, process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _address(process: asyncio.subprocess.Process, runtime: Path) -> str:
    """Where it serves: it writes that down, with the port that it has found."""
    file = runtime / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.returncode is None:
        try:
            return str(json.loads(file.read_text())["url"])
        except (FileNotFoundError, ValueError):
            await asyncio.sleep(0.05)
    raise RuntimeError("Jupyter did not start.")


@asynccontextmanager
async def beside(folder: Path) -> AsyncIterator[Server]:
    """Our server on stdio with `--jupyter-url`: kernels over WebSockets, notebooks over REST."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(jupyter(folder, with_extension=False))
        given = {"jupyter_url": served.url, "jupyter_token": served.token}
        server = await stack.enter_async_context(stdio(folder / "ours", name="beside a Jupyter", settings=given))
        yield server


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Server]:
    """The extension: MCP at Jupyter's own address, kernels at their own sockets."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(jupyter(folder, with_extension=True))
        headers = {"Authorization": f"token {served.token}"}
        web: Any = await stack.enter_async_context(
            httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(_START_SECONDS, read=600))
        )
        transport = streamable_http_client(f"{served.url}api/mcp", http_client=web)
        client = await stack.enter_async_context(Client(transport))
        await client.list_tools()
        yield Server("inside a Jupyter", served.folder, client, served.pid)
