"""Calls that are passed on to our extension in a user's own server; the hub's API is a fake (see `a_hub`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import ResourceTemplateReference

from a_hub import SERVICE_TOKEN, FakeHub, fake_hub
from hub_service import BEARER, UserServer, open_hub_learners, open_service, user_server
from mcp_server_jupyter.doors.hub.learner_mcp import create_learner_mcp
from mcp_server_jupyter.hub import Learners, extension
from support import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("hub-extension")]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, UserServer]]:
    """A hub with a user in whose server our extension is."""
    folder = tmp_path_factory.mktemp("hub")
    with fake_hub(folder) as hub, user_server(folder / "ada", hub, "ada", extension=True) as ada:
        yield hub, ada


@pytest.fixture
def hub(world: tuple[FakeHub, UserServer]) -> FakeHub:
    hub, ada = world
    hub.users.clear()
    hub.tokens.clear()
    hub.refusals.clear()
    hub.add("ada", "learners", url=ada.url)
    hub.add("prof", "staff")
    return hub


@pytest.fixture
def ada(world: tuple[FakeHub, UserServer]) -> UserServer:
    return world[1]


@pytest.fixture
async def learners(hub: FakeHub, tmp_path: Path) -> AsyncIterator[Learners]:
    async with open_hub_learners(tmp_path, hub) as opened:
        yield opened


@asynccontextmanager
async def client_of(learners: Learners) -> AsyncIterator[Client]:
    with anyio.fail_after(PATIENCE):
        async with Client(create_learner_mcp(learners, "ada", PATIENCE), mode="legacy") as client:
            yield client


async def text(client: Client, tool: str, /, **arguments: Any) -> str:
    result: Any = await client.call_tool(tool, arguments)
    return "\n".join(part.text for part in result.content)


async def shown(client: Client, expected: str, tool: str, /, **arguments: Any) -> str:
    """A tool's answer, once it shows what is expected."""
    while expected not in (answer := await text(client, tool, **arguments)):  # noqa: ASYNC110 - another process's
        await anyio.sleep(0.05)
    return answer


async def is_passed_on(learners: Learners) -> bool:
    async with learners.extension("ada") as found:
        return found is not None and learners._places["ada"].services is None


async def test_progress_is_told_while_the_cell_runs_there(learners: Learners, ada: UserServer) -> None:
    told = [ada.root / f"told-{count}" for count in range(3)]
    # Each line waits until the one before it was heard: whoever keeps them until the end hears nothing.
    source = "import pathlib, time\n" + "".join(
        f"print('line', {at}, flush=True)\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(0.02)\n"
        for at, file in enumerate(told)
    )
    heard: list[str] = []

    async def progress(_: float, __: float | None, message: str | None) -> None:
        heard.append(message or "")
        for at, file in enumerate(told):
            if f"line {at}" in (message or ""):
                file.touch()

    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "told.ipynb"})
        arguments = {"notebook_path": "told.ipynb", "cell_source": source}
        result: Any = await client.call_tool("append_execute_code_cell", arguments, progress_callback=progress)
        assert await is_passed_on(learners)
    assert "line 2" in result.content[0].text
    assert len(heard) >= 3


async def test_paths_are_completed_there(learners: Learners) -> None:
    template = ResourceTemplateReference(type="ref/resource", uri="notebook://{+path}")
    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "completed.ipynb"})
        result = await client.complete(template, {"name": "path", "value": "complet"})
        assert result.completion.values == ["completed.ipynb"]
        assert await is_passed_on(learners)


async def test_a_call_that_its_caller_cancels_is_cancelled_there(learners: Learners, ada: UserServer) -> None:
    begun = ada.root / "begun"
    source = (
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        f"try:\n    while True: time.sleep(0.02)\nexcept KeyboardInterrupt:\n    print('stopped')"
    )
    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "cancelled.ipynb"})
        async with anyio.create_task_group() as tasks:
            arguments = {"notebook_path": "cancelled.ipynb", "cell_source": source}
            tasks.start_soon(client.call_tool, "append_execute_code_cell", arguments)
            await anyio.to_thread.run_sync(eventually, begun.exists, PATIENCE, "the cell's begin")
            tasks.cancel_scope.cancel()
        await shown(client, "stopped", "read_cell", notebook_path="cancelled.ipynb", cell_index=0)


async def test_a_cell_runs_on_when_the_service_ends(hub: FakeHub, ada: UserServer, tmp_path: Path) -> None:
    begun, ended = ada.root / "runs", ada.root / "may-end"
    source = (
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(ended)!r}).exists(): time.sleep(0.02)\nprint('ran on')"
    )
    async with open_service(tmp_path, hub, staff_group="staff") as service, anyio.create_task_group() as tasks:
        await service.call(BEARER, "/user/ada/mcp", "create_notebook", notebook_path="on.ipynb")
        arguments = {"notebook_path": "on.ipynb", "cell_source": source}
        call = {"name": "append_execute_code_cell", "arguments": arguments}
        tasks.start_soon(lambda: service.ask(BEARER, "/user/ada/mcp", "tools/call", **call))
        await anyio.to_thread.run_sync(eventually, begun.exists, PATIENCE, "the cell's begin")
        # As the end of the process would: whoever waits is gone, and nobody has cancelled anything.
        tasks.cancel_scope.cancel()
    ended.touch()
    async with open_hub_learners(tmp_path, hub) as learners, client_of(learners) as client:
        cell = await shown(client, "ran on", "read_cell", notebook_path="on.ipynb", cell_index=0)
    assert "KeyboardInterrupt" not in cell


async def test_only_what_was_made_for_the_server_is_sent_to_it(hub: FakeHub, ada: UserServer, tmp_path: Path) -> None:
    staff = next(token for token, known in hub.tokens.items() if known["name"] == "prof")
    async with open_service(tmp_path, hub, staff_group="staff") as service:
        for token in (staff, BEARER, SERVICE_TOKEN):
            await service.call(token, "/user/ada/mcp", "list_notebooks")
        assert await is_passed_on(service.learners)
    assert ada.tokens
    assert ada.tokens <= {made["token"] for made in hub.minted}


async def test_each_caller_undoes_their_own_edits_also_after_the_place_was_left(hub: FakeHub, tmp_path: Path) -> None:
    staff = next(token for token, known in hub.tokens.items() if known["name"] == "prof")
    own = next(token for token, known in hub.tokens.items() if known["name"] == "ada")
    path, notebook = "/user/ada/mcp", {"notebook_path": "whose.ipynb"}
    async with open_service(tmp_path, hub, staff_group="staff") as service:
        await service.call(own, path, "create_notebook", **notebook)
        await service.call(staff, path, "append_markdown_cell", **notebook, cell_source="by prof")
        await service.call(own, path, "append_markdown_cell", **notebook, cell_source="by ada")
        place = service.learners._places["ada"]
        place.ended.set()
        await place.closed.wait()
        await service.call(staff, path, "undo", **notebook)
        assert await is_passed_on(service.learners)
        cells = await service.call(own, path, "read_all_cells", **notebook)
    assert "by ada" in cells
    assert "by prof" not in cells


async def test_resources_are_those_of_the_extension(learners: Learners) -> None:
    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "resource.ipynb"})
        arguments = {"notebook_path": "resource.ipynb", "cell_source": "read as a resource"}
        await client.call_tool("append_markdown_cell", arguments)
        listed = {str(each.uri) for each in (await client.list_resources()).resources}
        assert "notebook://resource.ipynb" in listed
        read: Any = await client.read_resource("notebook://resource.ipynb")
        assert "read as a resource" in read.contents[0].text
        assert await is_passed_on(learners)


async def test_an_extension_that_was_started_anew_is_used_on(learners: Learners, ada: UserServer) -> None:
    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "anew.ipynb"})
        ada.kill()
        assert "does not answer" in await text(client, "list_notebooks")
        ada.start()
        await shown(client, "anew.ipynb", "list_notebooks")
        assert await is_passed_on(learners)


async def test_a_token_that_the_hub_has_forgotten_is_replaced_for_the_next_call(
    learners: Learners, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.hub.learners._AGAIN_SECONDS", 0.0)
    async with client_of(learners) as client:
        await client.call_tool("list_notebooks", {})
        hub.forget_tokens()
        assert "Repeat the call" in await text(client, "list_notebooks")
        assert "Repeat the call" not in await text(client, "list_notebooks")


async def test_an_extension_of_another_version_is_left_alone(
    learners: Learners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tools may be others than those that are listed; what is worked in is a place over REST."""
    monkeypatch.setattr(extension, "__version__", "0.0.1")
    async with client_of(learners) as client:
        await client.call_tool("create_notebook", {"notebook_path": "other.ipynb"})
        assert not await is_passed_on(learners)
        assert "other.ipynb" in await text(client, "list_notebooks")
