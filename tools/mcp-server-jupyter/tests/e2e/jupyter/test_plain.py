"""A Jupyter server alone: notebooks are files behind its REST API, which somebody else saves as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from lab import PATIENCE, Agent, Beside, code_cell, emptied, is_on_disk, is_shown_on_disk, write
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from a_jupyter import TOKEN, Jupyter

pytestmark = pytest.mark.anyio


@pytest.fixture
def jupyter(plain: Jupyter) -> Jupyter:
    emptied(plain)
    return plain


class Person:
    """Who uses that Jupyter's REST API, as a front end does that knows no live documents."""

    def __init__(self, web: httpx2.AsyncClient) -> None:
        self._web = web

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        response = await self._web.request(method, path, json=body)
        response.raise_for_status()
        return response.json()

    async def save(self, change: Callable[[list[Any]], None]) -> None:
        """Load a.ipynb, change its cells, save it."""
        model = await self.ask("GET", "api/contents/a.ipynb")
        change(model["content"]["cells"])
        body = {"type": "notebook", "format": "json", "content": model["content"]}
        await self.ask("PUT", "api/contents/a.ipynb", body)

    async def sessions(self) -> list[tuple[str, str]]:
        """Each session's path and kernel."""
        return [(each["path"], each["kernel"]["id"]) for each in await self.ask("GET", "api/sessions")]


@pytest.fixture
async def person(jupyter: Jupyter) -> AsyncIterator[Person]:
    headers = {"Authorization": f"token {TOKEN}"}
    async with httpx2.AsyncClient(base_url=jupyter.url, headers=headers, timeout=PATIENCE) as web:
        yield Person(web)
        for each in await Person(web).ask("GET", "api/sessions"):
            await web.delete(f"api/sessions/{each['id']}")


async def test_an_agent_over_mcp_makes_a_notebook_of_that_jupyter_and_runs_it_there(
    jupyter: Jupyter, server: Beside, person: Person
) -> None:
    headers = {"Authorization": "Bearer secret-token"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as web,
        Client(streamable_http_client(f"{server.address}/mcp", http_client=web)) as client,
    ):

        async def call(name: str, **arguments: Any) -> str:
            answer: Any = await client.call_tool(name, arguments)
            text = "\n".join(block.text for block in answer.content)
            assert not answer.is_error, text
            return text

        await call("create_notebook", notebook_path="new/b.ipynb")
        given = {"notebook_path": "new/b.ipynb"}
        await call("append_markdown_cell", cell_source="# Six by seven", **given)
        assert "42" in await call("append_execute_code_cell", cell_source="x = 6\nx * 7", **given)
        assert "7" in await call("insert_execute_code_cell", cell_index=1, cell_source="x + 1", **given)
        assert "36" in await call("execute_code", code="x * x", **given)
        assert "new/b.ipynb" in await call("list_notebooks")
        info = await call("get_notebook_info", **given)

    [(path, kernel_id)] = await person.sessions()
    assert path == "new/b.ipynb"
    assert f"id={kernel_id[:8]} " in info
    await is_on_disk(jupyter, "# Six by seven", "x + 1", "x = 6\nx * 7", name="new/b.ipynb")


async def test_the_kernel_that_a_person_has_started_is_the_one_that_an_agent_runs_in(
    jupyter: Jupyter, agent: Agent, person: Person
) -> None:
    write(jupyter, code_cell("one", "1"), kernel="python3")
    session = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    begun = await person.ask("POST", "api/sessions", session)
    ran = await agent.call("append_execute_code_cell", cell_source="20 + 1")

    assert "21" in ran["text"]
    assert await person.sessions() == [("a.ipynb", begun["kernel"]["id"])]


async def test_what_a_person_saves_between_an_agents_edits_stays(
    jupyter: Jupyter, agent: Agent, person: Person
) -> None:
    write(jupyter, code_cell("one", "first = 1"), code_cell("two", "last = 2"))
    await agent.call("overwrite_cell_source", cell_index=1, cell_source="last = 22")
    await person.save(lambda cells: cells[0].update(source="first = 11"))
    await agent.call("insert_cell", cell_index=2, cell_type="code", cell_source="ours = 3")

    await is_on_disk(jupyter, "first = 11", "last = 22", "ours = 3")
    await agent.sees("first = 11")


async def test_what_a_person_saves_while_a_cell_runs_and_what_it_prints_are_both_in_the_file(
    jupyter: Jupyter, agent: Agent, person: Person, tmp_path: Path
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"), kernel="python3")
    go_on = tmp_path / "go-on"
    source = (
        f"import pathlib, time\nprint('be' + 'gun', flush=True)\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)\nprint('en' + 'ded')"
    )
    begun = await agent.call("insert_cell", cell_index=1, cell_type="code", cell_source=source)
    assert not begun["is_error"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: agent.call("execute_cell_with_progress", cell_index=1))
        await is_shown_on_disk(jupyter, 1, "begun\n")
        await person.save(lambda cells: cells[0].update(source="theirs = 2"))
        go_on.touch()
    await is_shown_on_disk(jupyter, 1, "begun\nended\n")
    await is_on_disk(jupyter, "theirs = 2", source)


async def test_a_killed_jupyter_is_said_and_gone_on_with_once_it_is_back(jupyter: Jupyter, agent: Agent) -> None:
    write(jupyter, code_cell("one", "1"))
    await agent.call("insert_cell", cell_index=1, cell_type="code", cell_source="before = 2")
    jupyter.kill()
    try:
        assert "does not answer" in await agent.refused("insert_cell", cell_index=2, cell_type="code", cell_source="no")
    finally:
        jupyter.start()
    await agent.answered()
    await agent.call("insert_cell", cell_index=2, cell_type="code", cell_source="after = 3")

    await is_on_disk(jupyter, "1", "before = 2", "after = 3")
