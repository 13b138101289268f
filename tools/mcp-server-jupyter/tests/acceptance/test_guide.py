"""The integration guide's client as it is written there, and its nine tools through every door."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from http_app import COMMAND, clean_environment
from mcp_server_jupyter.settings import Settings
from support import Server, eventually

NINE = [
    "get_notebook_info",
    "read_all_cells",
    "read_cell",
    "append_execute_code_cell",
    "insert_execute_code_cell",
    "execute_cell_with_progress",
    "append_markdown_cell",
    "overwrite_cell_source",
    "delete_cell",
]
DOORS = ["stdio auto", "stdio legacy", "http auto", "http legacy", "plain"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As the guide starts it, with authentication off on purpose."""
    server = Server(tmp_path_factory.mktemp("guide"), "--no-auth").start()
    yield server
    assert server.stop() == 0


class PlainClient:
    """The guide's `JupyterMCPClient`: one POST, nothing but a Content-Type."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.client = httpx2.AsyncClient(timeout=60)

    async def call_tool(self, tool_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        params = {"name": tool_name, "arguments": arguments}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        response = await self.client.post(f"{self.base_url}/mcp", json=call)
        assert response.status_code == 200
        answer: dict[str, Any] = response.json()
        return answer


class Guide:
    """What the guide's user does, over one door."""

    def __init__(self, client: Client | PlainClient) -> None:
        self._client = client

    async def call(self, name: str, /, **arguments: Any) -> str:
        result: Any = await self._client.call_tool(name, arguments)
        if isinstance(result, dict):
            assert not result["result"].get("isError"), result
            return str(result["result"]["content"][0]["text"])
        assert not result.is_error, result
        return str(result.content[0].text)

    async def tools(self) -> set[str]:
        if isinstance(self._client, Client):
            return {tool.name for tool in (await self._client.list_tools()).tools}
        response = await self._client.client.post(f"{self._client.base_url}/mcp", json={"method": "tools/list"})
        return {tool["name"] for tool in response.json()["result"]["tools"]}


@asynccontextmanager
async def open_door(name: str, server: Server, folder: Path) -> AsyncIterator[Guide]:
    kind, _, mode = name.partition(" ")
    if kind == "plain":
        plain = PlainClient(server.address)
        async with plain.client:
            yield Guide(plain)
    elif kind == "http":
        async with Client(streamable_http_client(f"{server.address}/mcp"), mode=mode) as client:
            yield Guide(client)
    else:
        arguments = [*COMMAND[1:], f"--root={folder}", f"--state-dir={folder / '.state'}"]
        parameters = StdioServerParameters(command=COMMAND[0], args=arguments, env=clean_environment())
        async with Client(parameters, mode=mode) as client:
            yield Guide(client)


@pytest.mark.parametrize("door", DOORS)
async def test_the_nine_tools_of_the_guide_work_through_every_door(door: str, server: Server, tmp_path: Path) -> None:
    path = f"{door.replace(' ', '-')}.ipynb"
    async with open_door(door, server, tmp_path) as guide:
        assert set(NINE) <= await guide.tools()
        await guide.call("create_notebook", notebook_path=path)
        at: dict[str, Any] = {"notebook_path": path}
        assert "Hello from MCP!" in await guide.call(
            "append_execute_code_cell", cell_source="print('Hello from MCP!')", **at
        )
        await guide.call("append_markdown_cell", cell_source="# Findings", **at)
        assert "first" in await guide.call("insert_execute_code_cell", cell_index=0, cell_source="print('first')", **at)
        assert "3 cells" in (await guide.call("get_notebook_info", **at)).lower()
        everything = await guide.call("read_all_cells", **at)
        assert everything.index("first") < everything.index("Hello from MCP!") < everything.index("# Findings")
        await guide.call("overwrite_cell_source", cell_index=1, cell_source="print(6 * 7)", **at)
        assert "42" in await guide.call("execute_cell_with_progress", cell_index=1, timeout_seconds=30, **at)
        assert "print(6 * 7)" in await guide.call("read_cell", cell_index=1, **at)
        await guide.call("delete_cell", cell_index=0, **at)
        assert "'first'" not in await guide.call("read_all_cells", **at)


async def test_the_guides_client_works_after_its_connect_call(server: Server) -> None:
    config = {
        "provider": "jupyter",
        "room_url": server.address,
        "room_id": "data_analysis.ipynb",
        "room_token": "MY_TOKEN",
        "runtime_url": server.address,
        "runtime_id": None,
        "runtime_token": "MY_TOKEN",
    }
    async with httpx2.AsyncClient() as http:
        connected = await http.put(f"{server.address}/api/connect", json=config)
        assert connected.status_code == 200, connected.text
        health = (await http.get(f"{server.address}/api/healthz")).json()
    assert health["status"] == "healthy"
    plain = PlainClient(server.address)
    async with plain.client:
        guide = Guide(plain)
        assert "data_analysis.ipynb" in await guide.call("get_notebook_info")
        assert "Hello from MCP!" in await guide.call("append_execute_code_cell", cell_source="print('Hello from MCP!')")
    eventually(lambda: "Hello from MCP!" in (server.root / "data_analysis.ipynb").read_text(), 60, "the cell on disk")


async def test_the_guides_system_prompts_are_prompts(server: Server) -> None:
    async with Client(streamable_http_client(f"{server.address}/mcp")) as client:
        prompts = (await client.list_prompts()).prompts
        texts = [str(await client.get_prompt(prompt.name)) for prompt in prompts]
    assert len(prompts) >= 4
    for tool in ("get_notebook_info", "execute_cell_with_progress"):
        assert any(tool in text for text in texts)


def test_the_environment_names_of_the_guide_start_the_server(tmp_path: Path) -> None:
    environment = {
        **clean_environment(),
        "TRANSPORT": "streamable-http",
        "PROVIDER": "jupyter",
        "PORT": "0",
        "ROOM_ID": "analysis.ipynb",
        "JUPYTER_TOKEN": "your-secure-token",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    (tmp_path / "root").mkdir()
    state = tmp_path / "state" / "mcp-server-jupyter"
    record = Settings.load({"root": tmp_path / "root", "state_dir": state}, {}).root_state / "server.json"
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(COMMAND, cwd=tmp_path / "root", env=environment, **quiet) as process:
        try:
            url = eventually(lambda: record.exists() and json.loads(record.read_text())["url"], what="the start")
            call = {"method": "tools/call", "params": {"name": "get_notebook_info", "arguments": {}}}
            headers = {"authorization": "Bearer your-secure-token"}
            answer = httpx2.post(url, json=call, headers=headers, timeout=60)
            assert "analysis.ipynb" in answer.text
        finally:
            process.terminate()
            assert process.wait(60) == 0
