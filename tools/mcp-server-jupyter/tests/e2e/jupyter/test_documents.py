"""Notebooks that are live documents of jupyter-server-documents: no sessions, no `save`, its own time for the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from lab import code_cell, emptied, on_disk, settings_for, sources, until, write

from a_jupyter import Jupyter
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.backends.jupyter.rooms.notebook import RoomNotebook

pytestmark = pytest.mark.anyio
PATIENCE = 60.0


@pytest.fixture
def server(documents: Jupyter) -> Jupyter:
    """Each test has a notebook of its own: rooms stay when nobody is in them, and take in a new file only later."""
    emptied(documents)
    return documents


async def seen(contents: JupyterContents, name: str) -> list[str]:
    return [cell.source for cell in (await contents.read(name)).cells]


async def test_an_edit_is_seen_by_others_and_gets_to_the_file(server: Jupyter, tmp_path: Path) -> None:
    write(server, code_cell("one", "1"), code_cell("two", "2"), name="edited.ipynb")
    settings = settings_for(server, tmp_path)
    async with JupyterContents(settings) as ours, JupyterContents(settings) as theirs:
        assert await seen(ours, "edited.ipynb") == await seen(theirs, "edited.ipynb") == ["1", "2"]
        assert isinstance(ours._open["edited.ipynb"], RoomNotebook)
        async with ours.edit("edited.ipynb", author="Ada#1") as notebook:
            notebooks.replace_source(notebook, 0, "ours")
            notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "new"))
        async with theirs.edit("edited.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "theirs")
        with anyio.fail_after(PATIENCE):
            await ours.flush("edited.ipynb")
            await theirs.flush("edited.ipynb")
        assert sources(server, "edited.ipynb") == ["ours", "theirs", "new"]


async def test_outputs_are_seen_by_others_and_get_to_the_file(server: Jupyter, tmp_path: Path) -> None:
    write(server, code_cell("one", "1"), name="ran.ipynb")
    settings = settings_for(server, tmp_path)
    output: Any = {"output_type": "stream", "name": "stdout", "text": "ours\n"}
    async with JupyterContents(settings) as ours, JupyterContents(settings) as theirs:
        await seen(theirs, "ran.ipynb")
        sink = ours.outputs("ran.ipynb", "one")
        sink.append(notebooks.node(output))
        await sink.show(1)
        with anyio.fail_after(PATIENCE):
            await ours.flush("ran.ipynb")

        async def is_seen() -> bool:
            return (await theirs.read("ran.ipynb")).cells[0].outputs == [output]

        # The room tells its members and writes its file in no order.
        await until(is_seen)
    [cell] = on_disk(server, "ran.ipynb")["cells"]
    assert "".join(cell["outputs"][0]["text"]) == "ours\n"
