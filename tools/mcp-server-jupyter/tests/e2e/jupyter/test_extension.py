"""Our server inside a Jupyter with live documents: an agent calls it, somebody else is in the same rooms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import pytest
from lab import PACKAGE, PATIENCE, code_cell, emptied, is_on_disk, python_of, until, write
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from a_jupyter import TOKEN, Jupyter
from execution.desk import shown
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.backends.jupyter.rooms.notebook import RoomNotebook

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter with collaboration, our extension and jupyter-server-mcp."""
    folder = tmp_path_factory.mktemp("inside")
    enabled = next((PACKAGE / "jupyter-config").rglob("*.json"))
    config = folder / "jupyter_config_dir" / "jupyter_server_config.d" / enabled.name
    config.parent.mkdir(parents=True)
    # An editable installation brings no data files.
    config.write_bytes(enabled.read_bytes())
    own = {"MCP_JUPYTER_STATE_DIR": str(folder / "state"), "MCP_JUPYTER_WAIT_SECONDS": str(PATIENCE)}
    options = ("--YDocExtension.document_cleanup_delay=0", "--MCPExtensionApp.mcp_port=0")
    server = Jupyter(folder, *options, python=python_of("extension"), extensions=True, environment=own)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def jupyter(inside: Jupyter) -> Jupyter:
    emptied(inside)
    return inside


@pytest.fixture
async def agent(jupyter: Jupyter) -> AsyncIterator[Any]:
    """Calls an operation on a.ipynb through Jupyter's own address."""
    async with httpx2.AsyncClient(headers={"Authorization": f"token {TOKEN}"}, timeout=PATIENCE) as web:
        operations = f"{jupyter.url}api/mcp/api/operations"

        async def call(name: str, **arguments: Any) -> str:
            answer = await web.post(f"{operations}/{name}", json={"notebook_path": "a.ipynb", **arguments})
            assert answer.status_code == 200, answer.text
            assert not answer.json()["is_error"], answer.text
            return str(answer.json()["text"])

        async def is_answered() -> bool:
            return (await web.post(f"{operations}/list_notebooks", json={})).status_code == 200

        # A busy Jupyter that has just begun takes its time.
        await until(is_answered)
        yield call


async def sees(contents: JupyterContents, *wanted: str) -> None:
    async def now() -> list[str]:
        return [cell.source for cell in (await contents.read("a.ipynb")).cells]

    async def so() -> bool:
        return await now() == list(wanted)

    await until(so, now)


async def test_an_agent_in_the_extension_and_somebody_in_the_room_edit_one_live_document(
    jupyter: Jupyter, agent: Any, person: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"))
    await sees(person, "theirs = 1")
    assert isinstance(person._open["a.ipynb"], RoomNotebook)
    await until(lambda: is_joined(agent))

    assert "42" in await agent("append_execute_code_cell", cell_source="print(6 * 7)")
    await sees(person, "theirs = 1", "print(6 * 7)")
    async with person.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "theirs = 2")

    async def is_read() -> bool:
        return "theirs = 2" in await agent("read_all_cells")

    async def has_output() -> bool:
        return shown((await person.read("a.ipynb")).cells[1]) == "42\n"

    await until(is_read)
    await until(has_output)
    await agent("overwrite_cell_source", cell_index=1, cell_source="ours = 3")
    await sees(person, "theirs = 2", "ours = 3")
    await agent("undo")
    await sees(person, "theirs = 2", "print(6 * 7)")
    await is_on_disk(jupyter, "theirs = 2", "print(6 * 7)")


async def is_joined(agent: Any) -> bool:
    """Whether the agent's server, which gives up sooner than the tests do, is in the room."""
    with suppress(AssertionError):
        return "theirs = 1" in await agent("read_all_cells")
    return False


async def test_jupyter_server_mcp_serves_our_tools_beside_others(jupyter: Jupyter) -> None:
    write(jupyter, code_cell("one", "1"))
    with anyio.fail_after(PATIENCE):
        async with Client(streamable_http_client(await address(jupyter))) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            ran: Any = await client.call_tool(
                "nb_append_execute_code_cell", {"notebook_path": "a.ipynb", "cell_source": "print(6 * 7)"}
            )
            refused: Any = await client.call_tool("nb_read_cell", {"notebook_path": "gone.ipynb", "cell_index": 0})

    schema = listed["nb_append_execute_code_cell"].input_schema
    assert schema["required"] == ["cell_source"]
    assert schema["properties"]["cell_source"]["type"] == "string"
    assert "42" in ran.content[0].text
    assert refused.is_error
    assert "gone.ipynb" in refused.content[0].text


async def address(jupyter: Jupyter) -> str:
    """Where jupyter-server-mcp serves: it writes that down once it does."""
    folder = jupyter.root.parent / "jupyter_runtime_dir"

    async def is_there() -> bool:
        return any(folder.glob("jpserver-mcp-*.json"))

    await until(is_there)
    (file,) = folder.glob("jpserver-mcp-*.json")
    return str(json.loads(await anyio.Path(file).read_text())["url"])
