"""A run from the call to the cell: what is sent, when, and what becomes of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of, shown
from mcp_server_jupyter.backends.memory.contents import MemoryContents
from mcp_server_jupyter.backends.memory.kernels import MemoryKernel, MemoryKernels
from mcp_server_jupyter.errors import Conflict, NotFound, Unavailable
from mcp_server_jupyter.execution.delivery import Delivery
from mcp_server_jupyter.execution.execution import Execution
from mcp_server_jupyter.journal import Journal
from mcp_server_jupyter.operations import OPERATIONS, Call, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path)) as desk:
        yield desk


class WaitingKernels(MemoryKernels):
    """Kernels that start when they are let."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked, self.go = anyio.Event(), anyio.Event()

    async def start(self, *args: Any, **more: Any) -> MemoryKernel:
        self.asked.set()
        await self.go.wait()
        return await super().start(*args, **more)


# ------------------------------------------------------------------ what is sent is what is there now


@pytest.mark.parametrize("operation", ["execute_cell_with_progress", "run_all_cells"])
async def test_what_is_written_while_the_kernel_starts_is_what_runs(operation: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    kernels = WaitingKernels(settings)
    arguments = {"cell_index": 0} if operation == "execute_cell_with_progress" else {}
    answers: list[Any] = []

    async def run() -> None:
        answers.append(await desk.call(operation, **arguments))

    async with open_desk(settings, kernels=kernels) as desk:
        old = await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source="'old'")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await kernels.asked.wait()
            new = await desk.call("overwrite_cell_source", cell_index=0, cell_source="'new'")
            await desk.call("insert_cell", cell_index=0, cell_type="markdown", cell_source="# Above")
            kernels.go.set()
        [answer] = answers
        assert "'new'" in answer.text
        assert old.data["hash"] not in answer.text
        assert f"[1] id={old.data['cell_id']} ok" in answer.text
        assert new.data["hash"] != old.data["hash"]
        assert [shown(cell) for cell in (await desk.cells())[1:]] == ["'new'"]


async def test_a_cell_deleted_while_the_kernel_starts_does_not_run(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    kernels = WaitingKernels(settings)
    async with open_desk(settings, kernels=kernels) as desk:
        await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source="1")
        await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source="2")
        refused: list[NotFound] = []

        async def run() -> None:
            try:
                await desk.call("execute_cell_with_progress", cell_index=0)
            except NotFound as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await kernels.asked.wait()
            await desk.call("delete_cell", cell_index=0)
            kernels.go.set()
        assert len(refused) == 1
        assert all(cell["execution_count"] is None for cell in await desk.cells())


# ------------------------------------------------------------------ inserted and run: journal, document, kernel


class RefusingContents(MemoryContents):
    """Notebooks whose edits are refused once they are made, as by a conflict with another program."""

    refuse = False

    @asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True, author: str = "") -> AsyncIterator[Any]:
        before = await self.read(path)
        async with super().edit(path, durable=durable, author=author) as notebook:
            yield notebook
        if self.refuse:
            self._notebooks[self.resolve(path)] = before
            raise Conflict("Somebody else changed it.")


async def test_a_document_that_cannot_be_changed_stops_the_run_before_it_is_sent(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    contents = RefusingContents(settings)
    async with open_desk(settings, contents=contents) as desk:
        await desk.call("execute_code", code="ran = []")
        contents.refuse = True
        with pytest.raises(Conflict):
            await desk.call("append_execute_code_cell", cell_source="ran.append(1)")
        contents.refuse = False
        assert (await desk.call("execute_code", code="ran")).text.splitlines()[-1] == "[]"
        assert (await contents.read("a.ipynb")).cells == []
        assert desk.services.journal.edits("a.ipynb") == []
        assert desk.services.journal.unfinished() == []


async def test_an_edit_that_cannot_be_journaled_stops_the_run_and_leaves_the_document(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="ran = []")

    def fail(*_: object, **__: object) -> None:
        raise Unavailable("The disk is full.")

    for method in ("add_execution", "add_edits"):
        with monkeypatch.context() as full:
            full.setattr(Journal, method, fail)
            with pytest.raises(Unavailable):
                await desk.call("append_execute_code_cell", cell_source="ran.append(1)")
    assert (await desk.call("execute_code", code="ran")).text.splitlines()[-1] == "[]"
    assert await desk.cells() == []
    assert desk.services.journal.unfinished() == []


async def test_a_notebook_that_is_gone_stops_the_run(desk: Desk) -> None:
    await desk.call("execute_code", code="ran = []")
    desk.file.unlink()
    with pytest.raises(NotFound):
        await desk.call("append_execute_code_cell", cell_source="ran.append(1)")
    answer = await desk.call("execute_code", code="ran", kernel_id=desk.services.sessions.all()[0].id)
    assert answer.text.splitlines()[-1] == "[]"


async def test_after_a_write_that_failed_a_cell_is_run_only_once_it_is_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("append_execute_code_cell", cell_source="ran = []")
    await desk.services.contents.flush()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("mcp_server_jupyter.backends.files.disk.replace", fail)
        first = desk.execution(await desk.call("append_execute_code_cell", cell_source="ran.append(1)"))
        with anyio.fail_after(60):
            while "They are kept" not in first.warnings.get("notebook", ""):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        with pytest.raises(Unavailable):
            await desk.call("append_execute_code_cell", cell_source="ran.append(2)")
    answer = await desk.call("append_execute_code_cell", cell_source="ran")
    assert answer.text.splitlines()[-1] == "[1]"
    assert [cell["source"] for cell in await desk.cells()] == [["ran = []"], ["ran.append(1)"], ["ran"]]


# ------------------------------------------------------------------ finished, whatever became of the cell


async def test_an_execution_is_answered_once_its_outputs_are_in_the_notebook(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="1")
    begun, go = anyio.Event(), anyio.Event()
    finish = Delivery.finish

    async def slowly(delivery: Delivery, execution: Execution) -> None:
        begun.set()
        await go.wait()
        await finish(delivery, execution)

    monkeypatch.setattr(Delivery, "finish", slowly)
    answers: list[Any] = []

    async def run() -> None:
        answers.append(await desk.call("append_execute_code_cell", cell_source="print('x')"))

    async def ask() -> None:
        identity = desk.services.executions.active()[0].id
        answers.append(await desk.call("get_execution", execution_id=identity, wait_seconds=20))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await begun.wait()
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert answers == []
        go.set()
    assert [answer.data["status"] for answer in answers] == ["ok", "ok"]
    assert shown((await desk.services.contents.read("a.ipynb")).cells[0]) == "x\n"


async def test_a_cell_made_markdown_while_it_runs_is_finished_with_a_note_and_told(desk: Desk) -> None:
    await desk.call("append_execute_code_cell", cell_source="go = []")
    source = "while not go: sleep(0.01)\n42"
    await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source=source)
    answer = await desk.call("execute_cell_with_progress", cell_index=1, timeout_seconds=0.1)
    await desk.services.contents.flush()
    document = json.loads(desk.file.read_text())
    for name in ("outputs", "execution_count"):
        del document["cells"][1][name]
    document["cells"][1]["cell_type"] = "markdown"
    desk.file.write_text(json.dumps(document))
    kernel = desk.services.sessions.all()[0].kernel
    with desk.services.events.subscribe() as events:
        kernel._interpreter._namespace["go"].append(1)  # type: ignore[attr-defined]
        finished = [event async for event in _until_finished(events)]
    assert finished[-1].data["status"] == "ok"
    told = await desk.call("get_execution", execution_id=answer.data["execution_id"])
    assert told.data["status"] == "ok"
    assert "42" in told.text
    assert "! The cell is no code cell any more; its outputs are kept with the execution." in told.text


async def test_a_defect_in_one_execution_is_told_and_the_next_one_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="1")
    feed = "mcp_server_jupyter.outputs.reducer.OutputReducer.feed"

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with desk.services.events.subscribe() as events:
        with monkeypatch.context() as broken:
            broken.setattr(feed, fail)
            answer = await desk.call("execute_code", code="2")
        assert [event async for event in _until_finished(events)][-1].data["status"] == "lost"
    assert "its log says how" in answer.text
    assert (await desk.call("execute_code", code="1 + 2")).text.splitlines()[-1] == "3"


async def _until_finished(events: Any) -> AsyncIterator[Any]:
    with anyio.fail_after(60):
        async for event in events:
            if event.kind.startswith("execution."):
                yield event
            if event.kind == "execution.finished":
                return


# ------------------------------------------------------------------ input, interrupts, progress, cancellation


async def test_interrupting_a_cell_that_waits_for_input_says_that_it_has_stopped(desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source="input('name? ')")
    assert answer.data["status"] == "waiting_input"
    interrupted = await desk.call("interrupt_kernel")
    assert interrupted.data["stopped"] is True
    assert "not stopped" not in interrupted.text
    told = await desk.call("get_execution", execution_id=answer.data["execution_id"])
    assert told.data["status"] == "interrupted"


async def test_input_asked_for_by_a_cell_is_answered_through_the_next_server(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local", keep_kernels=True)
    async with open_desk(settings) as desk:
        answer = await desk.call("append_execute_code_cell", cell_source="print(input('name? '))")
        assert answer.data["status"] == "waiting_input"
    async with open_desk(settings) as desk:
        identity = answer.data["execution_id"]
        told = await desk.call("get_execution", execution_id=identity, wait_seconds=20)
        assert (told.data["status"], told.data["input_prompt"]) == ("waiting_input", "name? ")
        sent = await desk.call("send_input", execution_id=identity, text="Ann")
        assert sent.data["status"] == "ok"
        assert shown((await desk.cells())[0]) == "Ann\n"
        await desk.call("shutdown_kernel")


async def test_progress_rises_over_all_cells_of_a_call(desk: Desk) -> None:
    for _ in range(2):
        source = "print(0); sleep(0.4)"
        await desk.call("insert_cell", cell_index=-1, cell_type="code", cell_source=source)
    values: list[float] = []
    texts: list[str] = []

    async def progress(value: float, text: str) -> None:
        values.append(value)
        texts.append(text)

    await OPERATIONS["run_all_cells"].run(Call(desk.services, Caller("tester"), progress))
    assert len(values) >= 2
    assert all(before < after for before, after in itertools.pairwise(values)), values
    assert "0\n" in texts


@pytest.mark.parametrize("cancelled", [True, False])
async def test_only_a_caller_that_cancels_interrupts_its_cell(cancelled: bool, desk: Desk) -> None:
    await desk.call("execute_code", code="go = []")
    identity: list[str] = []
    arguments = {"cell_source": "print('on')\nwhile not go: sleep(0.01)\n'done'"}
    with desk.services.events.subscribe() as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                lambda: invoke(
                    desk.services,
                    "append_execute_code_cell",
                    arguments,
                    caller=Caller("tester"),
                    cancelled_by_caller=lambda: cancelled,
                )
            )
            async for event in events:
                if event.kind == "execution.output":
                    identity.append(event.data["execution_id"])
                    break
            tasks.cancel_scope.cancel()
    execution = desk.services.executions.get(identity[0])
    assert execution is not None
    if not cancelled:
        kernel = desk.services.sessions.all()[0].kernel
        kernel._interpreter._namespace["go"].append(1)  # type: ignore[attr-defined]
    await execution.wait_finished(60)
    assert execution.status == ("interrupted" if cancelled else "ok")
