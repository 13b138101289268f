"""The tags by which nbclient lets a cell fail or leaves it out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter.notebooks import new_cell, new_notebook
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    (tmp_path / "root").mkdir()
    options = {"root": tmp_path / "root", "state_dir": tmp_path / "state", "kernels": "memory", "notebook": "a.ipynb"}
    async with open_services(Settings.load(options, {})) as opened:
        yield opened


async def run(services: Services, *cells: tuple[str, Any]) -> Any:
    """Run all of a notebook of cells with these tags."""
    notebook = new_notebook("python3")
    for source, tags in cells:
        cell = new_cell("code", source)
        cell["metadata"]["tags"] = tags
        notebook.cells.append(cell)
    await services.contents.create("tags.ipynb", notebook)
    return await invoke(services, "run_all_cells", {"notebook_path": "tags.ipynb"}, caller=Caller("tester"))


def statuses(answer: Any) -> list[tuple[int, str]]:
    return [(e["cell_index"], e["status"]) for e in answer.data["executions"]]


async def test_a_cell_that_may_raise_does_not_stop_the_run(services: Services) -> None:
    answer = await run(services, ("1/0", ["raises-exception"]), ("2", []))
    assert statuses(answer) == [(0, "error"), (1, "ok")]
    assert "may fail by tag: 0" in answer.text


async def test_a_cell_to_skip_is_left_out_and_named(services: Services) -> None:
    answer = await run(services, ("1", []), ("1/0", ["skip-execution"]), ("3", []))
    assert statuses(answer) == [(0, "ok"), (2, "ok")]
    assert "skipped by tag: 1" in answer.text


@pytest.mark.parametrize("tags", [[], "raises-exception", None, [7, {}], {"raises-exception": True}])
async def test_other_and_odd_tags_let_nothing_fail(services: Services, tags: Any) -> None:
    answer = await run(services, ("1/0", tags), ("2", []))
    assert statuses(answer) == [(0, "error"), (1, "aborted")]
    assert "by tag" not in answer.text
