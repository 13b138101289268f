"""The Model Context Protocol door as clients of both eras use it, over stdio and streamable HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import PromptReference, ResourceTemplateReference

from every_door import http_client, stdio_client
from support import Server, eventually

pytestmark = pytest.mark.anyio

WAYS = [(transport, mode) for transport in ("stdio", "http") for mode in ("auto", "legacy")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    assert server.stop() == 0


@asynccontextmanager
async def connected(transport: str, mode: str, folder: Path, server: Server, **options: Any) -> AsyncIterator[Client]:
    opened = http_client(server, mode, **options) if transport == "http" else stdio_client(folder, mode, **options)
    async with opened as client:
        yield client


async def text_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return "\n".join(block.text for block in result.content if block.type == "text")


@pytest.mark.parametrize(("transport", "mode"), WAYS)
async def test_cancelling_a_call_interrupts_its_cell_and_the_kernel_goes_on(
    transport: str, mode: str, tmp_path: Path, server: Server
) -> None:
    path = f"cancel-{transport}-{mode}.ipynb"
    async with connected(transport, mode, tmp_path, server) as client:
        await text_of(client, "create_notebook", notebook_path=path)
        await text_of(client, "execute_code", code="kept = 5", notebook_path=path)
        with anyio.move_on_after(1.0):
            await client.call_tool("execute_code", {"code": "import time; time.sleep(60)", "notebook_path": path})
        with anyio.fail_after(60):
            assert "5" in await text_of(client, "execute_code", code="kept", notebook_path=path)
        await text_of(client, "shutdown_kernel", notebook_path=path)


@pytest.mark.parametrize(("transport", "mode"), WAYS)
async def test_progress_rises_and_carries_the_output_as_it_comes(
    transport: str, mode: str, tmp_path: Path, server: Server
) -> None:
    path = f"progress-{transport}-{mode}.ipynb"
    seen: list[tuple[float, str]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message or ""))
        for number in range(4):
            if f"step {number}" in (message or ""):
                (tmp_path / f"go-{number}").touch()

    # Each step waits until the one before has been told of.
    code = (
        "import os, time\nfor i in range(4):\n    print('step', i, flush=True)\n"
        f"    while not os.path.exists(f'{tmp_path}/go-{{i}}'): time.sleep(0.02)"
    )
    async with connected(transport, mode, tmp_path, server) as client:
        await text_of(client, "create_notebook", notebook_path=path)
        arguments = {"cell_source": code, "notebook_path": path}
        result = await client.call_tool("append_execute_code_cell", arguments, progress_callback=note)
        assert "step 3" in result.content[0].text
        await text_of(client, "shutdown_kernel", notebook_path=path)
    values = [value for value, _ in seen]
    assert values == sorted(set(values))
    assert len(seen) >= 4
    said = [message for _, message in seen if not message.startswith("The kernel is starting: ")]
    assert "".join(said).startswith("step 0\nstep 1")


@pytest.mark.parametrize(("transport", "mode"), WAYS)
async def test_resources_prompts_and_completion(transport: str, mode: str, tmp_path: Path, server: Server) -> None:
    path = f"sub/resource-{transport}-{mode}.ipynb"
    async with connected(transport, mode, tmp_path, server) as client:
        await text_of(client, "create_notebook", notebook_path=path)
        text = await text_of(client, "append_execute_code_cell", cell_source="print('x' * 20_000)", notebook_path=path)
        rest = re.search(r'get_execution\(execution_id="(\w+)", cursor=(\d+)\)', text)
        assert rest
        page = await text_of(client, "get_execution", execution_id=rest[1], cursor=int(rest[2]))
        assert page.split("\n")[1].startswith("xxxx")
        first = (await client.read_resource(f"output://{rest[1]}")).contents[0].text
        following = re.search(r"output://\w+/\d+$", first)
        assert following
        assert "xxxx" in (await client.read_resource(following[0])).contents[0].text
        assert f"notebook://{path}" in [str(resource.uri) for resource in (await client.list_resources()).resources]
        stored = (await client.read_resource(f"notebook://{path}")).contents[0]
        assert stored.mime_type == "application/x-ipynb+json"
        assert '"nbformat": 4' in stored.text
        with pytest.raises(MCPError) as missing:
            await client.read_resource("notebook://missing.ipynb")
        assert missing.value.error.code == -32602
        with pytest.raises(MCPError):
            await client.read_resource("notebook://../../etc/passwd")
        names = {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert names == {"notebook_agent", "data_analysis", "machine_learning", "code_review"}
        prompt = await client.get_prompt("code_review", {"notebook_path": path})
        assert path in prompt.messages[0].content.text
        for reference, name in (
            (PromptReference(name="code_review"), "notebook_path"),
            (ResourceTemplateReference(uri="notebook://{+path}"), "path"),
        ):
            completed = await client.complete(reference, {"name": name, "value": "sub/resource-" + transport})
            assert path in completed.completion.values
        await text_of(client, "shutdown_kernel", notebook_path=path)


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_listener_is_told_of_a_changed_notebook(transport: str, tmp_path: Path, server: Server) -> None:
    path = f"listen-{transport}.ipynb"
    async with connected(transport, "auto", tmp_path, server) as client:
        await text_of(client, "create_notebook", notebook_path=path)
        async with client.listen(resource_subscriptions=[f"notebook://{path}"]) as events:
            await text_of(client, "append_markdown_cell", cell_source="# changed", notebook_path=path)
            with anyio.fail_after(60):
                async for event in events:
                    assert path in str(event)
                    break


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_subscriber_of_the_handshake_era_is_told_of_a_changed_notebook(
    transport: str, tmp_path: Path, server: Server
) -> None:
    path = f"subscribe-{transport}.ipynb"
    told = anyio.Event()

    async def handle(message: Any) -> None:
        if path in str(message):
            told.set()

    async with connected(transport, "legacy", tmp_path, server, message_handler=handle) as client:
        await text_of(client, "create_notebook", notebook_path=path)
        with pytest.warns(MCPDeprecationWarning):
            await client.session.subscribe_resource(f"notebook://{path}")
        await text_of(client, "append_markdown_cell", cell_source="# changed", notebook_path=path)
        with anyio.fail_after(60):
            await told.wait()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_unknown_tool_is_a_protocol_error_and_a_known_one_never_leaks(
    mode: str, tmp_path: Path, server: Server
) -> None:
    async with connected("http", mode, tmp_path, server) as client:
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("no_such_tool", {})
        assert unknown.value.error.code == -32602
        result = await client.call_tool("read_cell", {"cell_index": {"deep": 1}, "notebook_path": "x.ipynb"})
        assert result.is_error
        assert "must be an integer, not an object" in result.content[0].text


async def test_twenty_notebooks_at_once_get_each_its_own_cells(server: Server, tmp_path: Path) -> None:
    async with connected("http", "auto", tmp_path, server) as client:

        async def work(number: int) -> None:
            path = f"many-{number}.ipynb"
            await text_of(client, "create_notebook", notebook_path=path)
            for step in range(3):
                text = await text_of(
                    client,
                    "append_execute_code_cell",
                    cell_source=f"print({number} * 1000 + {step})",
                    notebook_path=path,
                )
                assert f"\n{number * 1000 + step}" in text
            await text_of(client, "shutdown_kernel", notebook_path=path)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(work, number)
    for number in range(20):
        path, expected = f"many-{number}.ipynb", [f"print({number} * 1000 + {step})" for step in range(3)]
        eventually(lambda path=path: len(server.notebook(path)["cells"]) == 3, what=f"the cells of {path} on disk")
        assert ["".join(cell["source"]) for cell in server.notebook(path)["cells"]] == expected
