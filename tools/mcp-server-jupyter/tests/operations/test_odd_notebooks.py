"""Notebooks that other programs wrote without keeping to the format: an answer or an error of ours, never a raw one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter.errors import InvalidNotebook, JupyterMcpError
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

CODE = {"cell_type": "code", "id": "c", "metadata": {}, "source": "1", "outputs": [], "execution_count": None}


@pytest.fixture(scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "root").mkdir()
    given = {"root": folder / "root", "state_dir": folder / "state", "kernels": "memory"}
    async with open_services(Settings.load(given, {})) as services:
        yield services


async def call(services: Services, operation: str, /, **arguments: Any) -> Answer:
    return await invoke(services, operation, arguments, caller=Caller("tester"))


def write(services: Services, name: str, notebook: Any) -> None:
    (Path(services.settings.root) / name).write_text(json.dumps(notebook))


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": "python3"},
        {"kernelspec": ["python3"]},
        {"kernelspec": None},
        {"kernelspec": {"name": 7}},
        {"kernelspec": {"name": {"name": "python3"}}},
        {"kernelspec": {}, "language_info": "python"},
    ],
    ids=json.dumps,
)
async def test_a_kernelspec_that_is_none_means_the_default_one(
    services: Services, metadata: dict[str, Any], tmp_path: Path
) -> None:
    name = f"{tmp_path.name}.ipynb"
    write(services, name, {"cells": [CODE], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    assert "kernelspec python3" in (await call(services, "get_notebook_info", notebook_path=name)).text
    answer = await call(services, "run_all_cells", notebook_path=name)
    assert answer.data["status"] == {"ok": 1}
    await call(services, "shutdown_kernel", notebook_path=name)


CELLS: list[Any] = [
    {**CODE, "metadata": []},
    {**CODE, "metadata": "collapsed"},
    {**CODE, "metadata": {"tags": "parameters", "collapsed": {"x": []}}},
    {**CODE, "outputs": "text"},
    {**CODE, "outputs": ["text", 7, None]},
    {**CODE, "outputs": [{"output_type": "display_data", "data": ["x"], "metadata": []}]},
    {**CODE, "outputs": [{"output_type": "display_data", "data": {"text/plain": 7, "image/png": {}}, "metadata": {}}]},
    {**CODE, "outputs": [{"output_type": "error", "ename": 1, "evalue": None, "traceback": "here"}]},
    {**CODE, "outputs": [{"output_type": "of another kind", "x": 1}]},
    {**CODE, "outputs": [{"output_type": ["stream"]}]},
    {**CODE, "execution_count": "7"},
    {**CODE, "execution_count": 10**30},
    {**CODE, "id": 7},
    {**CODE, "id": None},
    {**CODE, "source": ["a = 1\n", "a"]},
    {**CODE, "source": [1]},
    {**CODE, "source": None},
    {**CODE, "source": "x = '\ud800'"},
    {**CODE, "cell_type": "sql"},
    {**CODE, "cell_type": {}},
    {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "m", "attachments": "a.png"},
    {"cell_type": "code"},
    "a cell",
    7,
    None,
    [],
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: json.dumps(cell)[:70])
async def test_odd_cells_are_answered_or_refused(services: Services, cell: Any, tmp_path: Path) -> None:
    name = f"{tmp_path.name}.ipynb"
    write(services, name, {"cells": [CODE | {"id": "first"}, cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    await _all_of(services, name)


@pytest.mark.parametrize(
    "notebook",
    [
        {"cells": [CODE], "metadata": [], "nbformat": 4, "nbformat_minor": 5},
        {"cells": [CODE], "metadata": "text", "nbformat": 4, "nbformat_minor": 5},
        {"cells": [CODE], "nbformat": 4, "nbformat_minor": 5},
        {"cells": [CODE], "metadata": {"kernelspec": [1]}, "nbformat": 4, "nbformat_minor": 2},
        {"cells": {"0": CODE}, "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
        {"cells": [CODE, CODE], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
        {"worksheets": [{"cells": []}], "metadata": {"name": []}, "nbformat": 3, "nbformat_minor": 0},
        {"worksheets": "x", "metadata": 7, "nbformat": 3, "nbformat_minor": 0},
        {"nbformat": True, "cells": []},
        [],
        "text",
        None,
    ],
    ids=lambda notebook: json.dumps(notebook)[-70:],
)
async def test_odd_notebooks_are_answered_or_refused(services: Services, notebook: Any, tmp_path: Path) -> None:
    name = f"{tmp_path.name}.ipynb"
    write(services, name, notebook)
    await _all_of(services, name)


async def _all_of(services: Services, name: str) -> None:
    """Every operation that reads or changes a notebook; what is refused with an error of ours is answered."""
    for operation, arguments in {
        "get_notebook_info": {},
        "read_all_cells": {},
        "read_cell": {"cell_index": -1},
        "execute_cell_with_progress": {"cell_index": -1},
        "run_all_cells": {},
        "restart_kernel": {},
        "move_cell": {"cell_index": -1, "to_index": 0},
        "clear_outputs": {},
        "insert_cell": {"cell_index": 0, "cell_type": "raw", "cell_source": "new"},
        "overwrite_cell_source": {"cell_index": 0, "cell_source": "other"},
        "delete_cell": {"cell_index": -1},
        "undo": {},
        "shutdown_kernel": {},
    }.items():
        try:
            answer = await call(services, operation, notebook_path=name, **arguments)
        except JupyterMcpError:
            continue
        assert answer.text


@pytest.mark.parametrize("version", [2, 3])
async def test_the_outline_of_an_old_format_says_that_it_is_read_only(services: Services, version: int) -> None:
    cell = {"cell_type": "code", "input": "1", "outputs": [], "language": "python", "collapsed": False}
    sheet = {"cells": [cell], "metadata": {}}
    old = {"worksheets": [sheet], "metadata": {"name": "x"}, "nbformat": version, "nbformat_minor": 0}
    (services.settings.root / "old.ipynb").write_text(json.dumps(old))
    told = await invoke(services, "get_notebook_info", {"notebook_path": "old.ipynb"}, caller=Caller("tester"))
    assert f"1 cells, read-only: old format {version}" in told.text
    arguments = {"notebook_path": "old.ipynb", "cell_source": "x"}
    with pytest.raises(InvalidNotebook, match="is read but not edited"):
        await invoke(services, "append_markdown_cell", arguments, caller=Caller("tester"))
