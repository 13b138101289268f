"""What windows are told: everything at first, then each change, and never a hole in an output."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from editor_window import Window, open_window
from http_app import App, notebook, open_app
from mcp_server_jupyter.doors.editor.routes import EditorRoutes
from mcp_server_jupyter.doors.editor.stream import WindowEvents
from mcp_server_jupyter.errors import KernelStartFailed
from mcp_server_jupyter.events import Event

pytestmark = pytest.mark.anyio


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("x = 1", "print(x + 1)", "1 + 1"))
        yield app


@pytest.fixture
async def window(app: App) -> AsyncIterator[Window]:
    async with open_window(app) as window:
        yield window


async def test_the_state_comes_first_and_names_server_and_kernels(app: App) -> None:
    await app.client().post("/api/operations/execute_code", json={"code": "1", "notebook_path": "a.ipynb"})
    async with open_window(app) as window:
        name, state = window.events[0]
        assert name == "state"
        assert state["server"]["api"] == 1
        assert state["server"]["root"] == str(app.services.settings.root)
        (kernel,) = state["kernels"]
        assert (kernel["state"], kernel["notebooks"], kernel["kernel_epoch"]) == ("idle", ["a.ipynb"], 1)
        assert kernel["display_name"]
        assert state["executions"] == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_kernel_that_starts_is_told_until_it_is_there_or_has_failed(
    app: App, window: Window, fails: bool
) -> None:
    go = anyio.Event()

    async def slow(progress: Any) -> None:
        progress("pulling image example")
        await go.wait()
        if fails:
            raise KernelStartFailed("No such image.")

    app.services.kernels.before_start = slow  # type: ignore[attr-defined]
    async with anyio.create_task_group() as tasks:
        path = {"json": {"notebook_path": "a.ipynb"}}
        tasks.start_soon(lambda: window.http.post("/api/operations/start_kernel", **path))
        told = await window.next("kernel", change="starting", notebooks=["a.ipynb"])
        assert told["state"] == "starting"
        async with open_window(app, "w2") as second:
            ids = [kernel["kernel_id"] for kernel in second.events[0][1]["kernels"]]
            assert told["kernel_id"] in ids
        go.set()
        await window.next("kernel", kernel_id=told["kernel_id"], state="gone")
    started = [data for name, data in window.events if name == "kernel" and data.get("change") == "started"]
    assert bool(started) is not fails
    assert [start for start in app.services.sessions.starts.all() if start.goes_on] == []


async def test_who_does_not_wait_for_a_kernel_has_nothing_queued_and_joins_its_start(app: App, window: Window) -> None:
    go = anyio.Event()

    async def slow(progress: Any) -> None:
        await go.wait()

    app.services.kernels.before_start = slow  # type: ignore[attr-defined]
    body = {"notebook_path": "a.ipynb", "cells": [{"cell_id": "c0", "source": "x = 1"}], "wait_seconds": 0}
    for _ in range(2):
        answer = await window.http.post("/api/executions", json=body)
        assert (answer.status_code, answer.json()["error"]) == (503, "kernel_starting")
    go.set()
    await window.next("kernel", change="started")
    assert list(app.services.executions.active()) == []
    answer = await window.post("/api/executions", **body)
    assert (await window.until_done(answer["executions"][0]["execution_id"]))["execution_count"] == 1
    for wrong in (-1, True, "1", None):
        answer = await window.http.post("/api/executions", json={**body, "wait_seconds": wrong})
        assert answer.status_code == 400, answer.text


async def test_every_status_of_a_run_is_told_with_its_output(window: Window) -> None:
    (execution_id,) = await window.run("name = input('Who? ')\nprint('Hello', name)")
    asked = await window.next("execution", status="waiting_input")
    assert (asked["input_prompt"], asked["author"], asked["execution_count"]) == ("Who? ", "user", 1)
    await window.post("/api/operations/send_input", execution_id=execution_id, text="Ada")
    assert (await window.next("execution"))["status"] == "running"
    done = await window.until_done(execution_id)
    assert (done["status"], done["cell_id"], done["notebook"]) == ("ok", "c0", "a.ipynb")
    assert window.text(execution_id) == "Hello Ada\n"
    assert done["started_at"] <= done["finished_at"]


async def test_a_batch_runs_what_the_editor_shows_and_stops_at_the_first_error(window: Window) -> None:
    first, second, third = await window.run("print('a')", "1/0", "print('never')")
    assert (await window.until_done(third))["status"] == "aborted"
    assert window.text(first) == "a\n"
    assert window.outputs[second][0]["ename"] == "ZeroDivisionError"
    assert third not in window.outputs
    first, second, third = await window.run("print('a')", "1/0", "print('always')", stop_on_error=False)
    assert (await window.until_done(third))["status"] == "ok"
    assert len({event["batch"] for name, event in window.events if name == "execution"}) == 2


async def test_a_batch_is_refused_whole(window: Window, app: App) -> None:
    cells = [{"cell_id": "c0", "source": "print(1)"}, {"cell_id": "gone", "source": "print(2)"}]
    answer = await window.http.post("/api/executions", json={"notebook_path": "a.ipynb", "cells": cells})
    assert answer.status_code == 404
    for wrong in ([], [{"cell_id": "c0"}], ["c0"], None):
        answer = await window.http.post("/api/executions", json={"notebook_path": "a.ipynb", "cells": wrong})
        assert answer.status_code == 400, wrong
    assert app.services.executions.active() == ()
    assert app.services.sessions.all() == ()


async def test_cells_of_no_notebook_run_in_a_kernel(window: Window) -> None:
    kernel_id = (await window.post("/api/operations/start_kernel"))["data"]["kernel_id"]
    assert (await window.next("kernel", change="started"))["kernel_id"] == kernel_id
    cells = [{"cell_id": "new", "source": "print('untitled')"}]
    answer = await window.post("/api/executions", kernel_id=kernel_id, cells=cells)
    (run,) = answer["executions"]
    assert run["cell_id"] == "new"
    assert (await window.until_done(run["execution_id"]))["notebook"] is None
    assert window.text(run["execution_id"]) == "untitled\n"


async def test_outputs_are_had_whole_and_events_go_on_from_there(window: Window) -> None:
    (execution_id,) = await window.run("print('a' * 100_000)\nname = input()\nprint('b')")
    await window.next("execution", status="waiting_input")
    known = (await window.http.get(f"/api/executions/{execution_id}/outputs")).json()
    assert known["status"] == "waiting_input"
    assert known["outputs"][0]["text"] == "a" * 100_000 + "\n"
    await window.post("/api/operations/send_input", execution_id=execution_id, text="")
    await window.until_done(execution_id)
    assert window.seqs[execution_id] == known["seq"] + 1
    assert window.text(execution_id) == "a" * 100_000 + "\nb\n"


async def test_outputs_of_an_earlier_server_are_had_from_the_journal(tmp_path: Path) -> None:
    async with open_app(tmp_path) as app, open_window(app) as window:
        (app.services.settings.root / "a.ipynb").write_text(notebook("1"))
        (execution_id,) = await window.run("print('kept')")
        await window.until_done(execution_id)
    async with open_app(tmp_path) as app:
        known = (await app.client().get(f"/api/executions/{execution_id}/outputs")).json()
        assert (known["status"], known["seq"], known["outputs"][0]["text"]) == ("ok", 0, "kept\n")
        assert (await app.client().get("/api/executions/xgone/outputs")).status_code == 404


async def test_a_window_that_comes_back_goes_on_where_it_was(app: App) -> None:
    window = Window(app, "w1")
    async with open_window(app, window=window):
        (first,) = await window.run("print('a')")
        await window.until_done(first)
    async with open_window(app, "w2") as other:
        (second,) = await other.run("print('b')")
        await other.until_done(second)
    async with open_window(app, window=window, last_id=window.last_id):
        await window.until_done(second)
    assert window.text(second) == "b\n"
    assert [name for name, _ in window.events].count("state") == 1


async def test_who_was_away_too_long_is_told_the_state_and_the_whole_of_what_lives(tmp_path: Path) -> None:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("1"))
        window = Window(app, "w1")
        async with open_window(app, window=window):
            (running,) = await window.run("print('a')\nname = input()\nprint('b')")
            await window.next("execution", status="waiting_input")
        for _ in range(2_100):
            app.services.events.publish("execution.counted", execution_id="x")
        async with open_window(app, window=window, last_id=window.last_id):
            state = await window.next("state")
            assert [each["execution_id"] for each in state["executions"]] == [running]
            await window.next("output")
            assert window.text(running) == "a\n"
            await window.post("/api/operations/send_input", execution_id=running, text="")
            await window.until_done(running)
            assert window.text(running) == "a\nb\n"


async def test_a_reader_that_falls_behind_gets_the_whole_and_no_hole(tmp_path: Path) -> None:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("1"))
        events = WindowEvents(app.services, kept=5)
        with events.following():
            stream = events.stream("w1", None, lambda: True)
            got = [await anext(stream), await anext(stream)]
            assert b"event: state" in got[1]
            async with open_window(app, "w2") as other:
                (running,) = await other.run("for n in range(20):\n    print(n)\nname = input()")
                await other.next("execution", status="waiting_input")
                for _ in range(10):
                    app.services.events.publish("execution.counted", **Event("", {"execution_id": "x"}).data)
                assert b"event: state" in await anext(stream)
                frame = await anext(stream)
                assert b"event: output" in frame
                assert b'"op":"clear"' in frame
                assert b"19\\n" in frame
                await other.post("/api/operations/send_input", execution_id=running, text="")
                await other.until_done(running)


async def test_a_second_stream_of_a_window_ends_the_first(app: App) -> None:
    async with anyio.create_task_group() as tasks:
        first, second = Window(app, "w1"), Window(app, "w1")
        ended = anyio.Event()

        async def one() -> None:
            from editor_window import _stream

            await _stream(first, None)
            ended.set()

        tasks.start_soon(one)
        await first.next("state")
        async with open_window(app, window=second):
            with anyio.fail_after(60):
                await ended.wait()
            (execution_id,) = await second.run("print(1)")
            await second.until_done(execution_id)
        assert [name for name, _ in first.events] == ["state"]


async def test_another_number_of_the_protocol_and_a_wrong_id_are_refused_in_words(app: App) -> None:
    answer = await app.client().get("/api/editor/w1?api=2")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_api")
    assert "speaks number 1" in answer.json()["message"]
    assert (await app.client().get("/api/editor/a%20b")).status_code == 400
    assert (await app.client().get("/health")).json()["api"] == 1


async def test_nothing_is_kept_before_there_is_a_window(app: App) -> None:
    routes = EditorRoutes(app.services)
    with routes.following():
        app.services.events.publish("execution.counted", execution_id="x")
        assert not routes._events._kept


async def test_a_server_in_the_foreground_is_not_shut_down_by_an_editor(app: App) -> None:
    answer: Any = await app.client().post("/api/shutdown", json={"when": "now"})
    assert (answer.status_code, answer.json()["error"]) == (409, "not_detached")
    assert (await app.client().post("/api/shutdown", json={"when": "later"})).status_code == 400
