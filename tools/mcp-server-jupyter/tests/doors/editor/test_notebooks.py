"""What windows say of their notebooks, over HTTP: opened, changed, saved, renamed, closed; and edits by agents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from editor_window import Window, open_window
from http_app import App, notebook, open_app
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke

pytestmark = pytest.mark.anyio


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("x = 1", "print(x + 1)"))
        yield app


@pytest.fixture
async def window(app: App) -> AsyncIterator[Window]:
    async with open_window(app) as window:
        yield window


async def by_agent(app: App, operation: str, /, **arguments: Any) -> Any:
    arguments = {"notebook_path": "a.ipynb", **arguments}
    return await invoke(app.services, operation, arguments, caller=Caller("agent#1"))


async def test_a_window_opens_changes_and_saves_a_notebook(app: App, window: Window) -> None:
    answer = await window.say("open", path="./a.ipynb", dirty=False)
    assert (answer["owner"], answer["ops"]) == ("w1", [])
    assert [cell["id"] for cell in answer["cells"]] == ["c0", "c1"]
    assert await window.next("lease") == {"path": "a.ipynb", "owner": "w1"}
    ops = [{"op": "source", "id": "c0", "source": "x = 2"}]
    version = answer["version"] + 1
    said = await window.say("change", path="a.ipynb", base=answer["version"], version=version, ops=ops, dirty=True)
    assert said == {"version": version}
    assert (await by_agent(app, "read_cell", cell_index=0)).data["source"] == "x = 2"
    assert await window.say("saved", path="a.ipynb", version=version) == {"version": version}
    assert await window.say("close", path="a.ipynb") == {}
    assert (await window.next("lease"))["owner"] is None


async def test_an_agents_edit_is_one_request_to_the_window_and_journaled_once_it_is_applied(
    app: App, window: Window
) -> None:
    opened = await window.say("open", path="a.ipynb", dirty=False)
    async with anyio.create_task_group() as tasks:
        done: list[Any] = []

        async def edit() -> None:
            done.append(await by_agent(app, "overwrite_cell_source", cell_index=0, cell_source="x = 3"))

        tasks.start_soon(edit)
        edit_event = await window.next("edit")
        assert (edit_event["author"], edit_event["path"]) == ("agent#1", "a.ipynb")
        (op,) = edit_event["ops"]
        assert (op["op"], op["id"], op["source"]) == ("source", "c0", "x = 3")
        await window.say("reply", request=edit_event["request"], status="applied", version=opened["version"] + 1)
    assert "Overwrote" in done[0].text
    (row,) = app.services.journal.edits("a.ipynb")
    assert row.author == "agent#1"
    assert "x = 1" in (app.services.settings.root / "a.ipynb").read_text()
    late = await window.http.post(
        "/api/editor/w1", json={"type": "reply", "request": "r99", "status": "applied", "version": 9}
    )
    assert (late.status_code, late.json()["error"]) == (409, "stale")


async def test_a_refused_edit_is_journaled_as_little_as_it_is_made(app: App, window: Window) -> None:
    opened = await window.say("open", path="a.ipynb", dirty=False)
    async with anyio.create_task_group() as tasks:
        errors: list[str] = []

        async def edit() -> None:
            try:
                await by_agent(app, "overwrite_cell_source", cell_index=0, cell_source="x = 3")
            except Exception as error:  # noqa: BLE001 - which one it is is what is asked
                errors.append(f"{type(error).__name__}: {error}")

        tasks.start_soon(edit)
        asked = await window.next("edit")
        version = opened["version"] + 1
        ops = [{"op": "source", "id": "c0", "source": "x = 'typed'"}]
        await window.say("change", path="a.ipynb", base=opened["version"], version=version, ops=ops, dirty=True)
        await window.say("reply", request=asked["request"], status="refused", version=version)
    assert errors[0].startswith("Conflict")
    assert "typed" in errors[0]
    assert app.services.journal.edits("a.ipynb") == []


async def test_a_run_goes_through_the_window_and_its_outputs_by_output_alone(app: App, window: Window) -> None:
    opened = await window.say("open", path="a.ipynb", dirty=False)
    async with anyio.create_task_group() as tasks:
        done: list[Any] = []

        async def run() -> None:
            done.append(await by_agent(app, "append_execute_code_cell", cell_source="print('of the agent')"))

        tasks.start_soon(run)
        asked = await window.next("edit")
        (op,) = asked["ops"]
        assert (op["op"], op["index"]) == ("insert", 2)
        await window.say("reply", request=asked["request"], status="applied", version=opened["version"] + 1)
    execution_id = done[0].data["execution_id"]
    told = await window.until_done(execution_id)
    assert (told["author"], told["cell_id"]) == ("agent#1", op["cell"]["id"])
    assert window.text(execution_id) == "of the agent\n"
    asked_for = [op["op"] for name, edit in window.events if name == "edit" for op in edit["ops"]]
    # Besides, the notebook's metadata may be told which language the run was in.
    assert [kind for kind in asked_for if kind != "metadata"] == ["insert"]
    outputs = (await app.services.contents.read("a.ipynb")).cells[2].outputs
    assert outputs[0].text == "of the agent\n"
    assert "of the agent" not in (app.services.settings.root / "a.ipynb").read_text()
    await window.say("close", path="a.ipynb")
    assert "of the agent\\n" in (app.services.settings.root / "a.ipynb").read_text()


async def test_what_is_no_message_is_refused_in_words(window: Window) -> None:
    await window.say("open", path="a.ipynb")
    for body in (
        {},
        {"type": "dance"},
        {"type": "open"},
        {"type": "open", "path": 1},
        {"type": "open", "path": "a.ipynb", "dirty": True},
        {"type": "open", "path": "a.ipynb", "dirty": True, "notebook": {"cells": "none"}},
        {"type": "change", "path": "a.ipynb", "base": True, "version": 2, "ops": []},
        {"type": "change", "path": "a.ipynb", "base": 1, "version": 2, "ops": [1]},
        {"type": "change", "path": "a.ipynb", "base": 1, "version": 2, "ops": [{"op": "insert"}]},
        {"type": "reply", "request": "r1", "status": "maybe", "version": 1},
    ):
        answer = await window.http.post("/api/editor/w1", json=body)
        assert answer.status_code == 400, (body, answer.text)
    outside = await window.http.post("/api/editor/w1", json={"type": "open", "path": "../a.ipynb"})
    assert outside.status_code == 403
    nobody = await window.http.post("/api/editor/w2", json={"type": "close", "path": "a.ipynb"})
    assert nobody.status_code == 404


async def test_several_notebooks_run_on_one_kernel_and_it_is_found_again(app: App, window: Window) -> None:
    root = app.services.settings.root
    for name in ("b", "c"):
        (root / f"{name}.ipynb").write_text(notebook("print(x)"))
    await window.until_done((await window.run("x = 41"))[0])
    kernel_id = app.services.sessions.all()[0].id
    kernel = (await window.http.put("/api/notebooks/b.ipynb/kernel", json={"kernel_id": kernel_id})).json()
    assert kernel["notebooks"] == ["a.ipynb", "b.ipynb"]
    assert (await window.next("kernel", change="bound"))["notebooks"] == ["a.ipynb", "b.ipynb"]
    (execution_id,) = await window.run("print(x + 1)", path="b.ipynb")
    await window.until_done(execution_id)
    assert window.text(execution_id) == "42\n"
    (root / "b.ipynb").rename(root / "d.ipynb")
    assert await window.say("renamed", path="b.ipynb", to="d.ipynb") == {"path": "d.ipynb"}
    assert app.services.sessions.find("d.ipynb") is app.services.sessions.find("a.ipynb")
    await by_agent(app, "restart_kernel")
    assert {each.notebook: each.epoch for each in app.services.journal.bindings()} == {"a.ipynb": 2, "d.ipynb": 2}
    assert (await window.http.put("/api/notebooks/d.ipynb/kernel", json={"kernel_id": None})).json() is None
    assert app.services.sessions.find("d.ipynb") is None
    assert app.services.sessions.find("a.ipynb") is not None
    for path, wanted in (("gone.ipynb", kernel_id), ("c.ipynb", "no-such-kernel")):
        answer = await window.http.put(f"/api/notebooks/{path}/kernel", json={"kernel_id": wanted})
        assert answer.status_code == 404, answer.text


async def test_a_renamed_notebook_keeps_what_runs_in_it_and_its_history(app: App, window: Window) -> None:
    root = app.services.settings.root
    await by_agent(app, "overwrite_cell_source", cell_index=1, cell_source="print('changed')")
    (running,) = await window.run("name = input()\nprint('done')")
    await window.next("execution", status="waiting_input")
    (root / "a.ipynb").rename(root / "b.ipynb")
    await window.say("renamed", path="a.ipynb", to="b.ipynb")
    assert (await window.next("execution", notebook="b.ipynb"))["execution_id"] == running
    await window.post("/api/operations/send_input", execution_id=running, text="")
    assert (await window.until_done(running))["notebook"] == "b.ipynb"
    await app.services.contents.flush()
    assert "done" in json.dumps(json.loads((root / "b.ipynb").read_text())["cells"][0]["outputs"])
    assert [row.notebook for row in app.services.journal.edits()] == ["b.ipynb"]


async def test_a_notebook_that_is_opened_under_its_new_name_first_is_not_kept_under_the_old_one(
    app: App, window: Window
) -> None:
    root = app.services.settings.root
    await window.say("open", path="a.ipynb", dirty=False)
    (running,) = await window.run("name = input()\nprint('done')")
    await window.next("execution", status="waiting_input")
    (root / "a.ipynb").rename(root / "b.ipynb")
    await window.say("open", path="b.ipynb", dirty=False)
    await window.say("renamed", path="a.ipynb", to="b.ipynb")
    assert dict(app.services.editors.leases()) == {"b.ipynb": "w1"}
    await window.post("/api/operations/send_input", execution_id=running, text="")
    assert (await window.until_done(running))["notebook"] == "b.ipynb"
    await window.say("close", path="b.ipynb")
    await app.services.contents.flush()
    assert "done" in json.dumps(json.loads((root / "b.ipynb").read_text())["cells"][0]["outputs"])
    assert not (root / "a.ipynb").exists()


async def test_an_outline_for_programs_tells_hash_staleness_and_author(app: App, window: Window) -> None:
    await window.until_done((await window.run("x = 1"))[0])
    await by_agent(app, "execute_cell_with_progress", cell_index=1)
    await by_agent(app, "overwrite_cell_source", cell_index=1, cell_source="print(x + 2)")
    data = (await window.post("/api/operations/get_notebook_info", notebook_path="a.ipynb"))["data"]
    first, second = data["outline"]
    assert (first["cell_id"], first["staleness"], first["author"], first["execution_count"]) == ("c0", None, "user", 1)
    assert (second["staleness"], second["author"]) == ("edited", "agent#1")
    assert len(first["hash"]) == 12
    listed = (await window.post("/api/operations/list_kernels"))["data"]
    assert listed["kernels"][0]["display_name"] == listed["display_names"][listed["kernels"][0]["name"]]
