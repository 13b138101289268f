"""Notebooks run by us are the documents that nbclient makes of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import anyio
import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from forked_kernels import ready_line
from http_app import App, open_app
from mcp_server_jupyter.backends.local.forking.fitness import is_possible_here
from mcp_server_jupyter.commands.run import run_notebook
from mcp_server_jupyter.outputs import STATE_MIME
from parity.notebooks import NOTEBOOKS, Parity, Way

# One worker, so that a kernel serves many notebooks.
pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("parity")]

RESET = """
def _reset():
    import IPython, logging, sys
    shell = get_ipython()
    shell.reset()
    shell.execution_count = 1
_reset()
"""


class TheirKernel:
    """A kernel that nbclient runs notebook after notebook in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manager: Any = None
        self._client: Any = None

    async def run(self, notebook: Any, *, own_kernel: bool) -> Any:
        """Run all of a notebook; what became of it."""
        client = await self._fresh(notebook)
        with suppress(CellExecutionError, DeadKernelError):
            await client.async_execute()
        if own_kernel:
            await self.close()
        return client.nb

    async def _fresh(self, notebook: Any) -> NotebookClient:
        if self._manager is None:
            self._manager = AsyncKernelManager(kernel_name="python3")
            await self._manager.start_kernel(cwd=str(self._folder))
            self._client = self._manager.client()
            self._client.start_channels()
            await self._client.wait_for_ready()
            self._client.allow_stdin = False
            self._client.shell_channel.get_msg = looking_again(self._client.shell_channel.get_msg)
        client = NotebookClient(notebook, km=self._manager, record_timing=False, timeout=100)
        client.kc = self._client
        await client.async_wait_for_reply(self._client.execute(RESET, silent=True))
        return client

    async def close(self) -> None:
        """End the kernel; the next notebook has a new one."""
        if self._manager is not None:
            self._client.stop_channels()
            await self._manager.shutdown_kernel(now=True)
            self._manager = None


def looking_again(get_msg: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wait for a message as GET_MSG does, in steps.

    What nbclient sends for an Output widget, while it waits, may take the event by which the reply's coming is told: it
    then finds the reply when its time is over.
    """

    async def get(timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as jupyter_client calls it
        end = math.inf if timeout is None else anyio.current_time() + timeout
        while True:
            try:
                return await get_msg(timeout=min(1.0, end - anyio.current_time()))
            except Empty:
                if anyio.current_time() >= end:
                    raise

    return get


class OurKernels:
    """Kernels of ours, one for each way of running, behind the HTTP door."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._root = app.services.settings.root
        self._client = app.client()

    async def call(self, operation: str, **arguments: Any) -> Any:
        answer = await self._client.post(f"/api/operations/{operation}", json=arguments, timeout=100)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def run(self, way: Way, notebook: Any, *, own_kernel: bool) -> Any:
        path = f"{way}.ipynb"
        kept = self._app.services.sessions.find(path)
        if kept is not None:
            await self.call("execute_code", notebook_path=path, code=RESET)
        (self._root / path).write_text(nbformat.writes(notebook))
        if way == "run":
            await run_notebook(self._app.services, path, path, {}, lambda line: None)
        elif way == "run_all":
            answer = await self.call("run_all_cells", notebook_path=path, timeout_seconds=100)
            assert "running" not in answer["data"].get("status", {}), answer["text"]
        else:
            await self._run_each(path, notebook)
        if own_kernel or way == "run":
            await self.call("shutdown_kernel", notebook_path=path)
        await self._app.services.contents.flush()
        made = nbformat.read(self._root / path, as_version=4)
        nbformat.validate(made)
        return made

    async def _run_each(self, path: str, notebook: Any) -> None:
        """Cell by cell, as far as a run goes."""
        for index, cell in enumerate(notebook.cells):
            tags = cell.metadata.get("tags", [])
            if cell.cell_type != "code" or not cell.source.strip() or "skip-execution" in tags:
                continue
            answer = await self.call(
                "execute_cell_with_progress", notebook_path=path, cell_index=index, timeout_seconds=100
            )
            status = answer["data"]["status"]
            assert status in ("ok", "error", "died"), answer["text"]
            if status != "ok" and "raises-exception" not in tags:
                return


@pytest.fixture(scope="module")
async def theirs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TheirKernel]:
    kernel = TheirKernel(tmp_path_factory.mktemp("theirs"))
    yield kernel
    await kernel.close()


FORKED = pytest.mark.skipif(not is_possible_here(), reason="nothing is forked here")


@pytest.fixture(scope="module", params=["spawned", pytest.param("forked", marks=[pytest.mark.long, FORKED])])
async def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OurKernels]:
    is_forked = request.param == "forked"
    folder = tmp_path_factory.mktemp(request.param)
    async with open_app(folder, kernels="local", fork_kernels=is_forked, preload="pandas" if is_forked else "") as app:
        if is_forked:
            await ready_line(app.services.kernels)
        yield OurKernels(app)


# --------------------------------------------------------------------------- what is compared

UNLIKE = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"/[^\s:]*ipykernel_\d+/\d+\.py"), "CELL.py"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    # Of a style of pandas.
    (re.compile(r"T_[0-9a-f]{5}"), "T_ID"),
)


class Comparable:
    """What two runs of a notebook must have in common: ids made at random are replaced by what they stand for."""

    def __init__(self, notebook: Any, *, uncounted: Collection[int] = ()) -> None:
        self._states = dict(notebook.metadata.get("widgets", {}).get(STATE_MIME, {}).get("state", {}))
        self._said: dict[str, str] = {}
        self.metadata = self._of({key: value for key, value in notebook.metadata.items() if key != "widgets"})
        self.cells = [self._cell(cell, index in uncounted) for index, cell in enumerate(notebook.cells)]
        self.widgets = sorted(self._state_of(model_id) for model_id in self._states)
        stored = notebook.metadata.get("widgets", {})
        self.widgets += [
            str(sorted(stored)),
            str({k: v for k, v in stored.get(STATE_MIME, {}).items() if k != "state"}),
        ]

    def _cell(self, cell: Any, uncounted: bool) -> Any:
        kept = {key: self._of(value) for key, value in cell.items() if key != "outputs"}
        if uncounted:
            del kept["execution_count"]
        return kept if cell.cell_type != "code" else {**kept, "outputs": self._of(joined(cell.outputs))}

    def _state_of(self, model_id: str) -> str:
        if model_id not in self._said:
            self._said[model_id] = "(itself)"
            self._said[model_id] = json.dumps(self._of(self._states.get(model_id, "?")), sort_keys=True)
        return self._said[model_id]

    def _of(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._text(key): self._of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._of(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        for pattern, instead in UNLIKE:
            text = pattern.sub(instead, text)
        return re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda found: self._state_of(found[0]), text)


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs with the neighbouring pieces of a stream put together."""
    found: list[Any] = []
    for output in map(dict, outputs):
        if output["output_type"] == "stream" and found and found[-1].get("name") == output["name"]:
            found[-1]["text"] += output["text"]
        else:
            found.append(output)
    return found


def without_ours(case: Parity, notebook: Any) -> Any:
    """A notebook of ours without what is known to be in ours alone, which must be there."""
    for index, ename in case.ours.items():
        extra = notebook.cells[index].outputs.pop()
        assert extra["ename"] == ename
    return notebook


@pytest.mark.parametrize("name", NOTEBOOKS)
async def test_a_notebook_is_what_nbclient_makes_of_it(name: str, theirs: TheirKernel, ours: OurKernels) -> None:
    case = NOTEBOOKS[name]
    with anyio.fail_after(110):
        expected = Comparable(await theirs.run(case.notebook(name), own_kernel=case.own_kernel), uncounted=case.ours)
        for way in case.ways:
            made = await ours.run(way, case.notebook(name), own_kernel=case.own_kernel)
            found = Comparable(without_ours(case, made), uncounted=case.ours)
            assert found.cells == expected.cells, way
            assert found.widgets == expected.widgets, way
            assert found.metadata == expected.metadata, way


BY_COMMAND = ("an_error_stops_the_rest", "input_asked_for", "progress_bars", "cells_that_do_not_run")


@pytest.mark.parametrize(
    "name", [name if name in BY_COMMAND else pytest.param(name, marks=pytest.mark.long) for name in NOTEBOOKS]
)
async def test_the_command_run_makes_of_it_what_nbclient_does(name: str, theirs: TheirKernel, ours: OurKernels) -> None:
    case = NOTEBOOKS[name]
    with anyio.fail_after(110):
        expected = Comparable(await theirs.run(case.notebook(name), own_kernel=case.own_kernel), uncounted=case.ours)
        made = await ours.run("run", case.notebook(name), own_kernel=case.own_kernel)
        found = Comparable(without_ours(case, made), uncounted=case.ours)
        assert (found.cells, found.widgets, found.metadata) == (expected.cells, expected.widgets, expected.metadata)


def test_there_are_notebooks_enough() -> None:
    assert len(NOTEBOOKS) >= 40
