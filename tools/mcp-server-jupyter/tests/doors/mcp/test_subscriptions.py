"""Subscribers of notebooks: told once of each change in either era, until they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp.types as T
import pytest
from mcp import Client, MCPError
from mcp.shared.exceptions import MCPDeprecationWarning

from every_door import http_client
from mcp_server_jupyter.doors.mcp.server import create_mcp
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.operations.uris import notebook_uri
from mcp_server_jupyter.places import open_places
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from support import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "--kernels=memory").start()
    yield server
    assert server.stop() == 0


class Told:
    """The URIs a client of the handshake era was told of."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._news = anyio.Event()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, T.ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))
            self._news.set()

    async def until(self, uri: str) -> None:
        with anyio.fail_after(60):
            while uri not in self.uris:
                self._news = anyio.Event()
                await self._news.wait()


async def subscribe(client: Client, uri: str) -> None:
    with pytest.warns(MCPDeprecationWarning):
        await client.session.subscribe_resource(uri)


async def unsubscribe(client: Client, uri: str) -> None:
    with pytest.warns(MCPDeprecationWarning):
        await client.session.unsubscribe_resource(uri)


async def change(client: Client, path: str) -> None:
    arguments = {"notebook_path": path, "cell_source": "# changed"}
    assert not (await client.call_tool("append_markdown_cell", arguments)).is_error


async def make(client: Client, *paths: str) -> None:
    for path in paths:
        assert not (await client.call_tool("create_notebook", {"notebook_path": path})).is_error


async def test_a_subscriber_is_told_once_of_a_change(server: Server) -> None:
    told = Told()
    async with http_client(server, "legacy", message_handler=told) as client:
        await make(client, "once.ipynb", "once-after.ipynb")
        for name in ("once", "once-after"):
            await subscribe(client, f"notebook://{name}.ipynb")
        await change(client, "once.ipynb")
        await told.until("notebook://once.ipynb")
        await change(client, "once-after.ipynb")
        await told.until("notebook://once-after.ipynb")
    assert told.uris.count("notebook://once.ipynb") == 1


async def test_a_listener_is_told_once_of_a_change(server: Server) -> None:
    async with http_client(server, "auto") as client:
        await make(client, "listen.ipynb", "listen-after.ipynb")
        uris = ["notebook://listen.ipynb", "notebook://listen-after.ipynb"]
        heard: list[str] = []
        async with client.listen(resource_subscriptions=uris) as events:
            await change(client, "listen.ipynb")
            await change(client, "listen-after.ipynb")
            with anyio.fail_after(60):
                async for event in events:
                    heard.append(str(event.uri))
                    if heard[-1] == uris[1]:
                        break
    assert heard == uris


async def test_who_unsubscribed_is_told_no_more(server: Server) -> None:
    told = Told()
    async with http_client(server, "legacy", message_handler=told) as client:
        await make(client, "left.ipynb", "stayed.ipynb")
        await subscribe(client, "notebook://left.ipynb")
        await subscribe(client, "notebook://stayed.ipynb")
        await unsubscribe(client, "notebook://left.ipynb")
        await unsubscribe(client, "notebook://never-subscribed.ipynb")
        await change(client, "left.ipynb")
        await change(client, "stayed.ipynb")
        await told.until("notebook://stayed.ipynb")
    assert told.uris == ["notebook://stayed.ipynb"]


async def test_a_person_s_save_is_told_without_a_call(server: Server) -> None:
    told = Told()
    path = server.root / "saved.ipynb"
    headers = {"authorization": "Bearer secret-token"}
    async with (
        httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=60) as http,
        http_client(server, "legacy", message_handler=told) as client,
    ):
        await make(client, "saved.ipynb")
        await subscribe(client, "notebook://saved.ipynb")
        with anyio.fail_after(60):
            async with http.stream("GET", "/api/events") as events:
                async for line in events.aiter_lines():
                    if line.startswith("retry"):
                        path.write_text(path.read_text().replace('"metadata": {', '"metadata": {"by": "a person",', 1))
                    if line.startswith("data") and "saved.ipynb" in line:
                        break
        await told.until("notebook://saved.ipynb")
    assert told.uris == ["notebook://saved.ipynb"]


@pytest.mark.parametrize("spelled", ["notebook://Week%201/%C3%A9t%C3%A9%23.ipynb", "notebook://Week 1/été%23.ipynb"])
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_name_with_blanks_is_told_as_it_was_asked_for(server: Server, era: str, spelled: str) -> None:
    path = "Week 1/été#.ipynb"
    told = Told()
    async with http_client(server, era, message_handler=told) as client, AsyncExitStack() as stack:
        await client.call_tool("create_notebook", {"notebook_path": path})
        if era == "legacy":
            await subscribe(client, spelled)
            await change(client, path)
            await told.until(spelled)
            return
        if "%C3" not in spelled:
            spelled = f"notebook://{path}"
        events = await stack.enter_async_context(client.listen(resource_subscriptions=[spelled]))
        await change(client, path)
        with anyio.fail_after(60):
            async for event in events:
                assert str(event.uri) == spelled
                break


async def test_what_cannot_be_a_notebook_cannot_be_subscribed_to(server: Server) -> None:
    async with http_client(server, "legacy") as client:
        for uri in ("notebook://../../etc/passwd", "notebook://a%ff.ipynb", "notebook://a.ipynb#cell"):
            with pytest.raises(MCPError) as refused:
                await subscribe(client, uri)
            assert refused.value.error.code == -32602, uri


# --------------------------------------------------------------------------- within the process


async def changed(services: Services, path: str) -> None:
    arguments = {"notebook_path": path, "cell_source": "# changed"}
    await invoke(services, "append_markdown_cell", arguments, caller=Caller("person"))


def settings(folder: Path) -> Settings:
    (folder / "root").mkdir()
    options = {"root": folder / "root", "state_dir": folder / "state", "kernels": "memory", "contents": "memory"}
    (folder / "state").mkdir()
    return Settings.load(options, {})


async def test_what_the_contents_notice_is_an_event_and_told_once(tmp_path: Path) -> None:
    told = Told()
    async with open_services(settings(tmp_path)) as services, open_places(services) as places:
        await invoke(services, "create_notebook", {"notebook_path": "a.ipynb"}, caller=Caller("person"))
        async with Client(create_mcp(places), mode="legacy", message_handler=told) as client:
            await subscribe(client, "notebook://a.ipynb")
            with services.events.subscribe() as events, anyio.fail_after(60):
                async with services.contents.edit("a.ipynb") as notebook:  # as another program's write is noticed
                    notebook.metadata["saved"] = "by a person"
                event = await anext(events)
            assert (event.kind, event.data) == ("notebook.changed", {"notebook": "a.ipynb"})
            await told.until("notebook://a.ipynb")
    assert told.uris == ["notebook://a.ipynb"]


async def test_nothing_is_kept_of_a_client_that_left(tmp_path: Path) -> None:
    async with open_services(settings(tmp_path)) as services, open_places(services) as places:
        await invoke(services, "create_notebook", {"notebook_path": "a.ipynb"}, caller=Caller("person"))
        before = places.events.listeners
        async with Client(create_mcp(places), mode="legacy") as client:
            await subscribe(client, "notebook://a.ipynb")
            assert places.events.listeners == before + 1
        assert places.events.listeners == before
        async with (
            Client(create_mcp(places)) as client,
            client.listen(resource_subscriptions=["notebook://a.ipynb"]),
        ):
            assert places.events.listeners == before + 1
        assert places.events.listeners == before


async def test_a_client_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    told = Told()
    stuck = anyio.Event()

    async def read_no_more(message: Any) -> None:
        stuck.set()
        await anyio.sleep_forever()

    async with open_services(settings(tmp_path)) as services, open_places(services) as places:
        for path in ("a.ipynb", "b.ipynb"):
            await invoke(services, "create_notebook", {"notebook_path": path}, caller=Caller("person"))
        async with (
            Client(create_mcp(places), mode="legacy", message_handler=read_no_more) as slow,
            Client(create_mcp(places), mode="legacy", message_handler=told) as quick,
        ):
            for client in (slow, quick):
                await subscribe(client, "notebook://a.ipynb")
            await changed(services, "a.ipynb")
            with anyio.fail_after(60):
                await stuck.wait()
            await subscribe(quick, "notebook://b.ipynb")
            await changed(services, "b.ipynb")
            await told.until(notebook_uri("b.ipynb"))
