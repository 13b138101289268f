"""Output that comes after its cell has ended, and displays that are updated later."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of, shown
from mcp_server_jupyter.operations import Answers, Caller
from mcp_server_jupyter.operations.bind import invoke

pytestmark = pytest.mark.anyio

LATER = """import threading
go, said = threading.Event(), threading.Event()
def work():
    go.wait(60)
    print('late')
    said.set()
threading.Thread(target=work).start()
print('early')"""
FILE_LATER = """import os, threading, time
def work():
    while not os.path.exists({!r}):
        time.sleep(0.01)
    print('late', flush=True)
threading.Thread(target=work).start()
print('early')"""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path)) as desk:
        yield desk


async def say(desk: Desk) -> None:
    """Let the thread print, and wait until the server has the message."""
    execution = next(iter(desk.services.executions._recent.values()))
    version = execution.version
    await desk.call("execute_code", code="go.set(); said.wait(60)")
    with anyio.fail_after(60):
        await execution.news(version)


async def test_what_a_thread_prints_after_its_cell_has_ended_reaches_the_cell_and_the_journal(desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source=LATER)
    assert "late" not in answer.text
    await desk.call("execute_code", code="go.set(); said.wait(60)")
    await desk.until_text(0, "late")
    assert shown((await desk.cells())[0]) == "early\nlate\n"
    assert "late" in (await desk.call("get_execution", execution_id=answer.data["execution_id"])).text
    with anyio.fail_after(60):
        while True:
            row = desk.services.journal.execution(answer.data["execution_id"])
            assert row is not None
            if row.on_disk and "late" in json.dumps(row.outputs):
                break
            await anyio.sleep(0.01)


async def test_what_comes_late_of_code_without_a_cell_is_kept_with_the_execution(desk: Desk) -> None:
    answer = await desk.call("execute_code", code=LATER)
    await say(desk)
    assert "late" in (await desk.call("get_execution", execution_id=answer.data["execution_id"])).text


async def clear(desk: Desk) -> None:
    await desk.call("clear_outputs", cell_index=0)


async def edit(desk: Desk) -> None:
    await desk.call("overwrite_cell_source", cell_index=0, cell_source="'edited'")


async def rerun(desk: Desk) -> None:
    await desk.call("overwrite_cell_source", cell_index=0, cell_source="print('early')")
    await desk.call("execute_cell_with_progress", cell_index=0)


async def change_outputs(desk: Desk) -> None:
    document = json.loads(desk.file.read_text())
    document["cells"][0]["outputs"] = []
    desk.file.write_text(json.dumps(document))


@pytest.mark.parametrize("meanwhile", [clear, edit, rerun, change_outputs])
async def test_late_output_does_not_come_into_a_cell_that_was_changed_since(meanwhile: Any, desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source=LATER)
    await desk.services.contents.flush()
    await meanwhile(desk)
    await say(desk)
    execution = desk.execution(answer)
    with anyio.fail_after(60):
        while "kept with the execution only" not in execution.note:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    assert "late" not in shown((await desk.cells())[0])
    assert "late" in (await desk.call("get_execution", execution_id=execution.id)).text


async def note_of(desk: Desk, execution_id: str) -> str:
    """Wait until it is told that the cell is gone."""
    with anyio.fail_after(60):
        while True:
            execution = desk.services.executions.get(execution_id)
            if execution is not None and "cell was deleted" in execution.note:
                return execution.note
            await anyio.sleep(0.01)


async def test_a_cell_deleted_while_it_runs_is_told_so(tmp_path: Path) -> None:
    code = "import time\nwhile True: print('runs'); time.sleep(0.01)"
    async with open_desk(settings_of(tmp_path)) as desk:
        await desk.call("execute_code", code="1")
        hurried = Caller("tester", Answers(8_000, 4, 1_000_000, 0.1))
        answer = await invoke(desk.services, "append_execute_code_cell", {"cell_source": code}, caller=hurried)
        await desk.call("undo")
        assert "The cell was deleted while it ran;" in await note_of(desk, answer.data["execution_id"])
        await desk.call("interrupt_kernel")


async def test_a_cell_deleted_after_its_end_is_not_told_to_have_run_then(desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source=LATER)
    await desk.call("undo")
    await say(desk)
    assert "The cell was deleted; its outputs" in await note_of(desk, answer.data["execution_id"])


async def test_of_a_cell_that_ended_unseen_nobody_says_that_it_was_deleted_while_it_ran(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local", keep_kernels=True)
    async with open_desk(settings) as desk:
        answer = await desk.call("append_execute_code_cell", cell_source="print('done')")
        await desk.call("undo")
        # As the journal is when the server was killed before it wrote down what the cell came to.
        with desk.services.journal._transaction() as database:
            database.execute("UPDATE executions SET status = 'running', on_disk = 0, outputs = NULL")
    async with open_desk(settings) as desk:
        assert "The cell was deleted; its outputs" in await note_of(desk, answer.data["execution_id"])
        await desk.call("shutdown_kernel")


async def test_late_output_comes_after_a_restart_of_the_kernel_too(desk: Desk) -> None:
    await desk.call("execute_code", code="1")
    await desk.call("restart_kernel")
    await desk.call("append_execute_code_cell", cell_source=LATER)
    await desk.call("execute_code", code="go.set(); said.wait(60)")
    await desk.until_text(0, "late")


async def test_what_came_just_before_the_server_ends_is_written(tmp_path: Path) -> None:
    async with open_desk(settings_of(tmp_path)) as desk:
        await desk.call("append_execute_code_cell", cell_source=LATER)
        await say(desk)
    assert shown(json.loads(desk.file.read_text())["cells"][0]) == "early\nlate\n"


async def test_what_comes_late_of_one_that_is_forgotten_reaches_its_cell_all_the_same(desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source=LATER)
    desk.services.executions._recent._most = 1
    await desk.call("execute_code", code="1")
    assert desk.services.executions.get(answer.data["execution_id"]) is None
    await desk.call("execute_code", code="go.set(); said.wait(60)")
    await desk.until_text(0, "late")
    assert shown((await desk.cells())[0]) == "early\nlate\n"


async def test_what_comes_late_of_a_cell_that_an_earlier_server_ran_reaches_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local", keep_kernels=True)
    go = tmp_path / "go"
    async with open_desk(settings) as desk:
        await desk.call("append_execute_code_cell", cell_source=FILE_LATER.format(str(go)))
    async with open_desk(settings) as desk:
        go.touch()
        await desk.until_text(0, "late")
        assert shown((await desk.cells())[0]) == "early\nlate\n"
        await desk.call("shutdown_kernel")


@pytest.mark.parametrize("request_of_ours", ["list_variables", "interrupt_kernel"])
async def test_what_comes_late_reaches_its_cell_also_after_a_request_that_is_no_cells(
    request_of_ours: str, real: Desk, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    count = len(await real.cells())
    await real.call("append_execute_code_cell", cell_source=FILE_LATER.format(str(go)))
    await real.call(request_of_ours)
    go.touch()
    await real.until_text(count, "late")


@pytest.fixture(scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder = tmp_path_factory.mktemp("real")
    async with open_desk(settings_of(folder, kernels="local")) as desk:
        yield desk


async def test_an_update_of_a_display_does_not_bring_cleared_outputs_back(real: Desk) -> None:
    count = len(await real.cells())
    for number in range(2):
        await real.call("append_execute_code_cell", cell_source=f"print('x'); h{number} = display(1, display_id=True)")
    await real.call("clear_outputs", cell_index=count)
    await real.call("append_execute_code_cell", cell_source="h0.update('new'); h1.update('new')")
    cells = (await real.cells())[count:]
    assert cells[0]["outputs"] == []
    assert shown(cells[1]) == "x\n'new'"


async def test_a_real_kernels_thread_prints_and_updates_a_display_late(real: Desk, tmp_path: Path) -> None:
    count = len(await real.cells())
    await real.call("append_execute_code_cell", cell_source="shown = display('first', display_id=True)")
    go = tmp_path / "go"
    source = f"""import os, threading, time
def work():
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    print('late', flush=True)
    shown.update('second')
threading.Thread(target=work).start()"""
    await real.call("append_execute_code_cell", cell_source=source)
    go.touch()
    await real.until_text(count + 1, "late")
    await real.until_text(count, "second")


async def test_code_without_a_cell_updates_the_display_of_a_cell(real: Desk) -> None:
    count = len(await real.cells())
    await real.call("append_execute_code_cell", cell_source="by_code = display('first', display_id=True)")
    await real.call("execute_code", code="by_code.update('second')")
    assert shown((await real.cells())[count]) == "'second'"
