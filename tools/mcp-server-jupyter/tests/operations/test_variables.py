"""Looking at variables of a real kernel: short unless more is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

CODE = """
import pandas
text = "é" * 100_000
blob = bytes(100_000)
many = {f"key {at}": "x" * 500 for at in range(500)}
frame = pandas.DataFrame({f"column {at}": range(at, at + 1000) for at in range(100)})
deep = [[[["y" * 1000] * 50] * 50] * 50] * 50
class Big:
    '''A class.'''
""" + "".join(f"    def method_{at}(self, argument: int = {at}) -> str: ...\n" for at in range(300))


@pytest.fixture(scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("variables")
    (folder / "root").mkdir()
    settings = Settings.load({"root": folder / "root", "state_dir": folder / "state", "notebook": "a.ipynb"}, {})
    async with open_services(settings) as services:
        await invoke(services, "execute_code", {"code": CODE}, caller=Caller("tester"))
        yield services


async def inspect(services: Services, name: str, **arguments: Any) -> Answer:
    return await invoke(services, "inspect_variable", {"name": name, **arguments}, caller=Caller("tester"))


@pytest.mark.parametrize("name", ["text", "blob", "many", "frame", "deep", "Big", "frame.values"])
async def test_nothing_is_over_two_kilobytes_unless_asked(services: Services, name: str) -> None:
    answer = await inspect(services, name)
    assert "cannot be shown" not in answer.text
    assert len(answer.text.encode()) <= 2_000
    assert len(answer.text) > 60


@pytest.mark.parametrize("name", ["text", "many", "frame", "Big"])
async def test_more_is_shown_when_it_is_asked_for(services: Services, name: str) -> None:
    short = await inspect(services, name)
    most = services.settings.max_chars
    assert f"(max_chars={most} shows more)" in short.text
    longer = await inspect(services, name, max_chars=most)
    assert len(short.text) < len(longer.text) <= most
