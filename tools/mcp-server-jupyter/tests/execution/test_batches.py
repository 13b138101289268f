"""Cells run together: one handle that tells of all, and why the rest was not run."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mcp_server_jupyter.commands.run import run_notebook
from mcp_server_jupyter.notebooks import new_cell, new_notebook
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("batches")
    (folder / "root").mkdir()
    options = {"root": folder / "root", "state_dir": folder / "state"}
    async with open_services(Settings.load(options, {})) as opened:
        yield opened


async def notebook(services: Services, name: str, *sources: str) -> str:
    made = new_notebook("python3")
    made.cells += [new_cell("code", source) for source in sources]
    await services.contents.create(name, made)
    return name


async def call(services: Services, operation: str, **arguments: object) -> Answer:
    return await invoke(services, operation, arguments, caller=Caller("tester"))


async def test_what_was_not_run_says_which_cell_raised_what(services: Services) -> None:
    path = await notebook(services, "raises.ipynb", "1", "1/0", "2", "3")
    answer = await call(services, "run_all_cells", notebook_path=path)
    assert answer.text.splitlines()[-1] == "not run: 2, 3; cell [1] raised ZeroDivisionError"
    aborted = answer.data["executions"][2]["execution_id"]
    told = await call(services, "get_execution", execution_id=aborted)
    assert "Not run: cell [1] raised ZeroDivisionError." in told.text


async def test_one_handle_tells_of_every_cell_of_a_run(services: Services, tmp_path: Path) -> None:
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)"
    path = await notebook(services, "long.ipynb", "print('first')", wait, "print('third')")
    await call(services, "execute_code", notebook_path=path, code="0")
    answer = await call(services, "run_all_cells", notebook_path=path, timeout_seconds=0.3)
    named = re.search(r'get_execution\(execution_id="(run-[0-9a-f]+)"', answer.text)
    assert named is not None
    with anyio.fail_after(60):
        while "1 ok, 1 running, 1 queued" not in answer.text:
            answer = await call(services, "get_execution", execution_id=named[1], wait_seconds=0.1)
    running = await call(services, "get_execution", execution_id=named[1])
    assert "first" in running.text
    assert "queued: 2" in running.text
    (tmp_path / "go").touch()
    done = await call(services, "get_execution", execution_id=named[1], wait_seconds=30)
    assert "3 ok" in done.text
    assert "third" in done.text
    assert "Still" not in done.text


async def test_input_in_a_run_from_the_command_line_raises_at_once(services: Services) -> None:
    path = await notebook(services, "asks.ipynb", "input('name?')", "2")
    said: list[str] = []
    assert not await run_notebook(services, path, path, {}, said.append)
    assert any("StdinNotImplementedError" in line for line in said)
    assert not any("send_input" in line for line in said)


async def test_a_run_writes_down_the_language_as_its_kernel_tells_it(services: Services) -> None:
    path = await notebook(services, "language.ipynb", "1")
    assert await run_notebook(services, path, path, {}, lambda _: None)
    info = json.loads((services.settings.root / path).read_text())["metadata"]["language_info"]
    assert info["version"] == platform.python_version()
    assert info["pygments_lexer"] == "ipython3"
