"""A run writes down which language it ran in, as nbclient does, and nothing where that is known."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of

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
