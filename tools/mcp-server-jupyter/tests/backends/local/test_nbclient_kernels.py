"""A notebook run by us has the outputs nbclient gives it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from acceptance_notebooks import BEHAVIOURS
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    root = tmp_path / "root"
    root.mkdir()
    async with open_services(Settings.load({"root": root, "state_dir": tmp_path / "state"}, {})) as services:
        yield services


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs without what differs from run to run, neighbouring pieces of one stream put together."""
    found: list[Any] = []
    for output in outputs:
        kept = {key: value for key, value in output.items() if key not in ("traceback", "metadata")}
        if kept["output_type"] == "stream" and found and found[-1].get("name") == kept["name"]:
            found[-1]["text"] += kept["text"]
        else:
            found.append(kept)
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
async def test_outputs_equal_those_of_nbclient(behaviour: str, services: Services) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in BEHAVIOURS[behaviour]]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "P"}})
    path = services.settings.root / "b.ipynb"
    nbformat.write(notebook, path)
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(services.settings.root)}})
    try:
        await client.async_execute()
    except CellExecutionError:
        assert "stop" in behaviour
    answer = await invoke(services, "run_all_cells", {"notebook_path": "b.ipynb"}, caller=Caller("tester"))
    assert "running" not in answer.text
    await services.contents.flush()
    ours = nbformat.read(path, as_version=4)
    nbformat.validate(ours)
    for index, (mine, theirs) in enumerate(zip(ours.cells, notebook.cells, strict=True)):
        assert joined(mine.outputs) == joined(theirs.outputs), f"cell {index}"
        assert mine.execution_count == theirs.execution_count, f"cell {index}"
