"""How our server opens and closes within a Jupyter: real managers in this very process, without their HTTP server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from jupyter_server.serverapp import ServerApp

# What is served is imported here: under load that takes longer than a call waits for it.
import mcp_server_jupyter.doors.http.app
import mcp_server_jupyter.doors.mcp.server  # noqa: F401
from a_jupyter import managers
from mcp_server_jupyter.doors.server_extension import mount as mount_module
from mcp_server_jupyter.doors.server_extension import shared_tools
from mcp_server_jupyter.doors.server_extension.mount import Mount, settings_of
from mcp_server_jupyter.errors import InvalidRequest, JupyterMcpError, Unavailable

pytestmark = pytest.mark.anyio
PATIENCE = 120.0
PROJECT = Path(__file__).resolve().parents[3]


def served_by(**more: Any) -> Any:
    """What is read of a Jupyter besides its managers: made up, for these are many kinds of servers."""
    own = {"sock": "", "ip": "localhost", "port": 8888, "certfile": "", "base_url": "/", "root_dir": str(PROJECT)}
    return SimpleNamespace(**{**own, "identity_provider": SimpleNamespace(token="theirs"), **more})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCP_JUPYTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MCP_JUPYTER_WAIT_SECONDS", str(PATIENCE))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@asynccontextmanager
async def a_jupyter(root: Path) -> AsyncIterator[Mount]:
    """One that serves; it is left in order."""
    async with managers(root) as app:
        mount = Mount(served_by(root_dir=str(root), **vars(app)))
        running = asyncio.create_task(mount.run())
        try:
            yield mount
        finally:
            mount.stop()
            await running


async def ask(mount: Mount, name: str, **arguments: Any) -> Any:
    with anyio.fail_after(PATIENCE):
        app = await mount.app()
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here", timeout=PATIENCE) as client:
            return await client.post(f"/api/operations/{name}", json=arguments)


async def done(mount: Mount, name: str, **arguments: Any) -> str:
    answer = await ask(mount, name, **arguments)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["text"]
    assert not answer.json()["is_error"], text
    return text


async def test_a_call_that_comes_before_it_is_open_waits(root: Path) -> None:
    async with a_jupyter(root) as mount:
        assert "No notebooks" in await done(mount, "list_notebooks")


async def test_what_a_notebook_lost_with_its_jupyter_is_told_by_the_next_one(root: Path) -> None:
    async with a_jupyter(root) as mount:
        await done(mount, "create_notebook", notebook_path="a.ipynb")
        await done(mount, "append_execute_code_cell", notebook_path="a.ipynb", cell_source="x = 6")
    async with a_jupyter(root) as mount:
        assert "x = 6" in await done(mount, "read_notebook", notebook_path="a.ipynb")
        told = await ask(mount, "append_execute_code_cell", notebook_path="a.ipynb", cell_source="x * 7")
        await done(mount, "restart_kernel", notebook_path="a.ipynb")
        again = await done(mount, "append_execute_code_cell", notebook_path="a.ipynb", cell_source="6 * 7")

    assert told.json()["error"] == "kernel_dead"
    assert "while no server ran" in told.text
    assert "42" in again


async def test_of_two_jupyters_of_one_root_the_second_serves_when_the_first_has_ended(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_module, "_AGAIN_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        async with a_jupyter(root) as first:
            await done(first, "list_notebooks")
            second = await stack.enter_async_context(a_jupyter(root))
            refused = await ask(second, "list_notebooks")
            assert refused.status_code == 503
            assert "Another Jupyter serves MCP" in refused.json()["message"]
        with anyio.fail_after(PATIENCE):
            # Nobody is told that a lock is free.
            while (await ask(second, "list_notebooks")).status_code != 200:  # noqa: ASYNC110
                await anyio.sleep(0.05)


async def test_two_that_start_at_once_do_not_both_serve(root: Path) -> None:
    async with a_jupyter(root) as one, a_jupyter(root) as other:
        answers = [(await ask(mount, "list_notebooks")).status_code for mount in (one, other)]

    assert sorted(answers) == [200, 503]


async def test_a_call_that_waits_is_answered_when_jupyter_stops(root: Path) -> None:
    answers: list[Any] = []

    async def call(mount: Mount) -> None:
        source = "print('be' + 'gun', flush=True)\nwhile True: pass"
        answers.append(await ask(mount, "append_execute_code_cell", notebook_path="a.ipynb", cell_source=source))

    async with anyio.create_task_group() as tasks, a_jupyter(root) as mount:
        await done(mount, "create_notebook", notebook_path="a.ipynb")
        tasks.start_soon(call, mount)
        with anyio.fail_after(PATIENCE):
            # Its output is looked for as anybody would.
            while "begun" not in await done(mount, "read_notebook", notebook_path="a.ipynb"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
    [answer] = answers
    assert answer.status_code == 503


async def test_what_keeps_it_from_serving_is_told_to_whoever_calls(tmp_path: Path) -> None:
    mount = Mount(served_by(root_dir=str(tmp_path / "missing")))
    await mount.run()
    answer = await ask(mount, "list_notebooks")

    assert answer.status_code == InvalidRequest.http_status
    assert "is not a folder" in answer.text


# ------------------------------------------------------------------ what it takes for its settings


def state(tmp_path: Path, **more: Any) -> Path:
    return settings_of(served_by(**more), {"MCP_JUPYTER_STATE_DIR": str(tmp_path)}).root_state


def test_its_own_address_is_where_live_documents_are_met(tmp_path: Path) -> None:
    settings = settings_of(served_by(ip="0.0.0.0", base_url="/user/ada/"), {"MCP_JUPYTER_STATE_DIR": str(tmp_path)})

    assert settings.room is not None
    assert (settings.room.url, settings.room.token) == ("http://127.0.0.1:8888/user/ada/", "theirs")


def test_its_state_is_that_of_the_root_and_the_base_url_whatever_the_port(tmp_path: Path) -> None:
    assert state(tmp_path) == state(tmp_path, port=9999) == state(tmp_path, sock="/run/jupyter.sock")
    others = {state(tmp_path, base_url="/user/ada/"), state(tmp_path, root_dir=str(PROJECT / "src"))}
    assert len({state(tmp_path), *others}) == 3


def test_a_jupyterhub_gives_its_own_token() -> None:
    provider = SimpleNamespace(token="", hub_auth=SimpleNamespace(api_token="of-the-hub"))
    settings = settings_of(served_by(identity_provider=provider), {"ROOM_URL": "http://elsewhere/"})

    assert settings.room is not None
    assert settings.room.token == "of-the-hub"


def test_a_jupyter_on_a_unix_socket_needs_no_address(tmp_path: Path) -> None:
    settings = settings_of(served_by(sock="/run/jupyter.sock"), {"MCP_JUPYTER_STATE_DIR": str(tmp_path)})

    assert settings.room is None


def test_jupyter_starts_without_what_is_served() -> None:
    code = (
        "import sys, jupyter_server.serverapp, mcp_server_jupyter\n"
        "mcp_server_jupyter._jupyter_server_extension_points()\n"
        "heavy = ('mcp', 'starlette', 'pycrdt', 'websockets', 'services', 'backends')\n"
        "loaded = {name.removeprefix('mcp_server_jupyter.') for name in sys.modules}\n"
        "print([name for name in heavy if name in loaded])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


async def test_tools_that_another_server_of_this_jupyter_offers_are_called_in_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_jupyter(root) as mount:
        loaded = SimpleNamespace(extension_apps={"mcp_server_jupyter": [SimpleNamespace(mount=mount)]})
        monkeypatch.setattr(ServerApp, "initialized", classmethod(lambda _: True))
        monkeypatch.setattr(ServerApp, "instance", classmethod(lambda _: SimpleNamespace(extension_manager=loaded)))
        with anyio.fail_after(PATIENCE):
            await shared_tools.nb_create_notebook(notebook_path="a.ipynb")
            [listed] = await shared_tools.nb_list_notebooks()
            with pytest.raises(JupyterMcpError, match=r"gone\.ipynb"):
                await shared_tools.nb_read_cell(notebook_path="gone.ipynb", cell_index=0)
    assert "a.ipynb" in listed.text
    with pytest.raises(Unavailable):
        await shared_tools.nb_list_notebooks()
