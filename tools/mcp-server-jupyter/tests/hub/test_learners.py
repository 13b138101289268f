"""Places in users' servers: real ones, behind a fake of the hub's API (see `a_hub`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from a_hub import SERVICE_TOKEN, FakeHub, fake_hub
from hub_service import UserServer, open_hub_learners, user_server
from mcp_server_jupyter.errors import NotAllowed, ServerNotRunning, Unavailable
from mcp_server_jupyter.hub import Learners
from mcp_server_jupyter.hub import learners as module
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from support import outputs_text

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("hub-servers")]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, UserServer, UserServer]]:
    """A hub with two users whose servers run."""
    folder = tmp_path_factory.mktemp("hub")
    with (
        fake_hub(folder) as hub,
        user_server(folder / "ada", hub, "ada") as ada,
        user_server(folder / "bob", hub, "bob") as bob,
    ):
        yield hub, ada, bob


@pytest.fixture
def hub(world: tuple[FakeHub, UserServer, UserServer]) -> FakeHub:
    """It as it was at first."""
    hub, ada, bob = world
    hub.users.clear()
    hub.refusals.clear()
    hub.asked.clear()
    hub.role = FakeHub.role
    hub.add("ada", "learners", url=ada.url)
    hub.add("bob", "learners", url=bob.url)
    return hub


async def run(learners: Learners, user: str, operation: str, /, **arguments: Any) -> str:
    async with learners.using(user) as services:
        return (await invoke(services, operation, arguments, caller=Caller("test"))).text


async def until(check: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not check():  # noqa: ASYNC110 - what another process is asked for has no event here
            await anyio.sleep(0.02)


async def test_two_users_with_equal_paths_share_nothing(
    world: tuple[FakeHub, UserServer, UserServer], hub: FakeHub, tmp_path: Path
) -> None:
    answers: dict[str, str] = {}

    async def work(learners: Learners, user: str) -> None:
        await run(learners, user, "create_notebook", notebook_path="same.ipynb")
        await run(learners, user, "append_execute_code_cell", notebook_path="same.ipynb", cell_source=f"who = '{user}'")
        answers[user] = await run(learners, user, "execute_code", notebook_path="same.ipynb", code="print(who)")

    async with open_hub_learners(tmp_path, hub) as learners:
        async with anyio.create_task_group() as tasks:
            for user in ("ada", "bob"):
                tasks.start_soon(work, learners, user)
        async with learners.using("ada") as ada, learners.using("bob") as bob:
            assert ada.settings.root_state != bob.settings.root_state
            known = ada.journal.last_runs("same.ipynb")
            assert known
            assert not known.keys() & bob.journal.last_runs("same.ipynb").keys()
    assert "ada" in answers["ada"]
    assert "bob" in answers["bob"]
    for server, user in zip(world[1:], ("ada", "bob"), strict=True):
        cells = json.loads((server.root / "same.ipynb").read_text())["cells"]
        assert ["".join(cell["source"]) for cell in cells] == [f"who = '{user}'"]
        (server.root / "same.ipynb").unlink()


async def test_only_what_was_made_for_a_server_is_sent_to_it(
    world: tuple[FakeHub, UserServer, UserServer], hub: FakeHub, tmp_path: Path
) -> None:
    async with open_hub_learners(tmp_path, hub) as learners:
        await run(learners, "ada", "create_notebook", notebook_path="sent.ipynb")
        assert "42" in await run(learners, "ada", "execute_code", notebook_path="sent.ipynb", code="print(6 * 7)")
        await run(learners, "ada", "shutdown_kernel", notebook_path="sent.ipynb")
        await run(learners, "bob", "list_notebooks")
    for server, user in zip(world[1:], ("ada", "bob"), strict=True):
        assert server.tokens <= {made["token"] for made in hub.minted if made["user"] == user}
        assert SERVICE_TOKEN not in server.tokens
    asked = [made for made in hub.minted if made["user"] == "ada"][-1]
    assert (asked["scopes"], asked["expires_in"]) == (["access:servers!server=ada/"], 900)
    # Nothing that still opens anything is left behind.
    assert {made["id"] for made in hub.minted} <= set(hub.revoked)


async def test_a_token_is_replaced_before_it_ends(hub: FakeHub, tmp_path: Path) -> None:
    before = len(hub.minted)
    async with (
        open_hub_learners(tmp_path, hub, token_seconds=int(module.RENEW_SECONDS) + 1) as learners,
        learners.using("ada") as services,
    ):
        await until(lambda: len(hub.minted) > before + 1)
        hub.take_back(hub.minted[before]["id"])
        # The renewed one is used at the latest with the next call after it was made.
        await until(lambda: learners._places["ada"].token.token == hub.minted[-1]["token"])
        await services.contents.list("")


async def test_a_token_that_the_hub_has_forgotten_is_replaced_for_the_next_call(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.0)
    async with open_hub_learners(tmp_path, hub) as learners:
        await run(learners, "ada", "list_notebooks")
        hub.forget_tokens()
        with pytest.raises(Unavailable, match="Repeat the call"):
            await run(learners, "ada", "list_notebooks")
        await run(learners, "ada", "list_notebooks")


async def test_a_server_that_refuses_every_token_gets_no_endless_row_of_them(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 3600.0)
    hub.users["ada"].url = hub.users["bob"].url
    before = len(hub.minted)
    async with open_hub_learners(tmp_path, hub) as learners:
        for _ in range(5):
            with pytest.raises(Unavailable, match="refuses a token"):
                await run(learners, "ada", "list_notebooks")
    assert len(hub.minted) == before + 1


async def test_a_place_is_left_when_nobody_works_there_and_its_kernel_is_met_again(
    hub: FakeHub, tmp_path: Path
) -> None:
    async with open_hub_learners(tmp_path, hub, idle_seconds=0.2) as learners:
        await run(learners, "ada", "create_notebook", notebook_path="left.ipynb")
        await run(learners, "ada", "execute_code", notebook_path="left.ipynb", code="kept = 42")
        await until(lambda: not len(learners))
        assert "42" in await run(learners, "ada", "execute_code", notebook_path="left.ipynb", code="print(kept)")
        await run(learners, "ada", "shutdown_kernel", notebook_path="left.ipynb")


async def test_a_place_in_which_a_cell_runs_is_not_left(hub: FakeHub, tmp_path: Path) -> None:
    async with open_hub_learners(tmp_path, hub, idle_seconds=0.2) as learners:
        await run(learners, "ada", "create_notebook", notebook_path="busy.ipynb")
        code = {"cell_type": "code", "cell_source": "import time\ntime.sleep(600)"}
        await run(learners, "ada", "insert_cell", notebook_path="busy.ipynb", cell_index=0, **code)
        cell = {"notebook_path": "busy.ipynb", "cell_index": 0}
        await run(learners, "ada", "execute_cell_with_progress", **cell, timeout_seconds=1)
        async with learners.using("ada") as services:
            assert services.executions.active()
        closed = learners._places["ada"].closed
        # Long enough for one that is left wrongly; a cell that runs is the only thing that keeps it.
        with anyio.move_on_after(1):
            await closed.wait()
        assert not closed.is_set()
        await run(learners, "ada", "interrupt_kernel", notebook_path="busy.ipynb")
        await until(lambda: not len(learners))


async def test_a_server_that_stops_while_a_cell_runs_is_left(hub: FakeHub, tmp_path: Path) -> None:
    with user_server(tmp_path / "cal", hub, "cal") as cal:
        hub.add("cal", "learners", url=cal.url)
        async with open_hub_learners(tmp_path, hub, idle_seconds=0.5) as learners:
            await run(learners, "cal", "create_notebook", notebook_path="cut.ipynb")
            async with learners.using("cal") as services:
                code = {"notebook_path": "cut.ipynb", "code": "import time\nwhile True: time.sleep(0.05)"}
                await invoke(services, "execute_code", {**code, "timeout_seconds": 1}, caller=Caller("test"))
                assert services.executions.active()
            cal.kill()
            # The server does not answer, and it is the hub that says that it never will.
            hub.users["cal"].url = None
            await until(lambda: not len(learners))
            with pytest.raises(ServerNotRunning):
                await run(learners, "cal", "list_notebooks")


async def test_a_role_without_tokens_leaves_the_service_its_own(
    world: tuple[FakeHub, UserServer, UserServer], hub: FakeHub, tmp_path: Path
) -> None:
    hub.role = ("read:servers", "start:servers", "access:servers!group=learners")
    before = len(hub.minted), len(hub.revoked)
    hub.minted.append({"id": "own", "token": SERVICE_TOKEN, "user": "ada"})
    hub._write()
    try:
        async with open_hub_learners(tmp_path, hub) as learners:
            await run(learners, "ada", "list_notebooks")
        assert SERVICE_TOKEN in world[1].tokens
        # It is not taken back with the place.
        assert (len(hub.minted), len(hub.revoked)) == (before[0] + 1, before[1])
    finally:
        hub.take_back("own")
        world[1].seen.unlink()


async def test_a_role_that_opens_no_server_is_refused_as_such(hub: FakeHub, tmp_path: Path) -> None:
    hub.role = ("read:servers", "start:servers")
    async with open_hub_learners(tmp_path, hub) as learners:
        with pytest.raises(NotAllowed, match="role"):
            await run(learners, "ada", "list_notebooks")


async def test_learners_are_listed_by_pages(hub: FakeHub, tmp_path: Path) -> None:
    hub.users["bob"].url = None
    async with open_hub_learners(tmp_path, hub) as learners:
        listed, total = await learners.list(running=False, offset=1, limit=1)
        assert ([each.name for each in listed], total) == (["bob"], 2)
        running, total = await learners.list(running=True, offset=0, limit=100)
        assert ([(each.name, each.is_running) for each in running], total) == ([("ada", True)], 1)
        assert running[0].last_activity == "2026-01-01T12:00:00Z"


async def test_a_stopped_server_is_named_so_and_a_user_outside_the_role_is_refused(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.users["ada"].url = None
    async with open_hub_learners(tmp_path, hub) as learners:
        with pytest.raises(ServerNotRunning, match="start_server") as stopped:
            await run(learners, "ada", "list_notebooks")
        assert (stopped.value.code, stopped.value.http_status) == ("server_not_running", 424)
        with pytest.raises(NotAllowed):
            await run(learners, "nobody", "list_notebooks")
        with pytest.raises(NotAllowed):
            await learners.require("nobody")
        assert not len(learners)


async def test_a_server_is_started_and_the_hubs_progress_is_told(
    world: tuple[FakeHub, UserServer, UserServer], hub: FakeHub, tmp_path: Path
) -> None:
    hub.users["ada"].url = None
    hub.starts["ada"] = [
        {"progress": 10, "message": "Pulling the image"},
        {"progress": 100, "ready": True, "message": "Server ready", "url": world[1].url},
    ]
    told: list[str] = []

    async def tell(text: str) -> None:
        told.append(text)

    async with open_hub_learners(tmp_path, hub) as learners:
        assert await learners.start("ada", tell, PATIENCE)
        assert told == ["10 %: Pulling the image", "100 %: Server ready"]
        await run(learners, "ada", "list_notebooks")
        assert await learners.start("ada", tell, PATIENCE)
    assert len(told) == 2


async def test_a_start_that_fails_says_why_and_one_too_many_when_to_come_back(hub: FakeHub, tmp_path: Path) -> None:
    hub.users["ada"].url = None
    hub.starts["ada"] = [{"progress": 100, "failed": True, "message": "Spawn failed: no node"}]

    async def tell(text: str) -> None:
        return

    async with open_hub_learners(tmp_path, hub) as learners:
        with pytest.raises(Unavailable, match="no node"):
            await learners.start("ada", tell, PATIENCE)
        hub.refusals.append((429, {"retry-after": "7"}))
        with pytest.raises(Unavailable, match="7 s") as later:
            await learners.start("ada", tell, PATIENCE)
        assert later.value.retry_after == 7


async def test_servers_in_use_stay_usable_while_the_hub_is_away(
    world: tuple[FakeHub, UserServer, UserServer], tmp_path: Path
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    with fake_hub(away) as hub:
        hub.accepted = world[0].accepted
        hub.add("ada", url=world[1].url)
        hub.add("bob", url=world[2].url)
        stack = open_hub_learners(tmp_path, hub)
        learners = await stack.__aenter__()
        await run(learners, "ada", "list_notebooks")
    try:
        await learners.require("ada")
        await run(learners, "ada", "list_notebooks")
        with pytest.raises(Unavailable) as refused:
            await run(learners, "bob", "list_notebooks")
        assert refused.value.retry_after
    finally:
        await stack.__aexit__(None, None, None)


async def test_there_are_only_so_many_places_and_one_that_is_free_makes_room(hub: FakeHub, tmp_path: Path) -> None:
    async with open_hub_learners(tmp_path, hub, hub_places=1) as learners:
        async with learners.using("ada"):
            with pytest.raises(Unavailable) as refused:
                await run(learners, "bob", "list_notebooks")
            assert refused.value.retry_after
        await run(learners, "bob", "list_notebooks")
        assert set(learners._places) == {"bob"}


async def test_what_a_killed_service_left_open_is_opened_by_the_next(hub: FakeHub, tmp_path: Path) -> None:
    async with open_hub_learners(tmp_path, hub) as learners:
        await run(learners, "ada", "create_notebook", notebook_path="again.ipynb")
        await run(learners, "ada", "append_execute_code_cell", notebook_path="again.ipynb", cell_source="x = 1\nx")
    async with open_hub_learners(tmp_path, hub) as learners:
        text = await run(learners, "ada", "read_all_cells", notebook_path="again.ipynb")
        assert "x = 1" in text
        async with learners.using("ada") as services:
            cell = (await services.contents.read("again.ipynb")).cells[0]
        assert outputs_text(cell) == "1"
        await run(learners, "ada", "shutdown_kernel", notebook_path="again.ipynb")
