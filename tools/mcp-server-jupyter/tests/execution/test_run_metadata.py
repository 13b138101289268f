"""A run writes down which language it ran in, as nbclient does, and nothing where that is known."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.errors import KernelDead
from mcp_server_jupyter.execution.metadata import RunMetadata

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path)) as desk:
        yield desk


def write(desk: Desk, metadata: dict[str, Any]) -> None:
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "source": "1", "outputs": [], "execution_count": None}
    notebook = {"metadata": metadata, "nbformat": 4, "nbformat_minor": 5, "cells": [cell]}
    desk.file.write_text(json.dumps(notebook))


async def metadata(desk: Desk) -> tuple[Any, str]:
    """What the file holds once all is in it, and its text before the cells."""
    await desk.services.contents.flush()
    text = await anyio.Path(desk.file).read_text()
    return json.loads(text)["metadata"], text.partition('"cells"')[0]


@pytest.mark.parametrize("operation", ["run_all_cells", "execute_cell_with_progress"])
@pytest.mark.parametrize("stale", [{"name": "python", "version": "2.7"}, {"name": "ruby"}, "python", None, []], ids=str)
async def test_the_language_is_refreshed_by_a_run(desk: Desk, operation: str, stale: Any) -> None:
    write(desk, {"language_info": stale, "mine": [1]})
    more = {} if operation == "run_all_cells" else {"cell_index": 0}
    await desk.call(operation, notebook_path="a.ipynb", **more)
    assert (await metadata(desk))[0] == {"language_info": {"name": "python"}, "mine": [1]}


async def test_a_run_that_tells_nothing_new_leaves_the_metadata_as_they_are(desk: Desk) -> None:
    write(desk, {"language_info": {"name": "python"}, "mine": [1]})
    before = (await metadata(desk))[1]
    await desk.call("run_all_cells", notebook_path="a.ipynb")
    await desk.call("append_execute_code_cell", cell_source="2", notebook_path="a.ipynb")
    assert (await metadata(desk))[1] == before


async def test_code_without_a_cell_writes_nothing_into_the_notebook(desk: Desk) -> None:
    write(desk, {})
    before = desk.file.read_bytes()
    await desk.call("execute_code", code="1", notebook_path="a.ipynb")
    await desk.services.contents.flush()
    assert desk.file.read_bytes() == before


async def test_a_kernel_restarted_while_it_is_asked_for_its_language_leaves_the_run_as_it_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(desk, {})
    await desk.call("execute_code", code="1", notebook_path="a.ipynb")
    (session,) = desk.services.sessions.all()
    kernel, epoch = session.kernel, session.kernel.epoch
    asked, forgotten = anyio.Event(), anyio.Event()
    request, forget = kernel.request, RunMetadata.forget

    def forget_and_tell(known: RunMetadata, process: tuple[str, int]) -> None:
        forget(known, process)
        forgotten.set()

    async def slow(kind: str, content: dict[str, Any], **more: Any) -> AsyncIterator[Any]:
        if kind == "kernel_info_request":
            asked.set()
            await forgotten.wait()
            raise KernelDead("A restart ends the requests in flight.")
        async for message in request(kind, content, **more):
            yield message

    monkeypatch.setattr(kernel, "request", slow)
    monkeypatch.setattr(RunMetadata, "forget", forget_and_tell)
    statuses = []

    async def run() -> None:
        statuses.append((await desk.call("run_all_cells", notebook_path="a.ipynb")).data["status"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(60):
            await asked.wait()
        await desk.call("restart_notebook", notebook_path="a.ipynb")
        assert kernel.epoch > epoch
    assert statuses == [{"ok": 1}]
