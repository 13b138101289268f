"""What other programs leave in files and ask in paths is read or refused, by every operation: never a raw exception."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import watch
from mcp_server_jupyter.doors.mcp import resources
from mcp_server_jupyter.errors import InvalidNotebook, InvalidRequest
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.operations.uris import NotebookHandle
from mcp_server_jupyter.places import open_places
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

WHOLE: dict[str, Any] = {
    "cells": [
        {
            "cell_type": "code",
            "id": "a",
            "metadata": {"tags": ["x"]},
            "source": ["print(1)\n", "2"],
            "execution_count": 1,
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": "a\n"},
                {
                    "output_type": "execute_result",
                    "execution_count": 1,
                    "metadata": {},
                    "data": {"text/plain": "1", "text/html": "<b>1</b>", "image/png": "aGk=", "application/json": {}},
                },
                {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b"]},
            ],
        },
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "# t", "attachments": {"p": {"image/png": ""}}},
    ],
    "metadata": {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
ODD: list[Any] = [None, True, "\ud800", [], [1], {}, {"name": []}, {"text/plain": 5}, {"image/png": [1]}]


@pytest.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    monkeypatch.setattr(watch, "START_SECONDS", 0.0)
    root = tmp_path / "root"
    root.mkdir()
    options = {"root": str(root), "state_dir": str(tmp_path / "state"), "kernels": "memory"}
    async with open_services(Settings.load(options, {})) as services:
        yield services


async def call(services: Services, operation: str, **arguments: Any) -> Any:
    return await invoke(services, operation, arguments, caller=Caller("tester"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every part of a JSON value."""
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(below, (*path, key))


def spoiled() -> Iterator[dict[str, Any]]:
    """The whole notebook with one part missing, or being something else."""
    for path in list(places(WHOLE)):
        for odd in [..., *ODD]:
            value = copy.deepcopy(WHOLE)
            inner: Any = value
            for key in path[:-1]:
                inner = inner[key]
            if odd is ...:
                del inner[path[-1]]
            else:
                inner[path[-1]] = odd
            yield value


async def test_a_notebook_with_an_odd_part_is_read_or_refused(services: Services) -> None:
    path = services.settings.root / "odd.ipynb"
    answers: list[Any] = []
    for value in spoiled():
        path.write_text(json.dumps(value))
        os.utime(path, (1, 1))
        for operation in ("get_notebook_info", "read_all_cells"):
            with contextlib.suppress(InvalidNotebook):
                answers.append(await call(services, operation, notebook_path="odd.ipynb"))
    assert len(answers) > 300
    assert all(answer.text for answer in answers)


@pytest.mark.parametrize("odd", [[], "python3", 5, None, {"name": []}, {"name": ""}], ids=str)
async def test_a_kernelspec_that_is_none_is_taken_for_the_default_one(services: Services, odd: Any) -> None:
    value = {**WHOLE, "metadata": {"kernelspec": odd}}
    (services.settings.root / "odd.ipynb").write_text(json.dumps(value))
    assert "kernelspec python3" in (await call(services, "get_notebook_info", notebook_path="odd.ipynb")).text
    answer = await call(services, "run_all_cells", notebook_path="odd.ipynb")
    assert answer.data["status"] == {"ok": 1}


@pytest.mark.parametrize("path", ["x" * 5_000, "a/" * 2_000, "a/" * 2_000 + "b.ipynb", "\ud800", "a\0b"], ids=len)
@pytest.mark.parametrize(
    ("operation", "argument"),
    [
        ("list_files", "path"),
        ("list_notebooks", "path"),
        ("create_notebook", "notebook_path"),
        ("get_notebook_info", "notebook_path"),
        ("append_execute_code_cell", "notebook_path"),
        ("start_kernel", "notebook_path"),
        ("undo", "notebook_path"),
    ],
)
async def test_a_path_that_no_disk_can_have_is_refused(
    services: Services, operation: str, argument: str, path: str
) -> None:
    more = {"cell_source": "1"} if operation.startswith("append") else {}
    with pytest.raises(InvalidRequest):
        await call(services, operation, **{argument: path}, **more)
    assert os.listdir(services.settings.root) == []


async def test_the_resource_of_a_big_notebook_is_its_outline_and_writes_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat

    notebook = notebooks.new_notebook("python3")
    notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "first = 1"))
    await services.contents.create("small.ipynb", notebook)
    small, big = (NotebookHandle(f"{name}.ipynb") for name in ("small", "big"))
    async with open_places(services) as places:
        assert '"first = 1"' in (await resources.read(places, small, Caller("tester")))[0]
    notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "x" * resources.MAX_NOTEBOOK_CHARS))
    await services.contents.create("big.ipynb", notebook)
    monkeypatch.setattr(nbformat, "writes", lambda *args, **how: pytest.fail("written"))
    async with open_places(services) as places:
        text, _ = await resources.read(places, big, Caller("tester"))
    assert "first = 1" in text
    assert len(text) < 2_000


async def test_a_persons_save_is_an_event_and_our_own_edit_is_one_too_once(services: Services) -> None:
    await call(services, "create_notebook", notebook_path="a.ipynb")
    root = services.settings.root
    with services.events.subscribe() as events:
        arrived = _changed(events)
        with anyio.fail_after(60):
            for name in ("first", "last"):  # the first is there before the watching has begun, the last after it
                (root / f"{name}.ipynb").write_bytes((root / "a.ipynb").read_bytes())
                found = [await anext(arrived)]
                while found[-1] != f"{name}.ipynb":
                    found.append(await anext(arrived))
                if name == "first":
                    await call(services, "append_markdown_cell", notebook_path="a.ipynb", cell_source="ours")
    assert found.count("a.ipynb") == 1


async def _changed(events: Any) -> AsyncIterator[str]:
    async for event in events:
        if event.kind == "notebook.changed":
            yield event.data["notebook"]
