"""Callers by their tokens, over a fake of the hub's API (see `a_hub`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from a_hub import SERVICE_TOKEN, FakeHub, fake_hub
from mcp_server_jupyter.errors import NotAllowed, Unauthorized, Unavailable
from mcp_server_jupyter.hub import HubApi, People
from mcp_server_jupyter.hub.people import KEPT_SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("hub-api")]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(tmp_path) as running:
        yield running


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def people_of(hub: FakeHub, clock: Clock | None = None) -> AsyncIterator[People]:
    async with HubApi(hub.url, SERVICE_TOKEN) as api:
        yield People(api, ("bearer",), "staff", "tutor", clock or Clock())


async def test_the_hub_says_whose_a_token_is_and_is_asked_once_by_many(hub: FakeHub) -> None:
    token = hub.add("ada", "learners")
    found = []

    async def ask(people: People) -> None:
        found.append((await people.of(token)).name)

    async with people_of(hub) as people:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask, people)
        await ask(people)
    assert found == ["ada"] * 21
    assert hub.count("GET", "user") == 1


async def test_a_token_that_was_taken_back_opens_nothing_after_half_a_minute(hub: FakeHub) -> None:
    token, clock = hub.add("ada"), Clock()
    async with people_of(hub, clock) as people:
        await people.of(token)
        del hub.tokens[token]
        clock.now += KEPT_SECONDS - 1
        assert (await people.of(token)).name == "ada"
        clock.now += 2
        with pytest.raises(Unauthorized):
            await people.of(token)


@pytest.mark.parametrize("token", ["", "unknown", "two words", "ä", "line\nbreak"])
async def test_who_brings_no_token_of_the_hub_is_refused(hub: FakeHub, token: str) -> None:
    async with people_of(hub) as people:
        with pytest.raises(Unauthorized):
            await people.of(token)
    assert hub.count("GET", "user") == (token == "unknown")


async def test_a_hub_that_is_away_is_no_refusal_and_whoever_is_known_stays_known(tmp_path: Path) -> None:
    with fake_hub(tmp_path) as hub:
        token, other = hub.add("ada"), hub.add("bob")
        async with people_of(hub) as people:
            await people.of(token)
    async with people_of(hub) as away:
        away._known = people._known
        assert (await away.of(token)).name == "ada"
        with pytest.raises(Unavailable) as refused:
            await away.of(other)
        assert refused.value.retry_after
        assert other not in str(refused.value)


async def test_others_servers_are_for_staff_by_a_token_of_their_own(hub: FakeHub) -> None:
    hub.add("ada", "learners")
    staff = hub.add("prof", "staff")
    # A server's token is in the environment of whatever runs there.
    of_server = hub.token("prof", "access:servers!server=prof/")
    of_service = hub.token("prof", "access:services!service=tutor")
    reading = hub.token("prof", "read:users:name")
    async with people_of(hub) as people:
        for token in (staff, of_service, "bearer"):
            people.require(await people.of(token), "ada")
        for token in (of_server, reading):
            with pytest.raises(NotAllowed):
                people.require(await people.of(token), "ada")
        people.require(await people.of(of_server), "prof")
        assert people.own(await people.of(of_server)) == "prof"
        with pytest.raises(NotAllowed):
            people.own(await people.of(reading))
        with pytest.raises(NotAllowed, match="/user/NAME"):
            people.own(await people.of("bearer"))


async def test_a_user_who_is_not_there_is_refused_in_the_same_words_as_somebody_elses(hub: FakeHub) -> None:
    token = hub.add("ada", "learners")
    hub.add("bob", "learners")
    said = set()
    async with people_of(hub) as people:
        person = await people.of(token)
        for name in ("bob", "nobody"):
            with pytest.raises(NotAllowed) as refused:
                people.require(person, name)
            said.add(str(refused.value))
    assert len(said) == 1
