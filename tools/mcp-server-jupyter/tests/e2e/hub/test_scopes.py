"""Each scope of the service's role: services whose roles lack one of them, at a real hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from conftest import lacking, service_name, token_of
from hub import NAME, SERVICE, Hub, values
from mcp_server_jupyter.errors import NotAllowed
from mcp_server_jupyter.hub import HubApi, Learners, hub_settings, open_learners
from mcp_server_jupyter.settings import Settings


@asynccontextmanager
async def learners_of(hub: Hub, folder: Path, token: str) -> AsyncIterator[Learners]:
    settings = hub_settings(Settings.load({"state_dir": folder, "hub_url": hub.url}, environ={}))
    async with HubApi(f"{hub.url}/hub/api", token) as api, open_learners(api, settings) as learners:
        yield learners


async def tell(_: str) -> None:
    return


async def work(learners: Learners, user: str) -> None:
    async with learners.using(user) as services:
        await services.contents.list("")


async def test_without_start_servers_none_is_started(hub: Hub, tmp_path: Path) -> None:
    hub.stop("bob")
    async with learners_of(hub, tmp_path / "lacks", token_of(service_name("start:servers"))) as lacks:
        with pytest.raises(NotAllowed):
            await lacks.start("bob", tell, 60)
    assert not hub.server("bob")
    async with learners_of(hub, tmp_path / "whole", SERVICE) as whole:
        assert await whole.start("bob", tell, 240)


async def test_without_read_servers_nobody_is_worked_for(hub: Hub, tmp_path: Path) -> None:
    hub.run("ada")
    async with learners_of(hub, tmp_path / "lacks", token_of(service_name("read:servers"))) as lacks:
        with pytest.raises(Exception, match=r"not running|no such user"):
            await work(lacks, "ada")
    async with learners_of(hub, tmp_path / "whole", SERVICE) as whole:
        await work(whole, "ada")


async def test_without_tokens_no_server_is_worked_in(hub: Hub, tmp_path: Path) -> None:
    hub.run("ada")
    async with learners_of(hub, tmp_path / "lacks", token_of(service_name("tokens"))) as lacks:
        with pytest.raises(NotAllowed):
            await work(lacks, "ada")


async def test_without_list_users_learners_are_not_listed(hub: Hub, tmp_path: Path) -> None:
    async with learners_of(hub, tmp_path / "lacks", token_of(service_name("list:users"))) as lacks:
        with pytest.raises(NotAllowed):
            await lacks.list(running=False, offset=0, limit=100)
    async with learners_of(hub, tmp_path / "whole", SERVICE) as whole:
        listed, total = await whole.list(running=False, offset=0, limit=100)
    # Those of the group, and nobody else.
    assert {each.name for each in listed} == set(values_of_learners(hub))
    assert total == len(listed)


async def test_without_read_users_activity_nobody_knows_when_a_learner_was_there(hub: Hub, tmp_path: Path) -> None:
    hub.run("ada")
    async with learners_of(hub, tmp_path / "lacks", token_of(service_name("read:users:activity"))) as lacks:
        listed, _ = await lacks.list(running=False, offset=0, limit=100)
        assert {each.last_activity for each in listed} == {None}
    async with learners_of(hub, tmp_path / "whole", SERVICE) as whole:
        listed, _ = await whole.list(running=True, offset=0, limit=100)
    assert next(each for each in listed if each.name == "ada").last_activity


async def test_every_scope_of_the_role_is_tried_and_read_users_name_comes_with_others(hub: Hub) -> None:
    assert set(lacking()) == {"read:servers", "start:servers", "tokens", "list:users", "read:users:activity"}
    async with HubApi(f"{hub.url}/hub/api", SERVICE) as api:
        assert "read:users:name!group=learners" in await api.own_scopes()
    assert "read:users:name!group=learners" not in values()["hub"]["loadRoles"][NAME]["scopes"]


def values_of_learners(hub: Hub) -> list[str]:
    found: list[str] = hub.ask("GET", "groups/learners")[1]["users"]
    return found
