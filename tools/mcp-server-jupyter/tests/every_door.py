"""Every door behind one face, so that one suite walks through all operations by each of them."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anyio.from_thread import BlockingPortal, start_blocking_portal

from support import Refused, Server


@dataclass
class Result:
    """An answer, whatever the door made of it."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    is_error: bool = False


class Door(Protocol):
    """One way in. `root` is the folder the server works in."""

    root: Path

    def call(self, operation: str, /, **arguments: Any) -> Result: ...


class InProcess:
    """The operations themselves, without a door."""

    def __init__(self, root: Path, portal: BlockingPortal, services: Any) -> None:
        self.root, self._portal, self._services = root, portal, services

    def call(self, operation: str, /, **arguments: Any) -> Result:
        from mcp_server_jupyter.errors import JupyterMcpError
        from mcp_server_jupyter.operations import Caller
        from mcp_server_jupyter.operations.bind import invoke

        async def run() -> Any:
            return await invoke(self._services, operation, arguments, caller=Caller("tester"))

        try:
            answer = self._portal.call(run)
        except JupyterMcpError as error:
            return Result(str(error), is_error=True)
        return Result(answer.text, answer.data, len(answer.images), answer.is_error)


class Mcp:
    """The official client."""

    def __init__(self, root: Path, portal: BlockingPortal, client: Any) -> None:
        self.root, self._portal, self.client = root, portal, client

    def call(self, operation: str, /, **arguments: Any) -> Result:
        return _of_mcp(self._portal.call(self.client.call_tool, operation, arguments))


def _of_mcp(result: Any) -> Result:
    text = "\n".join(block.text for block in result.content if block.type == "text")
    images = sum(block.type == "image" for block in result.content)
    return Result(text, result.structured_content or {}, images, bool(result.is_error))


class Rest:
    """`POST /api/operations/{name}`."""

    def __init__(self, server: Server) -> None:
        self.root, self._server = server.root, server

    def call(self, operation: str, /, **arguments: Any) -> Result:
        try:
            answer = self._server.call(operation, **arguments)
        except Refused as error:
            body = json.loads(str(error))
            return Result(f"{body['message']} {body.get('hint') or ''}\n{body.get('diff') or ''}", is_error=True)
        return Result(answer["text"], answer["data"], len(answer.get("images", ())), answer["is_error"])


class BarePost:
    """One JSON-RPC call in one POST, with no session and no handshake."""

    def __init__(self, server: Server) -> None:
        self.root, self._server = server.root, server

    def call(self, operation: str, /, **arguments: Any) -> Result:
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": operation, "arguments": arguments},
        }
        request = urllib.request.Request(
            f"{self._server.address}/mcp",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer secret-token"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            result = json.load(response)["result"]
        text = "\n".join(block["text"] for block in result["content"] if block["type"] == "text")
        images = sum(block["type"] == "image" for block in result["content"])
        return Result(text, result.get("structuredContent", {}), images, bool(result.get("isError")))


@asynccontextmanager
async def _services(folder: Path) -> AsyncIterator[Any]:
    from mcp_server_jupyter.services import open_services
    from mcp_server_jupyter.settings import Settings

    root = folder / "root"
    root.mkdir()
    async with open_services(Settings.load({"root": root, "state_dir": folder / "state"}, {})) as services:
        yield services


@asynccontextmanager
async def http_client(server: Server, mode: str, **options: Any) -> AsyncIterator[Any]:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": "Bearer secret-token"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{server.address}/mcp", http_client=http), mode=mode, **options) as client,
    ):
        yield client


@asynccontextmanager
async def stdio_client(folder: Path, mode: str, **options: Any) -> AsyncIterator[Any]:
    from mcp import Client, StdioServerParameters

    (folder / "root").mkdir()
    arguments = ["-m", "mcp_server_jupyter", f"--root={folder / 'root'}", f"--state-dir={folder / 'state'}"]
    arguments.append("--linger-minutes=0")
    async with Client(StdioServerParameters(command=sys.executable, args=arguments), mode=mode, **options) as client:
        yield client


STDIO_DOORS = ("stdio modern", "stdio legacy")
HTTP_DOORS = ("http modern", "http legacy", "rest", "bare post")


@contextmanager
def in_process(folder: Path) -> Iterator[Door]:
    """The operations themselves."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_services(folder)) as services:
        yield InProcess(folder / "root", portal, services)


@contextmanager
def open_stdio_door(name: str, folder: Path) -> Iterator[Door]:
    """One of `STDIO_DOORS`, with a server of its own."""
    with start_blocking_portal() as portal:
        mode = "legacy" if name.endswith("legacy") else "auto"
        with portal.wrap_async_context_manager(stdio_client(folder, mode)) as client:
            yield Mcp(folder / "root", portal, client)


@contextmanager
def open_http_door(name: str, server: Server) -> Iterator[Door]:
    """One of `HTTP_DOORS` of a running server."""
    if name == "rest":
        yield Rest(server)
    elif name == "bare post":
        yield BarePost(server)
    else:
        mode = "legacy" if name.endswith("legacy") else "auto"
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(http_client(server, mode)) as client:
            yield Mcp(server.root, portal, client)
