"""A person in JupyterLab, in a real browser, and an agent at our server: the same notebook, at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from lab import PATIENCE, Agent, code_cell, is_on_disk, is_shown_on_disk, write
from window import Window, open_browser

from a_jupyter import Jupyter

# A browser that is not there yet is installed within the first test.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    async with open_browser() as opened:
        yield opened


@pytest.fixture
async def window(jupyter: Jupyter, browser: Any, request: pytest.FixtureRequest) -> AsyncIterator[Window]:
    page = await browser.new_page(viewport={"width": 900, "height": 600})
    page.set_default_timeout(PATIENCE * 1000)
    opened = Window(page, jupyter)
    try:
        yield opened
    finally:
        await opened.picture(f"last-of-{request.node.name}")
        await page.close()


async def test_a_person_who_types_sees_what_an_agent_runs_and_keeps_what_they_type(
    jupyter: Jupyter, window: Window, agent: Agent, record_property: Callable[[str, Any], None]
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"), code_cell("two", "other = 2"), kernel="python3")
    await window.open()
    typed = "  # a person types this while an agent works"
    began = anyio.current_time()

    async def run() -> None:
        await agent.call("append_execute_code_cell", cell_source="print('by the agent:', 6 * 7)")
        record_property("seconds of the agent's call", f"{anyio.current_time() - began:.2f}")

    async def see() -> None:
        await window.shows_output("by the agent: 42")
        record_property("seconds until a person sees the output", f"{anyio.current_time() - began:.2f}")

    await window.click(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(see)
        await window.type(typed, pause=40)
    shown = (f"theirs = 1{typed}", "other = 2", "print('by the agent:', 6 * 7)")
    await window.shows(*shown)
    # Where the agent has edited, with its name at the pointer.
    await window.page.locator(".jp-remote-cursor").first.wait_for(state="attached")
    await window.picture("an-agent-runs-a-cell")
    await is_on_disk(jupyter, *shown)
    record_property("seconds until it is on disk", f"{anyio.current_time() - began:.2f}")
    await is_shown_on_disk(jupyter, 2, "by the agent: 42\n")


async def test_each_undoes_their_own(jupyter: Jupyter, window: Window, agent: Agent) -> None:
    write(jupyter, code_cell("one", "first = 1\nlast = 2"), kernel="python3")
    await window.open()
    await window.click(0)
    await window.type("  # theirs")
    # What an agent has not seen it would write a second time.
    await agent.sees("last = 2  # theirs")
    await agent.call("overwrite_cell_source", cell_index=0, cell_source="first = 100\nlast = 2  # theirs")
    await agent.call("insert_cell", cell_index=1, cell_type="code", cell_source="ours = 3")
    await window.shows("first = 100\nlast = 2  # theirs", "ours = 3")

    # Typed slowly it is several steps; of what is not theirs none may be undone.
    for _ in range(2 * len("  # theirs")):
        await window.press("Control+z")
    await window.shows("first = 100\nlast = 2", "ours = 3")
    await window.picture("a-person-undoes-theirs")

    await window.type("  # again")
    await window.shows("first = 100\nlast = 2  # again", "ours = 3")
    await agent.call("undo")
    await window.shows("first = 100\nlast = 2  # again")
    await window.picture("an-agent-undoes-theirs")
    await is_on_disk(jupyter, "first = 100\nlast = 2  # again")


async def test_jupyter_is_killed_in_mid_edit_and_no_cell_is_doubled_and_no_change_lost(
    jupyter: Jupyter, window: Window, agent: Agent
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"), code_cell("two", "other = 2"), kernel="python3")
    await window.open()
    await window.click(0)
    await window.type("  # typed")
    await agent.call("insert_cell", cell_index=2, cell_type="code", cell_source="before = 3")
    await window.shows("theirs = 1  # typed", "other = 2", "before = 3")
    # What a person typed and Jupyter has not saved is between their tab and Jupyter.
    await is_on_disk(jupyter, "theirs = 1  # typed", "other = 2", "before = 3")
    await agent.call("overwrite_cell_source", cell_index=1, cell_source="other = 22")
    jupyter.kill()
    jupyter.start()
    await agent.answered()
    await agent.call("insert_cell", cell_index=3, cell_type="code", cell_source="after = 4")
    wanted = ("theirs = 1  # typed", "other = 22", "before = 3", "after = 4")
    await is_on_disk(jupyter, *wanted)
    await window.shows(*wanted)
    await window.picture("after-a-crash-of-jupyter")
    await window.open()
    await window.shows(*wanted)
    await window.picture("after-a-crash-of-jupyter-and-a-reload")
    await is_on_disk(jupyter, *wanted)
