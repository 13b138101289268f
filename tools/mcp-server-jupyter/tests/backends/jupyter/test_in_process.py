"""The managers of a Jupyter in this very process, which people use over HTTP at the same time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from jupyter_core.utils import ensure_async
from jupyter_server.gateway.managers import GatewayMappingKernelManager

from a_jupyter import managers
from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends.jupyter.in_process.contents import open_contents
from mcp_server_jupyter.backends.jupyter.in_process.kernels import open_kernels
from mcp_server_jupyter.backends.jupyter.in_process.terminals import open_terminals
from mcp_server_jupyter.errors import InvalidNotebook, NotFound, Unavailable
from mcp_server_jupyter.operations import Answer

pytestmark = pytest.mark.anyio
PATIENCE = 120.0
SESSION = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook"}


@pytest.fixture(params=["async", "sync"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "root").mkdir()
    async with managers(tmp_path / "root", is_async=request.param == "async") as opened:
        yield opened


@asynccontextmanager
async def desk_over(app: Any, folder: Path) -> AsyncIterator[Desk]:
    settings = settings_of(folder, contents="serverapp", kernels="serverapp")
    contents, kernels = open_contents(settings, app), open_kernels(settings, app)
    terminals = open_terminals(settings, app)
    async with open_desk(settings, contents=contents, kernels=kernels, terminals=terminals) as desk:
        yield desk


@pytest.fixture
async def desk(app: Any, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_over(app, tmp_path) as opened:
        yield opened


async def code(desk: Desk, source: str) -> Answer:
    answer = await desk.call("append_execute_code_cell", cell_source=source)
    if answer.data["status"] in ("running", "queued"):
        execution = desk.execution(answer)
        await execution.wait_finished(PATIENCE)
        answer = await desk.call("get_execution", execution_id=execution.id)
    return answer


async def begun(desk: Desk) -> Answer:
    """A cell whose own code runs, and goes on."""
    await code(desk, "1")
    desk.services.settings = replace(desk.services.settings, wait_seconds=0.0)
    answer = await desk.call(
        "append_execute_code_cell", cell_source="import time\nprint('be' + 'gun', flush=True)\ntime.sleep(600)"
    )
    await desk.until_text(-1, "begun")
    return answer


async def ended(desk: Desk, answer: Answer) -> Answer:
    execution = desk.execution(answer)
    await execution.wait_finished(PATIENCE)
    return await desk.call("get_execution", execution_id=execution.id)


async def test_the_kernel_that_a_person_has_started_is_the_notebooks_only_one(app: Any, desk: Desk) -> None:
    theirs = await app.session_manager.create_session(**SESSION, kernel_name="python3")
    info = await desk.call("get_notebook_info")
    answer = await code(desk, "20 + 1")

    assert info.data["kernel_id"] == theirs["kernel"]["id"]
    assert "21" in answer.text
    assert list(app.kernel_manager.list_kernel_ids()) == [theirs["kernel"]["id"]]


async def test_two_starts_at_once_make_one_kernel_that_everybody_sees(app: Any, desk: Desk) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: desk.services.kernels.start("python3", notebook="a.ipynb"))

    [session] = await app.session_manager.list_sessions()
    assert (session["path"], session["type"]) == ("a.ipynb", "notebook")
    assert list(app.kernel_manager.list_kernel_ids()) == [session["kernel"]["id"]]


async def test_a_restart_by_somebody_else_ends_what_runs_and_is_told(app: Any, desk: Desk) -> None:
    answer = await begun(desk)
    [kernel_id] = app.kernel_manager.list_kernel_ids()
    await ensure_async(app.kernel_manager.restart_kernel(kernel_id, now=True))
    told = await ended(desk, answer)

    assert "restarted by somebody else" in told.text
    assert (await code(desk, "1 + 1")).data["kernel_epoch"] == 2


async def test_a_kernel_that_dies_is_started_again_by_jupyter_and_that_is_told(desk: Desk) -> None:
    answer = await code(desk, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")

    assert "restarted by Jupyter, because it had died" in answer.text
    assert "42" in (await code(desk, "6 * 7")).text


async def test_a_kernel_that_somebody_shuts_down_is_dead(app: Any, desk: Desk) -> None:
    answer = await begun(desk)
    [session] = await app.session_manager.list_sessions()
    await app.session_manager.delete_session(session["id"])
    told = await ended(desk, answer)

    assert told.data["status"] == "died"
    assert "shut down" in told.text


async def test_kernels_stay_when_our_server_closes_and_are_known_to_the_next(app: Any, tmp_path: Path) -> None:
    async with desk_over(app, tmp_path) as desk:
        await code(desk, "x = 6")
    async with desk_over(app, tmp_path) as desk:
        answer = await code(desk, "x * 7")

    assert "42" in answer.text
    assert answer.data["kernel_epoch"] == 1


async def test_what_a_person_saves_is_read_and_merged(app: Any, desk: Desk) -> None:
    await desk.call("insert_cell", cell_index=0, cell_type="code", cell_source="mine = 1")
    model = await ensure_async(app.contents_manager.get("a.ipynb", content=True))
    model["content"]["cells"][0]["source"] = "theirs = 2"
    await ensure_async(app.contents_manager.save(model, "a.ipynb"))

    assert "theirs = 2" in (await desk.call("read_notebook")).text
    await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source="more = 3")
    sources = ["".join(cell["source"]) for cell in json.loads(desk.file.read_text())["cells"]]
    assert sources == ["theirs = 2", "more = 3"]


async def test_what_jupyter_hides_is_not_there(app: Any, desk: Desk) -> None:
    (desk.services.settings.root / ".hidden.ipynb").write_text("{}")

    with pytest.raises(NotFound):
        await desk.services.contents.read(".hidden.ipynb")


async def test_what_is_no_notebook_is_told_as_such(desk: Desk) -> None:
    (desk.services.settings.root / "b.ipynb").write_text("[1")

    with pytest.raises(InvalidNotebook):
        await desk.services.contents.read("b.ipynb")


async def test_a_contents_manager_that_knows_no_hashes_serves(
    app: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made up: the real one, called as those made before Jupyter Server 2.11 are."""
    get: Callable[..., Any] = app.contents_manager.get

    def older(path: str, content: bool = True, type: str | None = None, format: str | None = None) -> Any:
        return get(path, content=content, type=type, format=format)

    monkeypatch.setattr(app.contents_manager, "get", older)
    await desk.call("insert_cell", cell_index=0, cell_type="code", cell_source="x = 1")

    assert "x = 1" in (await desk.call("read_notebook")).text


async def test_a_manager_that_fails_is_jupyters_failure(app: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(app.contents_manager, "save", full)
    with pytest.raises(Unavailable, match="No space left"):
        await desk.call("insert_cell", cell_index=0, cell_type="code", cell_source="x = 1")


async def test_live_documents_without_an_address_are_refused_and_never_written_over(app: Any, tmp_path: Path) -> None:
    app.web_app.settings["jupyter_server_ydoc"] = object()
    settings = replace(settings_of(tmp_path), notebook=None)
    (tmp_path / "root" / "a.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}')
    async with open_contents(settings, app) as contents:
        with pytest.raises(Unavailable, match="Unix socket"):
            await contents.read("a.ipynb")


async def test_kernels_at_a_gateway_are_refused_at_once_and_notebooks_are_served(app: Any, tmp_path: Path) -> None:
    """The real manager of Jupyter Server for them; nobody is asked whether there is a gateway."""
    app.kernel_manager = GatewayMappingKernelManager()
    async with desk_over(app, tmp_path) as desk:
        await desk.call("insert_cell", cell_index=0, cell_type="code", cell_source="x = 1")
        assert (await desk.call("get_notebook_info")).data["kernel_id"] is None
        with pytest.raises(Unavailable, match="Kernel Gateway"):
            await desk.call("append_execute_code_cell", cell_source="1 + 1")
        assert "x = 1" in (await desk.call("read_notebook")).text
