"""What a kernel sends besides outputs is in the answer, and not in the cell."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("payloads")
    (folder / "root").mkdir()
    options = {"root": folder / "root", "state_dir": folder / "state", "notebook": "a.ipynb"}
    async with open_services(Settings.load(options, {})) as opened:
        yield opened


async def run(services: Services, code: str) -> Answer:
    return await invoke(services, "append_execute_code_cell", {"cell_source": code}, caller=Caller("tester"))


async def outputs(services: Services) -> list[object]:
    return list((await services.contents.read("a.ipynb")).cells[-1].outputs)


async def test_the_pagers_text_is_in_the_answer(services: Services) -> None:
    answer = await run(services, "len?")
    assert "Return the number of items in a container." in answer.text
    assert "\x1b" not in answer.text
    assert await outputs(services) == []


async def test_a_long_pagers_text_stays_within_the_answer(services: Services) -> None:
    await run(services, "def f(): ...\nf.__doc__ = 'a line of it\\n' * 10_000")
    answer = await run(services, "f?")
    assert "a line of it" in answer.text
    assert len(answer.text) <= services.settings.max_chars


async def test_what_the_kernel_offers_as_the_next_cell_is_told(services: Services) -> None:
    answer = await run(services, "get_ipython().set_next_input('x = 41')")
    assert answer.text.endswith("The kernel offers as the next cell:\nx = 41")
    assert await outputs(services) == []
