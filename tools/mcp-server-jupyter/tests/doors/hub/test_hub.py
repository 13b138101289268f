"""The service of a hub over HTTP: real servers of its users, behind a fake of the hub's API (see `a_hub`)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from a_hub import SERVICE_TOKEN, FakeHub, fake_hub
from http_app import INITIALIZE
from hub_service import BEARER, Service, UserServer, open_service, user_server
from learners import squares, write

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("hub-servers")]
PREFIX = "/services/tutor"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, UserServer]]:
    """A hub with a user whose server runs."""
    folder = tmp_path_factory.mktemp("hub")
    with fake_hub(folder) as hub, user_server(folder / "ada", hub, "ada") as ada:
        yield hub, ada


@pytest.fixture
def hub(world: tuple[FakeHub, UserServer]) -> FakeHub:
    hub, ada = world
    hub.users.clear()
    hub.tokens.clear()
    hub.add("ada", "learners", url=ada.url)
    hub.add("bob", "learners")
    hub.add("prof", "staff")
    return hub


@pytest.fixture
async def service(hub: FakeHub, tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path, hub, staff_group="staff", hub_service_prefix=f"{PREFIX}/") as opened:
        yield opened


def token_of(hub: FakeHub, user: str) -> str:
    return next(token for token, known in hub.tokens.items() if known["name"] == user)


async def test_health_needs_no_token_and_everything_else_does(service: Service) -> None:
    async with service.client(None) as client:
        for path in ("/health", f"{PREFIX}/health"):
            answer = await client.get(path, headers={"host": "hub.example.org"})
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        for path in ("/mcp", "/user/ada/mcp", "/user/nobody/mcp"):
            answer = await client.post(PREFIX + path, json={"method": "tools/list"})
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
            assert "bearer" in answer.headers["www-authenticate"].lower()
        assert (await client.get(f"{PREFIX}/elsewhere")).status_code == 404


async def test_everybody_has_their_own_server_with_all_tools_of_notebooks(service: Service, hub: FakeHub) -> None:
    token = token_of(hub, "ada")
    status, listed = await service.ask(token, f"{PREFIX}/mcp", "tools/list")
    assert status == 200
    names = {tool["name"] for tool in listed["result"]["tools"]}
    assert {"append_execute_code_cell", "read_all_cells", "start_server"} <= names
    for path in (f"{PREFIX}/mcp", f"{PREFIX}/user/ada/mcp"):
        await service.call(token, path, "create_notebook", notebook_path="own.ipynb")
        text = await service.call(
            token, path, "append_execute_code_cell", notebook_path="own.ipynb", cell_source="print(6 * 7)"
        )
        assert "42" in text
    await service.call(token, f"{PREFIX}/mcp", "shutdown_kernel", notebook_path="own.ipynb")


async def test_a_callers_token_goes_to_the_hub_alone(
    service: Service, hub: FakeHub, world: tuple[FakeHub, UserServer]
) -> None:
    tokens = {token_of(hub, "ada"), token_of(hub, "prof"), BEARER, SERVICE_TOKEN}
    for token in tokens:
        await service.call(token, f"{PREFIX}/user/ada/mcp", "list_notebooks")
    assert not tokens & world[1].tokens
    assert world[1].tokens <= {made["token"] for made in hub.minted}
    # And the operator's does not even go there.
    assert BEARER not in {asked[2] for asked in hub.asked}


async def test_another_users_server_is_refused_as_one_of_a_user_who_is_not_there(
    service: Service, hub: FakeHub
) -> None:
    asked = hub.count("GET", "users/bob")
    token = token_of(hub, "ada")
    answers = [
        await service.ask(token, f"{PREFIX}/user/{name}/mcp", "tools/call", name="start_server", arguments={})
        for name in ("bob", "prof", "nobody", "a%2Fb")
    ]
    assert {status for status, _ in answers[:3]} == {403}
    assert len({str(answer) for _, answer in answers[:3]}) == 1
    assert answers[0][1]["error"] == "not_allowed"
    # Nor can it be told by how long the answer takes.
    assert hub.count("GET", "users/bob") == asked


async def test_staff_and_the_operator_work_in_others_servers(service: Service, hub: FakeHub) -> None:
    for token in (token_of(hub, "prof"), BEARER, SERVICE_TOKEN):
        await service.call(token, f"{PREFIX}/user/ada/mcp", "list_notebooks")
        status, answer = await service.ask(token, f"{PREFIX}/user/nobody/mcp", "tools/list")
        assert (status, answer["error"]) == (403, "not_allowed")
    status, answer = await service.ask(BEARER, f"{PREFIX}/mcp", "tools/list")
    assert status == 403
    assert "/user/NAME/mcp" in answer["hint"]


async def test_without_a_staff_group_nobody_works_in_others_servers(hub: FakeHub, tmp_path: Path) -> None:
    async with open_service(tmp_path, hub) as service:
        status, _ = await service.ask(token_of(hub, "prof"), "/user/ada/mcp", "tools/list")
        assert status == 403


async def test_a_stopped_server_names_the_tool_that_starts_it(
    service: Service, hub: FakeHub, world: tuple[FakeHub, UserServer]
) -> None:
    token = token_of(hub, "bob")
    assert "start_server" in await service.call(token, f"{PREFIX}/mcp", "list_notebooks")
    hub.starts["bob"] = [{"progress": 100, "failed": True, "message": "Spawn failed: no node"}]
    assert "no node" in await service.call(token, f"{PREFIX}/mcp", "start_server")
    hub.starts["bob"] = [{"progress": 100, "ready": True, "message": "Server ready", "url": world[1].url}]
    assert "runs" in await service.call(token, f"{PREFIX}/mcp", "start_server")


async def test_a_session_is_its_persons_alone(service: Service, hub: FakeHub) -> None:
    path = f"{PREFIX}/user/ada/mcp"
    accept = {"accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    async with service.client(token_of(hub, "prof")) as prof, service.client(token_of(hub, "ada")) as ada:
        session = (await prof.post(path, json=body, headers=accept)).headers["mcp-session-id"]
        headers = {**accept, "mcp-session-id": session, "mcp-protocol-version": INITIALIZE["protocolVersion"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert (await prof.post(path, json=ping, headers=headers)).status_code == 200
        assert (await ada.post(path, json=ping, headers=headers)).status_code == 404
        assert (await prof.delete(path, headers=headers)).status_code == 200


async def test_an_edit_is_journaled_for_the_person_who_made_it(service: Service, hub: FakeHub) -> None:
    path = f"{PREFIX}/user/ada/mcp"
    await service.call(BEARER, path, "create_notebook", notebook_path="whose.ipynb")
    prof, ada = token_of(hub, "prof"), token_of(hub, "ada")
    await service.call(prof, path, "append_markdown_cell", notebook_path="whose.ipynb", cell_source="by prof")
    await service.call(ada, path, "append_markdown_cell", notebook_path="whose.ipynb", cell_source="by ada")
    await service.call(prof, path, "undo", notebook_path="whose.ipynb")
    left = await service.call(ada, path, "read_all_cells", notebook_path="whose.ipynb")
    assert "by ada" in left
    assert "by prof" not in left


async def test_one_callers_requests_are_bounded_and_anothers_are_not(hub: FakeHub, tmp_path: Path) -> None:
    async with open_service(tmp_path, hub, rate_limit=2, staff_group="staff") as service:
        statuses = [(await service.ask(token_of(hub, "ada"), "/mcp", "tools/list"))[0] for _ in range(4)]
        assert statuses[:2] == [200, 200]
        assert 429 in statuses
        assert (await service.ask(token_of(hub, "bob"), "/mcp", "tools/list"))[0] == 200


async def test_a_hub_that_is_away_is_said_with_the_delay(service: Service, hub: FakeHub) -> None:
    hub.refusals.append((503, {"retry-after": "9"}))
    async with service.client(BEARER) as client:
        answer = await client.post(f"{PREFIX}/user/bob/mcp", json={"method": "tools/list"})
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "9"
    assert re.search("9 s", answer.json()["hint"])


async def test_the_tutor_is_for_staff_and_for_learners_in_their_own_work(hub: FakeHub, tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "squares.ipynb", squares())
    more = {"staff_group": "staff", "hub_service_prefix": PREFIX, "tasks": tmp_path / "tasks"}
    ada, bob, prof = (token_of(hub, name) for name in ("ada", "bob", "prof"))
    given = {"learner": "ada", "task": "squares"}
    async with open_service(tmp_path, hub, **more) as service:
        tutor, api = f"{PREFIX}/tutor/mcp", f"{PREFIX}/tutor/api"
        status, listed = await service.ask(prof, tutor, "tools/list")
        assert (status, len(listed["result"]["tools"])) == (200, 5)
        assert "bob: stopped" in await service.call(prof, tutor, "list_learners")
        assert "squares: 1 points" in await service.call(prof, tutor, "list_tasks")
        assert "ada has squares" in await service.call(prof, tutor, "deploy_task", **given)
        # Nobody has written anything into it yet.
        assert "0 of 1 points" in await service.call(ada, tutor, "check_task", **given, wait_seconds=300)
        async with service.client(ada) as own, service.client(bob) as other, service.client(None) as stranger:
            (row,) = (await own.get(f"{api}/learner_progress?learner=ada")).json()["progress"]
            assert (row["learner"], row["points"]) == ("ada", 0)
            for path in ("learner_progress?learner=ada", "learner_progress?task=squares", "list_tasks"):
                assert (await other.get(f"{api}/{path}")).status_code == 403
                assert (await stranger.get(f"{api}/{path}")).status_code == 401
            for name, asked in (("check_task", given), ("list_learners", {})):
                assert (await other.post(f"{api}/{name}", json=asked)).status_code == 403
        nobody = {**given, "learner": "nobody"}
        assert "no such user" in await service.call(prof, tutor, "deploy_task", **nobody)


async def test_without_tasks_there_is_no_tutor(service: Service, hub: FakeHub) -> None:
    async with service.client(token_of(hub, "prof")) as client:
        assert (await client.get(f"{PREFIX}/tutor/api/list_tasks")).status_code == 404
