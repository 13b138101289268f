"""Our extension in a learner's server: calls of the service are passed on to it, through the hub's real proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from websockets.sync.client import connect

from hub import SECONDS, Hub
from support import eventually

MODES = ("legacy", "auto")


@pytest.fixture
def dora(hub: Hub) -> Hub:
    """The hub while dora's server runs, which has our extension."""
    hub.run("dora")
    return hub


@asynccontextmanager
async def client_of(hub: Hub, user: str, mode: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"token {hub.token(user)}"}
    with anyio.fail_after(SECONDS):
        async with (
            httpx2.AsyncClient(headers=headers, timeout=SECONDS) as web,
            Client(streamable_http_client(f"{hub.service}/user/dora/mcp", http_client=web), mode=mode) as client,
        ):
            yield client


async def shown(client: Client, expected: str, tool: str, /, **arguments: Any) -> str:
    while True:
        result: Any = await client.call_tool(tool, arguments)
        text = "\n".join(part.text for part in result.content)
        if expected in text:
            return text
        await anyio.sleep(0.1)


def test_it_serves_below_the_hubs_prefix(dora: Hub) -> None:
    for prefix in ("api/mcp", "api/tk-ai/mcp"):
        status, told = dora.request("GET", f"{dora.url}/user/dora/{prefix}/health", token="")
        assert (status, told["service"]) == (200, "mcp-server-jupyter")


@pytest.mark.parametrize("mode", MODES)
async def test_progress_comes_through_while_the_cell_runs(dora: Hub, mode: str) -> None:
    home = dora.folder / "home" / "dora"
    files = [home / f"{mode}-{at}" for at in range(3)]
    # Each line waits until the one before it was heard: where anything is buffered on the way the cell never ends.
    source = "import pathlib, time\n" + "".join(
        f"print('line', {at}, flush=True)\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.05)\n"
        for at, file in enumerate(files)
    )
    heard: list[str] = []

    async def progress(_: float, __: float | None, message: str | None) -> None:
        heard.append(message or "")
        for at, file in enumerate(files):
            if f"line {at}" in (message or ""):
                file.touch()

    notebook = {"notebook_path": f"{mode}.ipynb"}
    async with client_of(dora, "prof", mode) as client:
        await client.call_tool("create_notebook", notebook)
        result: Any = await client.call_tool(
            "append_execute_code_cell", {**notebook, "cell_source": source}, progress_callback=progress
        )
        while "line 2" not in result.content[0].text:
            # It answers after its wait, whatever the cell does.
            done = {"execution_id": result.structured_content["execution_id"], "wait_seconds": 45}
            result = await client.call_tool("get_execution", done, progress_callback=progress)
    assert len(heard) >= 3
    # It is the extension that has worked: its journal is in the learner's home.
    assert list(home.rglob("journal.sqlite3"))


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_is_cancelled_is_cancelled_in_the_learners_server(dora: Hub, mode: str) -> None:
    begun = dora.folder / "home" / "dora" / f"begun-{mode}"
    source = (
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        "try:\n    while True: time.sleep(0.05)\nexcept KeyboardInterrupt:\n    print('stopped')"
    )
    notebook = {"notebook_path": f"cancelled-{mode}.ipynb"}
    async with client_of(dora, "dora", mode) as client:
        await client.call_tool("create_notebook", notebook)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "append_execute_code_cell", {**notebook, "cell_source": source})
            await anyio.to_thread.run_sync(eventually, begun.exists, SECONDS, "the cell's begin")
            tasks.cancel_scope.cancel()
        await shown(client, "stopped", "read_cell", **notebook, cell_index=-1)


def test_the_example_with_sql_runs_in_the_learners_image(dora: Hub) -> None:
    token = dora.token("dora")
    dora.call(token, "/mcp", "create_notebook", notebook_path="sql.ipynb")
    for source in ("%load_ext sql", "%sql sqlite:///maji_ndogo.db"):
        ran = dora.call(token, "/mcp", "append_execute_code_cell", notebook_path="sql.ipynb", cell_source=source)
        # What a kernel that has just started tells of itself comes below.
        assert " ok " in ran.splitlines()[0], ran
    make = "%%sql\nCREATE TABLE visits (place TEXT);\nINSERT INTO visits VALUES ('Akatsi'), ('Sokoto');"
    dora.call(token, "/mcp", "append_execute_code_cell", notebook_path="sql.ipynb", cell_source=make)
    select = "%sql SELECT * FROM visits LIMIT 10;"
    ran = dora.call(token, "/mcp", "append_execute_code_cell", notebook_path="sql.ipynb", cell_source=select)
    assert "Sokoto" in ran, ran


@pytest.mark.parametrize("user", ["ada", "dora"])
def test_a_terminal_is_read_with_and_without_the_extension(dora: Hub, user: str) -> None:
    """The learner types, as in a browser; the service reads. Nothing types for agents unless that is allowed."""
    dora.run(user)
    token, path = dora.token(user), f"/user/{user}/mcp"
    status, made = dora.request("POST", f"{dora.url}/user/{user}/api/terminals", {}, token)
    assert status == 200
    typed(dora, user, token, made["name"], "echo $((40+2))\r")
    staff = dora.token("prof")
    assert made["name"] in dora.call(staff, path, "list_terminals")

    def answered() -> bool:
        shown = dora.call(staff, path, "read_terminal", name=made["name"], lines=50)
        assert "\x1b" not in shown
        return "42" in shown.splitlines()

    eventually(answered, SECONDS, "the terminal's answer")
    names = {tool["name"] for tool in dora.mcp(staff, path, "tools/list")[1]["result"]["tools"]}
    assert {"list_terminals", "read_terminal"} <= names
    assert "run_in_terminal" not in names
    assert "--allow-terminal" in dora.call(staff, path, "run_in_terminal", command="true")


def typed(hub: Hub, user: str, token: str, name: str, text: str) -> None:
    """What a browser sends."""
    url = f"{hub.url}/user/{user}/terminals/websocket/{name}".replace("http:", "ws:")
    with connect(url, additional_headers={"Authorization": f"token {token}"}) as socket:
        socket.send(json.dumps(["stdin", text]))
        # It is taken before this is answered.
        assert socket.ping().wait(SECONDS)
