"""Files that no program should write, through every operation: an answer, or a refusal that changes no byte."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import watch
from mcp_server_jupyter.errors import InvalidNotebook, JupyterMcpError
from mcp_server_jupyter.operations import OPERATIONS, Caller
from mcp_server_jupyter.operations.bind import invoke, parameters
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

ARGUMENTS = {"cell_index": 0, "to_index": 1, "cell_source": "2", "cell_type": "raw", "code": "3", "name": "x"}
EDIT = {"old_string": "1", "new_string": "4"}
OF_NOTEBOOKS = [name for name, operation in OPERATIONS.items() if "notebook_path" in parameters(operation)]


@pytest.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    monkeypatch.setattr(watch, "START_SECONDS", 0.0)
    (tmp_path / "root").mkdir()
    options = {"root": str(tmp_path / "root"), "state_dir": str(tmp_path / "state"), "kernels": "memory"}
    async with open_services(Settings.load(options, {})) as services:
        yield services


def cell(**parts: Any) -> dict[str, Any]:
    return {"cell_type": "code", "id": "c", "metadata": {}, "source": "1", "outputs": [], "execution_count": 1} | parts


def notebook(*cells: Any, **parts: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | parts


def old(version: int, **parts: Any) -> dict[str, Any]:
    """A code cell's source was once `code` or `input`, and cells stood in a worksheet from format 2 on."""
    made: dict[str, Any] = {"cell_type": "code", "language": "python", "outputs": [], "prompt_number": 1}
    made["code" if version == 1 else "input"] = "1"
    cells = {"cells": [made, made]} if version == 1 else {"worksheets": [{"cells": [made, made], "metadata": {}}]}
    return {"nbformat": version, "nbformat_minor": 0, "metadata": {"name": "old"}} | cells | parts


OLD = [
    *(old(version) for version in (1, 2, 3)),
    *(old(version, worksheets=odd) for version in (2, 3) for odd in ([], "x", [7], [{}], [{"cells": [7]}])),
    *(old(version, cells=odd) for version in (1, 2, 3) for odd in ("x", [7], [{}])),
    *(old(version, metadata=odd) for version in (1, 2, 3) for odd in ("x", [7], None)),
    notebook(cell(), worksheets=[]),
]


ODD = [
    notebook(cell(source=None)),
    notebook(cell(source=["1\n", 1])),
    notebook(cell(outputs=[{"output_type": "stream", "text": 1}])),
    notebook(cell(id="c"), cell(id="c"), cell(id=7)),
    notebook(cell(cell_type="sql")),
    notebook(cell(metadata={"tags": "parameters", "collapsed": {"x": []}}, execution_count=10**30)),
    notebook(cell(), metadata={"kernelspec": ["python3"], "language_info": "python", "widgets": [1]}),
    notebook(metadata="text"),
    notebook(nbformat=5),
    notebook(nbformat_minor="5"),
    {"cells": []},
    [],
]


def deep_places(value: Any) -> Iterator[dict[str, Any]]:
    """Notebooks with a value wherever the format allows any."""
    bundle = {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}}
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"m": {"state": value}}, "version_major": 2}}
    yield notebook(cell(), cell(id="d"), metadata={"x": value})
    yield notebook(cell(), cell(id="d"), metadata={"widgets": widgets})
    yield notebook(cell(), cell(id="d"), x=value)
    yield notebook(cell(metadata={"x": value}), cell(id="d"))
    yield notebook(cell(outputs=[bundle | {"data": {"application/json": value}}]), cell(id="d"))
    yield notebook(cell(outputs=[bundle | {"metadata": {"x": value}}]), cell(id="d"))
    yield notebook(cell(cell_type="markdown", attachments={"a": {"image/png": value}}), cell(id="d"))
    yield old(3, metadata={"name": "old", "x": value})


def nested(levels: int) -> Any:
    """Lists and objects in turns."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"x": value}
    return value


async def through_every_operation(services: Services, text: str) -> dict[str, Exception | None]:
    """Each operation on a file of its own: what it was refused with, None when it was answered."""
    refused: dict[str, Exception | None] = {}
    for name in OF_NOTEBOOKS:
        path = services.settings.root / f"{name}.ipynb"
        path.write_text(text)
        os.utime(path, (1, 1))  # one that was written just now would be given a second to become whole
        known = parameters(OPERATIONS[name])
        arguments = {key: value for key, value in (ARGUMENTS | EDIT).items() if key in known}
        try:
            answer = await invoke(services, name, {"notebook_path": path.name, **arguments}, caller=Caller("tester"))
        except JupyterMcpError as error:
            refused[name] = error
            assert path.read_text() == text, name
        else:
            refused[name] = None
            assert answer.text
            if OPERATIONS[name].read_only:
                assert path.read_text() == text, name
        for session in services.sessions.all():
            await services.sessions.shutdown(session)
    return refused


@pytest.mark.parametrize("odd", OLD, ids=lambda odd: json.dumps(odd)[:60])
async def test_an_old_format_is_read_or_refused_and_never_written(services: Services, odd: Any) -> None:
    text = json.dumps(odd)
    await through_every_operation(services, text)
    assert {path.read_text() for path in services.settings.root.glob("*.ipynb")} == {text}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: json.dumps(odd)[-60:])
async def test_a_refusal_to_do_anything_with_an_odd_file_changes_no_byte(services: Services, odd: Any) -> None:
    refused = await through_every_operation(services, json.dumps(odd))
    assert all(error is None or str(error) for error in refused.values())


@pytest.mark.parametrize("place", range(8))
async def test_what_is_nested_as_deeply_as_outputs_may_be_is_read_and_edited(services: Services, place: int) -> None:
    text = json.dumps(list(deep_places(nested(200)))[place])
    refused = await through_every_operation(services, text)
    assert refused["read_all_cells"] is None
    assert (refused["overwrite_cell_source"] is None) == ("worksheets" not in text)


@pytest.mark.parametrize("levels", [notebooks.MAX_LEVELS + 8, 5_000])
async def test_what_is_nested_more_deeply_is_refused_by_every_operation(services: Services, levels: int) -> None:
    marker = "@"
    for odd in deep_places(marker):
        value = '{"x":[' * (levels // 2) + "]}" * (levels // 2)
        refused = await through_every_operation(services, json.dumps(odd).replace(f'"{marker}"', value))
        assert isinstance(refused["read_all_cells"], InvalidNotebook), odd
        assert "nested too deeply" in str(refused["read_all_cells"])
