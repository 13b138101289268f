"""Tasks reach learners, work is checked once, in turn, and what it came to outlives the service."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import httpx2
import mcp.types as T
import pytest
from mcp import MCPError
from starlette.applications import Starlette
from starlette.requests import Request

from a_jupyter import TOKEN, Jupyter
from learners import PATIENT, Learners, code, fake_tutor, notebook, squares, tutor_settings, write
from mcp_server_jupyter.doors.http.app import known_error
from mcp_server_jupyter.doors.tutor.mcp import create_tutor_mcp
from mcp_server_jupyter.doors.tutor.operations import Allow
from mcp_server_jupyter.doors.tutor.routes import tutor_routes
from mcp_server_jupyter.errors import AlreadyExists, JupyterMcpError, NotAllowed, NotFound, Unavailable
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.tutor.results import open_results
from mcp_server_jupyter.tutor.service import Tutor, open_tutor

RIGHT, WRONG = "def square(x): return x * x", "def square(x): return 1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return tutor_settings(tmp_path)


@pytest.fixture
def learners(settings: Settings) -> Learners:
    return Learners(settings)


async def settled() -> None:
    """Everything that can go on without waiting for somebody else has."""
    await anyio.wait_all_tasks_blocked()


# --------------------------------------------------------------------------- with real servers


@asynccontextmanager
async def one_place(settings: Settings) -> AsyncIterator[Any]:
    async with open_services(settings) as services:

        @asynccontextmanager
        async def place_of(_learner: str) -> AsyncIterator[Services]:
            yield services

        yield place_of


async def solve(services: Services, path: str, source: str) -> None:
    async with services.contents.edit(path) as edited:
        at = next(at for at, cell in enumerate(edited.cells) if "task:squares" in cell["metadata"]["tags"] and at)
        cell = dict(edited.cells[at])
        edited.cells[at] = type(edited.cells[at])({**cell, "source": source})


async def test_from_the_folder_of_tasks_to_a_learners_points(tmp_path: Path, settings: Settings) -> None:
    """Whole, with real kernels: the template passes its own solution, the learner's files and kernels stay theirs."""
    write(tmp_path / "tasks" / "bad.ipynb", {**squares("assert square(2) == 5"), "metadata": {}})
    bad = json.loads((tmp_path / "tasks" / "bad.ipynb").read_text().replace("task:squares", "task:bad"))
    write(tmp_path / "tasks" / "bad.ipynb", bad)
    async with one_place(settings) as place_of, open_tutor(settings, place_of, PATIENT) as tutor:
        assert [each.get("task") for each in tutor.list_tasks()] == ["squares", None]
        assert "bad.ipynb, cell 3" in tutor.list_tasks()[1]["refused"]
        with pytest.raises(NotFound, match=r"Refused: bad\.ipynb"):
            await tutor.deploy_task("ada", "bad")
        assert (await tutor.deploy_task("ada", "squares"))["path"] == "squares.ipynb"
        learner = (tmp_path / "root" / "squares.ipynb").read_text()
        assert "144" not in learner
        assert "x * x" not in learner
        async with place_of("ada") as services:
            session = await services.sessions.start("python3", notebook="squares.ipynb").wait(60)
            await solve(services, "squares.ipynb", RIGHT)
            before = (tmp_path / "root" / "squares.ipynb").read_text()
            told = await tutor.check_task("ada", "squares")
            assert (told["state"], told["points"], told["attempt"]) == ("passed", 1.0, 1)
            assert (tmp_path / "root" / "squares.ipynb").read_text() == before
            assert (session.kernel.epoch, session.kernel.state) == (1, "idle")
            assert [each.id for each in services.kernels._kernels.values()] == [session.kernel.id]  # type: ignore[attr-defined]
        with pytest.raises(AlreadyExists):
            await tutor.deploy_task("ada", "squares")
        assert (tmp_path / "root" / "squares.ipynb").read_text() == before
        kept = (await tutor.deploy_task("ada", "squares", reset=True))["kept"]
        assert RIGHT in (tmp_path / "root" / kept).read_text()
        assert "NotImplementedError" in (tmp_path / "root" / "squares.ipynb").read_text()
        (row,) = tutor.learner_progress(learner="ada")
        assert (row["task"], row["state"], row["best_points"]) == ("squares", "passed", 1.0)


async def test_work_on_a_jupyter_server_is_checked_there(tmp_path: Path) -> None:
    jupyter = Jupyter(tmp_path / "jupyter")
    try:
        await anyio.to_thread.run_sync(jupyter.start)
        settings = tutor_settings(tmp_path, jupyter_url=jupyter.url, jupyter_token=TOKEN)
        async with one_place(settings) as place_of, open_tutor(settings, place_of, PATIENT) as tutor:
            await tutor.deploy_task("ada", "squares", "week1/squares.ipynb")
            async with place_of("ada") as services:
                await solve(services, "week1/squares.ipynb", RIGHT)
            assert (await tutor.check_task("ada", "squares"))["state"] == "passed"
            async with place_of("ada") as services:
                await solve(services, "week1/squares.ipynb", "import os\ndef square(x): os._exit(1)")
                assert (await tutor.check_task("ada", "squares"))["state"] == "kernel_died"
                assert await services.kernels.api.kernels() == []  # type: ignore[attr-defined]
        for path in (tmp_path / "jupyter").rglob("*.ipynb"):
            assert "144" not in path.read_text()
    finally:
        await anyio.to_thread.run_sync(jupyter.close)


# --------------------------------------------------------------------------- submissions


async def test_the_same_work_is_checked_once_unless_it_is_to_be_checked_again(
    settings: Settings, learners: Learners
) -> None:
    async with fake_tutor(settings, learners) as tutor:
        await tutor.deploy_task("ada", "squares")
        ada = learners["ada"]
        ada.writes(WRONG)
        first = await tutor.check_task("ada", "squares")
        assert (first["state"], first["checks"][0]["message"]) == ("failed", "Square 12.")
        assert (await tutor.check_task("ada", "squares"), ada.kernels_started) == (first, 1)
        assert (await tutor.check_task("ada", "squares", again=True))["attempt"] == 2
        ada.writes(RIGHT)
        both: list[dict[str, Any]] = []

        async def check() -> None:
            both.append(await tutor.check_task("ada", "squares"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check)
            tasks.start_soon(check)
        assert [each["attempt"] for each in both] == [3, 3]
        assert ada.kernels_started == 3


async def test_newer_work_replaces_what_waits_and_one_of_a_learners_is_checked_at_a_time(
    settings: Settings, learners: Learners
) -> None:
    async with fake_tutor(settings, learners) as tutor:
        await tutor.deploy_task("ada", "squares")
        ada = learners["ada"]
        ada.gate = anyio.Event()
        states = []
        for source in (WRONG, "def square(x): return 2", RIGHT):
            ada.writes(source)
            states.append((await tutor.check_task("ada", "squares", wait_seconds=0))["state"])
            await settled()
        assert states == ["running", "queued", "queued"]
        assert tutor.counts == {"running": 1, "waiting": 1}
        ada.gate.set()
        assert (await tutor.check_task("ada", "squares"))["state"] == "passed"
        assert (ada.kernels_started, ada.most_at_once) == (2, 1)
        (row,) = tutor.learner_progress(task="squares")
        assert (row["attempt"], row["state"]) == (2, "passed")


async def test_a_learner_with_much_to_check_keeps_nobody_waiting(tmp_path: Path) -> None:
    settings = tutor_settings(tmp_path, checks=1)
    for number in range(5):
        made = json.dumps(squares()).replace("task:squares", f"task:t{number}")
        write(tmp_path / "tasks" / f"t{number}.ipynb", json.loads(made))
    learners = Learners(settings)
    async with fake_tutor(settings, learners) as tutor:
        order: list[str] = []
        tutor.events.listen(lambda event: order.append(event.data["learner"]))
        for number in range(5):
            await tutor.deploy_task("many", f"t{number}")
        for name in ("ada", "bob"):
            await tutor.deploy_task(name, "squares")
        learners["many"].gate = anyio.Event()
        for number in range(5):
            await tutor.check_task("many", f"t{number}", wait_seconds=0)
        await settled()
        for name in ("ada", "bob"):
            await tutor.check_task(name, "squares", wait_seconds=0)
        learners["many"].gate.set()
        for number in range(5):
            await tutor.check_task("many", f"t{number}")
        assert order == ["many", "ada", "bob", "many", "many", "many", "many"]


async def test_checks_that_were_open_when_the_service_ended_are_run_by_the_next(
    settings: Settings, learners: Learners
) -> None:
    async with fake_tutor(settings, learners) as tutor:
        for name in ("ada", "bob"):
            await tutor.deploy_task(name, "squares")
            learners[name].writes(RIGHT)
            learners[name].gate = anyio.Event()
            await tutor.check_task(name, "squares", wait_seconds=0)
        await settled()
        assert tutor.counts["running"] == 2
    assert learners["ada"].kernels_running == 0
    # What was handed in is what counts, not what the learner wrote since.
    learners["ada"].writes(WRONG)
    for name in ("ada", "bob"):
        learners[name].gate.set()
    async with fake_tutor(settings, learners) as tutor:
        finished: list[str] = []
        done = anyio.Event()

        def heard(event: Any) -> None:
            finished.append(f"{event.data['learner']} {event.data['state']}")
            if len(finished) == 2:
                done.set()

        tutor.events.listen(heard)
        if len(tutor.learner_progress(task="squares")) < 2:
            with anyio.fail_after(60):
                await done.wait()
        rows = tutor.learner_progress(task="squares")
        assert [(row["learner"], row["state"], row["attempt"]) for row in rows] == [
            ("ada", "passed", 1),
            ("bob", "passed", 1),
        ]


async def test_a_kernel_that_a_killed_service_left_is_ended_before_the_next_check(settings: Settings) -> None:
    """The kernel of a check whose service never came to its end: written down, and alive."""
    async with one_place(settings) as place_of, place_of("ada") as services:
        left = await services.kernels.start("python3")
        services.leave_kernels = True
    write_down = settings.state_dir / "tutor" / "results.sqlite3"
    with open_results(write_down) as results:
        results.kernel_began("ada", left.id)
        results.kernel_began("ada", "gone-long-ago")
    async with one_place(settings) as place_of, open_tutor(settings, place_of, PATIENT) as tutor:
        async with place_of("ada") as services:
            assert [each.id for each in services.sessions.all()] == [left.id]
        await tutor.deploy_task("ada", "squares")
        assert (await tutor.check_task("ada", "squares"))["state"] == "error"
        async with place_of("ada") as services:
            assert not services.sessions.all()
            assert services.kernels._kernels == {}  # type: ignore[attr-defined]
    with open_results(write_down) as results:
        assert results.kernels("ada") == []


async def test_work_on_a_task_that_has_changed_since_is_not_checked_by_the_next_service(
    tmp_path: Path, settings: Settings, learners: Learners
) -> None:
    async with fake_tutor(settings, learners) as tutor:
        await tutor.deploy_task("ada", "squares")
        learners["ada"].gate = anyio.Event()
        await tutor.check_task("ada", "squares", wait_seconds=0)
    learners["ada"].gate.set()
    write(tmp_path / "tasks" / "squares.ipynb", squares("assert square(3) == 9"))
    async with fake_tutor(settings, learners) as tutor:
        await settled()
        assert tutor.counts == {"running": 0, "waiting": 0}
        assert tutor.learner_progress(task="squares") == []


async def test_a_learners_server_that_is_away_is_an_error_and_no_result(settings: Settings, learners: Learners) -> None:
    async with fake_tutor(settings, learners) as tutor:
        await tutor.deploy_task("ada", "squares")
        learners["ada"].writes(RIGHT)
        learners["ada"].broken = Unavailable("The server is away.")
        with pytest.raises(Unavailable):
            await tutor.check_task("ada", "squares")
        assert tutor.learner_progress(learner="ada") == []
        learners["ada"].broken = None
        assert (await tutor.check_task("ada", "squares"))["attempt"] == 1


async def test_a_task_that_was_not_given_is_not_checked(settings: Settings, learners: Learners) -> None:
    async with fake_tutor(settings, learners) as tutor:
        with pytest.raises(NotFound, match="has not been given"):
            await tutor.check_task("ada", "squares")
        with pytest.raises(NotFound, match="There is no task"):
            await tutor.check_task("ada", "cubes")
        learners["ada"].notebooks["squares.ipynb"] = None
        with pytest.raises(AlreadyExists):
            await tutor.deploy_task("ada", "squares")
        with pytest.raises(NotFound, match="has not been given"):
            await tutor.check_task("ada", "squares")


def test_a_second_service_does_not_get_the_results(tmp_path: Path) -> None:
    path = tmp_path / "tutor" / "results.sqlite3"
    with open_results(path) as results:
        results.verify("a")
        with pytest.raises(Unavailable), open_results(path):
            pass
    with open_results(path) as results:
        assert results.is_verified("a")


async def test_two_templates_with_one_task_are_not_both_taken(tmp_path: Path, settings: Settings) -> None:
    write(tmp_path / "tasks" / "z.ipynb", squares())
    async with fake_tutor(settings, Learners(settings)) as tutor:
        assert [each["template"] for each in tutor.list_tasks()] == ["squares.ipynb", "z.ipynb"]
        assert "is that of squares.ipynb" in tutor.list_tasks()[1]["refused"]


# --------------------------------------------------------------------------- doors


async def own_only(request: Request, learner: str | None) -> None:
    if learner != request.headers.get("x-learner", learner):
        raise NotAllowed("Not yours.")


@asynccontextmanager
async def client(tutor: Tutor, allow: Allow = own_only) -> AsyncIterator[httpx2.AsyncClient]:
    app = Starlette(routes=tutor_routes(tutor, allow), exception_handlers={JupyterMcpError: known_error})
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://tutor") as http:
        yield http


async def test_the_tutor_over_rest_with_progress_as_json_and_csv(settings: Settings, learners: Learners) -> None:
    async with fake_tutor(settings, learners) as tutor, client(tutor) as http:
        for name in ("ada", "=cmd()"):
            given = {"learner": name, "task": "squares"}
            assert (await http.post("/deploy_task", json=given)).json()["path"] == "squares.ipynb"
            learners[name].writes(RIGHT)
            assert (await http.post("/check_task", json=given)).json()["state"] == "passed"
        assert (await http.post("/deploy_task", json=given)).status_code == 409
        assert (await http.get("/list_tasks")).json()["tasks"][0]["task"] == "squares"
        (row,) = (await http.get("/learner_progress?learner=ada")).json()["progress"]
        assert row["points"] == 1
        answer = await http.get("/learner_progress?task=squares", headers={"accept": "text/csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [(each["learner"], each["state"], each["max_points"]) for each in rows] == [
            ("'=cmd()", "passed", "1.0"),
            ("ada", "passed", "1.0"),
        ]
        assert (await http.get("/learner_progress")).status_code == 400


async def test_whoever_may_not_is_refused_before_anything_happens(settings: Settings, learners: Learners) -> None:
    async with fake_tutor(settings, learners) as tutor, client(tutor) as http:
        bob = {"x-learner": "bob"}
        for name in ("deploy_task", "check_task", "learner_progress"):
            answer = await http.post(f"/{name}", json={"learner": "ada", "task": "squares"}, headers=bob)
            assert answer.status_code == 403
        assert (await http.get("/learner_progress?task=squares", headers=bob)).status_code == 403
        assert learners.places == {}


async def test_an_answer_over_rest_holds_no_test_and_no_expected_value(
    tmp_path: Path, settings: Settings, learners: Learners
) -> None:
    write(tmp_path / "tasks" / "secret.ipynb", _secret())
    async with fake_tutor(settings, learners) as tutor, client(tutor) as http:
        given = {"learner": "ada", "task": "secret"}
        await http.post("/deploy_task", json=given)
        texts = [json.dumps(learners["ada"].notebooks), (await http.post("/check_task", json=given)).text]
        texts.append((await http.get("/learner_progress?learner=ada")).text)
        assert [text for text in texts if "8317" in text] == []


async def test_the_tutors_tools_over_mcp(settings: Settings, learners: Learners) -> None:
    async with fake_tutor(settings, learners) as tutor:
        mcp = create_tutor_mcp(tutor, own_only)
        request = Request({"type": "http", "headers": [(b"x-learner", b"ada")]})
        context = cast(Any, SimpleNamespace(request_context=SimpleNamespace(request=request)))
        assert [tool.name for tool in await mcp.list_tools()] == [
            "list_tasks",
            "list_learners",
            "deploy_task",
            "check_task",
            "learner_progress",
        ]
        ada = {"learner": "ada", "task": "squares"}
        await mcp.call_tool("deploy_task", ada, context)
        learners["ada"].writes(WRONG)
        told = cast(T.CallToolResult, await mcp.call_tool("check_task", ada, context))
        assert told.structured_content is not None
        assert told.structured_content["state"] == "failed"
        assert cast(T.TextContent, told.content[0]).text == (
            "ada squares, attempt 1: failed, 0 of 1 points.\nsquares numbers: failed\n  Square 12."
        )
        refused = cast(T.CallToolResult, await mcp.call_tool("check_task", {**ada, "learner": "bob"}, context))
        assert (refused.is_error, cast(T.TextContent, refused.content[0]).text) == (True, "Not yours.")
        with pytest.raises(MCPError):
            await mcp.call_tool("execute_code", {}, context)


def _secret() -> dict[str, Any]:
    cells = [code("f = 8317", "task:secret", "solution"), code("assert f == 8317", "task:secret", "hidden-test")]
    return notebook(code("1", "setup"), *cells)
