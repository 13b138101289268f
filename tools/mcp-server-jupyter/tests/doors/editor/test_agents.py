"""What a person lets agents do: pause, ask, deny; approvals; who did what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp import Client

from editor_window import Window, open_window
from http_app import App, notebook, open_app
from mcp_server_jupyter.doors.mcp.sdk_compat import caller_of
from mcp_server_jupyter.doors.mcp.server import create_mcp
from mcp_server_jupyter.errors import NotAllowed
from mcp_server_jupyter.execution import agents
from mcp_server_jupyter.operations import OPERATIONS, Answers, Caller
from mcp_server_jupyter.operations.bind import invoke

pytestmark = pytest.mark.anyio
QUICK = Answers(8_000, 4, 1_000_000, 0.4)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("x = 1", "print(x + 1)"))
        (app.services.settings.root / "b.ipynb").write_text(notebook("y = 1"))
        for name in ("a", "b"):
            # Up before agents wait for little.
            await app.client().post("/api/operations/start_kernel", json={"notebook_path": f"{name}.ipynb"})
        yield app


@pytest.fixture
async def window(app: App) -> AsyncIterator[Window]:
    async with open_window(app) as window:
        yield window


async def by_agent(app: App, operation: str, /, path: str = "a.ipynb", **arguments: Any) -> Any:
    caller = Caller("agent#1", QUICK, is_agent=True)
    return await invoke(app.services, operation, {"notebook_path": path, **arguments}, caller=caller)


async def rule(window: Window, **body: Any) -> Any:
    answer = await window.http.put("/api/agents", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_agents_may_do_everything_until_they_are_told_otherwise(app: App, window: Window) -> None:
    assert window.events[0][1]["agents"] == {"paused": False, "run": "allow", "notebooks": {}}
    assert "2" in (await by_agent(app, "execute_code", code="1 + 1")).text


async def test_paused_agents_read_and_do_nothing_else(app: App, window: Window) -> None:
    await by_agent(app, "execute_code", code="1 + 1")
    assert (await rule(window, paused=True))["paused"] is True
    assert (await window.next("agents"))["paused"] is True
    given: dict[str, dict[str, Any]] = {
        "insert_cell": {"cell_index": 0, "cell_type": "code", "cell_source": "1"},
        "append_execute_code_cell": {"cell_source": "1"},
        "execute_code": {"code": "1"},
        "delete_cell": {"cell_index": 0},
        "restart_kernel": {},
        "undo": {},
    }
    for operation, arguments in given.items():
        assert not OPERATIONS[operation].read_only
        with pytest.raises(NotAllowed, match="paused"):
            await by_agent(app, operation, **arguments)
    assert "2 cells" in (await by_agent(app, "get_notebook_info")).text
    (execution_id,) = await window.run("print('a person')")
    assert (await window.until_done(execution_id))["status"] == "ok"
    await rule(window, paused=False)
    await by_agent(app, "execute_code", code="1")


async def test_a_pause_aborts_what_agents_have_queued_and_leaves_what_runs(app: App, window: Window) -> None:
    running = (await by_agent(app, "execute_code", code="name = input()\nprint('done')")).data["execution_id"]
    queued = (await by_agent(app, "execute_code", code="print('never')")).data["execution_id"]
    await rule(window, paused=True, notebook_path="./a.ipynb")
    assert (await window.until_done(queued))["status"] == "aborted"
    await window.post("/api/operations/send_input", execution_id=running, text="")
    assert (await window.until_done(running))["status"] == "ok"
    await by_agent(app, "execute_code", path="b.ipynb", code="1")


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("overwrite_cell_source", {"cell_index": 0, "cell_source": "x = 2"}),
        ("undo", {"author": "user"}),
        ("append_execute_code_cell", {"cell_source": "print('never')"}),
    ],
)
async def test_a_pause_refuses_what_still_waits_for_its_notebook(
    app: App, window: Window, operation: str, arguments: Any
) -> None:
    await window.post(
        "/api/operations/insert_cell", notebook_path="a.ipynb", cell_index=0, cell_type="code", cell_source=""
    )
    before = (await app.services.contents.read("a.ipynb")).cells
    refused: list[NotAllowed] = []

    async def try_it() -> None:
        with pytest.raises(NotAllowed, match="paused") as error:
            await by_agent(app, operation, **arguments)
        refused.append(error.value)

    async with anyio.create_task_group() as tasks, app.services.contents.lock("a.ipynb"):
        tasks.start_soon(try_it)
        await anyio.wait_all_tasks_blocked()
        await rule(window, paused=True)
        assert not refused
    assert refused
    assert (await app.services.contents.read("a.ipynb")).cells == before
    assert app.services.executions.active() == ()


async def test_a_run_whose_turn_comes_while_agents_are_paused_does_not_begin(app: App, window: Window) -> None:
    await rule(window, paused=True, notebook_path="a.ipynb")
    session = app.services.sessions.all()[0]
    execution = app.services.executions.submit(session, "1", author="agent#1", notebook="a.ipynb", by_agent=True)
    await execution.wait_finished(30)
    assert (execution.status, execution.note) == ("aborted", "Not run: agents are paused.")


async def test_denied_runs_leave_no_cell_and_edits_go_on(app: App, window: Window) -> None:
    assert (await rule(window, run="deny", notebook_path="a.ipynb"))["notebooks"] == {
        "a.ipynb": {"paused": False, "run": "deny"}
    }
    for operation, arguments in {
        "append_execute_code_cell": {"cell_source": "1"},
        "execute_cell_with_progress": {"cell_index": 0},
        "run_all_cells": {},
    }.items():
        with pytest.raises(NotAllowed, match="may not run"):
            await by_agent(app, operation, **arguments)
    await by_agent(app, "append_markdown_cell", cell_source="# Still")
    assert len((await app.services.contents.read("a.ipynb")).cells) == 3
    await by_agent(app, "execute_code", path="b.ipynb", code="1")
    await rule(window, run=None, notebook_path="a.ipynb")
    await by_agent(app, "execute_code", code="1")


async def test_a_run_that_is_asked_about_waits_and_runs_once_it_is_approved(app: App, window: Window) -> None:
    await rule(window, run="ask")
    answer = await by_agent(app, "append_execute_code_cell", cell_source="print('approved')")
    execution_id = answer.data["execution_id"]
    assert answer.data["status"] == "waiting_approval"
    assert "A person has to approve this run in the editor" in answer.text
    asked = await window.next("approval")
    assert (asked["execution_id"], asked["status"], asked["cells"]) == (execution_id, "waiting", 1)
    assert (asked["author"], asked["code"]) == ("agent#1", "print('approved')")
    decided = await window.post(f"/api/approvals/{execution_id}", decision="approve")
    assert decided["status"] == "approved"
    assert (await window.until_done(execution_id))["status"] == "ok"
    assert window.text(execution_id) == "approved\n"
    gone = await window.http.post(f"/api/approvals/{execution_id}", json={"decision": "approve"})
    assert gone.status_code == 404
    assert (await by_agent(app, "execute_code", code="1")).data["status"] == "waiting_approval"


async def test_all_cells_of_one_call_are_asked_about_once_and_denied_together(app: App, window: Window) -> None:
    await rule(window, run="ask", notebook_path="a.ipynb")
    answer = await by_agent(app, "run_all_cells")
    assert (await window.next("approval"))["cells"] == 2
    ids = [each["execution_id"] for each in answer.data["executions"]]
    await window.post(f"/api/approvals/{ids[1]}", decision="deny")
    for execution_id in ids:
        done = await window.until_done(execution_id)
        assert (done["status"], done["note"]) == ("aborted", "Not run: A person denied it.")
    assert app.services.executions.active() == ()


async def test_a_decision_holds_for_the_turn_or_for_the_notebook(app: App, window: Window) -> None:
    await rule(window, run="ask")
    first = (await by_agent(app, "execute_code", code="1")).data["execution_id"]
    await window.post(f"/api/approvals/{first}", **{"decision": "approve", "for": "turn"})
    assert (await by_agent(app, "execute_code", code="2")).data["status"] == "ok"
    other = await by_agent(app, "execute_code", path="b.ipynb", code="3")
    assert other.data["status"] == "waiting_approval"
    await window.post(f"/api/approvals/{other.data['execution_id']}", **{"decision": "deny", "for": "notebook"})
    with pytest.raises(NotAllowed):
        await by_agent(app, "execute_code", path="b.ipynb", code="3")
    assert app.services.agents.data()["notebooks"]["b.ipynb"]["run"] == "deny"


async def test_without_a_window_it_says_where_to_approve_and_is_denied_in_time(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "APPROVAL_SECONDS", 1.5)
    await app.client().put("/api/agents", json={"run": "ask"})
    answer = await by_agent(app, "execute_code", code="print('never')")
    assert "of which none is open" in answer.text
    assert f"/api/approvals/{answer.data['execution_id']}" in answer.text
    execution = app.services.executions.get(answer.data["execution_id"])
    assert execution is not None
    with anyio.fail_after(60):
        await execution.wait_finished(5)
    assert (execution.status, execution.note) == ("aborted", "Not run: Nobody approved it in time.")


async def test_what_agents_may_do_in_a_notebook_goes_with_it_to_its_new_name(app: App, window: Window) -> None:
    await window.say("open", path="a.ipynb", dirty=False)
    await rule(window, run="ask", notebook_path="a.ipynb")
    waiting = await by_agent(app, "execute_cell_with_progress", cell_index=0)
    assert waiting.data["status"] == "waiting_approval"
    await window.next("approval", notebook_path="a.ipynb")
    (app.services.settings.root / "a.ipynb").rename(app.services.settings.root / "c.ipynb")
    await window.say("renamed", path="a.ipynb", to="c.ipynb")
    assert (await window.next("agents"))["notebooks"] == {"c.ipynb": {"paused": False, "run": "ask"}}
    asked = await window.next("approval", notebook_path="c.ipynb")
    assert asked["status"] == "waiting"
    await window.post(f"/api/approvals/{asked['execution_id']}", decision="approve")
    assert (await window.until_done(asked["execution_id"]))["notebook"] == "c.ipynb"


async def test_what_waits_for_an_approval_can_be_taken_back(app: App, window: Window) -> None:
    await rule(window, run="ask")
    answer = await by_agent(app, "execute_code", code="1")
    execution = app.services.executions.get(answer.data["execution_id"])
    assert execution is not None
    await app.services.executions.interrupt(execution)
    await window.next("approval", status="withdrawn")
    assert execution.status == "aborted"


async def test_rules_outlive_the_server_and_what_waits_is_not_run_unasked(tmp_path: Path) -> None:
    async with open_app(tmp_path) as app, open_window(app) as window:
        (app.services.settings.root / "a.ipynb").write_text(notebook("x = 1"))
        await window.post("/api/operations/start_kernel", notebook_path="a.ipynb")
        await rule(window, run="ask", paused=False)
        await rule(window, paused=True, notebook_path="b.ipynb")
        waiting = (await by_agent(app, "execute_code", code="1")).data["execution_id"]
        app.services.leave_kernels = True
    async with open_app(tmp_path) as app:
        rules = (await app.client().get("/api/agents")).json()
        assert rules == {"paused": False, "run": "ask", "notebooks": {"b.ipynb": {"paused": True, "run": None}}}
        row = app.services.journal.execution(waiting)
        assert row is not None
        assert row.status == "aborted"


async def test_a_notebook_that_is_not_shared_is_edited_and_not_run_by_agents(app: App, window: Window) -> None:
    await window.say("open", path="a.ipynb", shared=False)
    with pytest.raises(NotAllowed, match="kernel of their own"):
        await by_agent(app, "execute_code", code="1")
    await window.say("open", path="a.ipynb", shared=True)
    await by_agent(app, "execute_code", code="1")


async def test_what_is_no_rule_and_no_decision_is_refused(window: Window) -> None:
    for body in ({"run": "maybe"}, {"run": None}, {"paused": 1}, {"notebook_path": 1}):
        assert (await window.http.put("/api/agents", json=body)).status_code == 400, body
    assert (await window.http.put("/api/agents", json={"notebook_path": "../x.ipynb"})).status_code == 403
    for decision in ({}, {"decision": "perhaps"}, {"decision": "approve", "for": "ever"}):
        assert (await window.http.post("/api/approvals/x1", json=decision)).status_code == 400
    assert (await window.http.post("/api/approvals/x1", json={"decision": "deny"})).status_code == 404


async def test_activity_says_who_did_what_the_newest_first(app: App, window: Window) -> None:
    await by_agent(app, "append_execute_code_cell", cell_source="print('of the agent')")
    await window.until_done((await window.run("print('a person')"))[0])
    found = (await window.http.get("/api/activity?notebook_path=a.ipynb")).json()["activity"]
    assert (found[0]["kind"], found[0]["author"], found[0]["status"]) == ("execution", "user", "ok")
    assert {(each["kind"], each["author"]) for each in found[1:]} == {("execution", "agent#1"), ("edit", "agent#1")}
    assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)
    edit = next(each for each in found if each["kind"] == "edit")
    assert (edit["edit"], edit["undone"]) == ("insert", False)
    assert edit["turn"]
    await by_agent(app, "undo")
    assert any(each.get("undone") for each in (await window.http.get("/api/activity?limit=3")).json()["activity"])
    assert (await window.http.get("/api/activity?notebook_path=b.ipynb")).json() == {"activity": []}
    for limit in ("0", "1001", "many", "-1"):
        assert (await window.http.get(f"/api/activity?limit={limit}")).status_code == 400


async def test_mcp_clients_and_the_bare_post_are_agents_and_the_persons_routes_are_not(
    app: App, window: Window
) -> None:
    await rule(window, paused=True)
    call = {"name": "execute_code", "arguments": {"code": "1", "notebook_path": "a.ipynb"}}
    bare = await app.client().post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    assert bare.json()["result"]["isError"] is True
    assert "paused" in bare.text
    async with Client(create_mcp(app.places)) as client:
        result = await client.call_tool(call["name"], call["arguments"])
    assert result.is_error
    assert "paused" in result.content[0].text
    person = await app.client().post("/api/operations/execute_code", json=call["arguments"])
    assert person.json()["data"]["status"] == "ok"


async def test_a_client_on_the_socket_is_an_agent_too(app: App) -> None:
    carried = Caller("#3f2a")
    request = SimpleNamespace(request=carried, session=SimpleNamespace(client_params=None))
    assert caller_of(request) == Caller("agent#3f2a", is_agent=True)
