"""Idle kernels are shut down after a while, told before and after, and never while anything is to be done in them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends.memory.kernels import MemoryKernel
from mcp_server_jupyter.errors import KernelError, NotFound
from mcp_server_jupyter.events import Event, Events
from mcp_server_jupyter.execution.culling import Culling, in_words
from mcp_server_jupyter.execution.session import Session

pytestmark = pytest.mark.anyio

CULL = 0.5


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path, cull_idle_seconds=CULL)) as desk:
        yield desk


NOTICE, NOTICED_CULL = 1.5, 1.8


@pytest.fixture
async def noticed(tmp_path: Path) -> AsyncIterator[Desk]:
    """One whose notice is long enough to do something in it."""
    async with open_desk(settings_of(tmp_path, cull_idle_seconds=NOTICED_CULL)) as desk:
        desk.services.sessions._culling._notice = NOTICE
        yield desk


class Heard:
    """The events of a desk, as they happen."""

    def __init__(self, desk: Desk) -> None:
        self.events: list[tuple[float, Event]] = []
        self._news = anyio.Event()
        desk.services.events.listen(self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))
        self._news.set()

    async def first(self, kind: str, seconds: float = 10.0) -> tuple[float, Event]:
        with anyio.fail_after(seconds):
            while True:
                for at, event in self.events:
                    if event.kind == kind:
                        return at, event
                self._news = anyio.Event()
                await self._news.wait()


def only(desk: Desk) -> Session:
    [session] = desk.services.sessions.all()
    return session


async def test_an_idle_kernel_is_told_of_and_then_shut_down(noticed: Desk) -> None:
    desk = noticed
    heard = Heard(desk)
    await desk.call("execute_code", code="x = 1")
    idle = time.monotonic()
    warned, notice = await heard.first("kernel.culling")
    told = (await desk.call("get_notebook_info")).text
    ended, stopped = await heard.first("kernel.stopped")

    assert notice.data["notebook"] == stopped.data["notebook"] == "a.ipynb"
    assert 0 < notice.data["seconds_left"] <= NOTICE + 0.01
    assert "! The kernel is idle and will be shut down in " in told
    assert " s, unless something runs in it." in told
    assert warned < ended
    assert ended - idle >= NOTICED_CULL - 0.2
    assert stopped.data["how"] == "cull"
    assert desk.services.sessions.all() == ()


async def test_the_next_call_hears_of_it_and_the_epoch_goes_on(desk: Desk) -> None:
    heard = Heard(desk)
    await desk.call("append_execute_code_cell", cell_source="x = 1")
    await heard.first("kernel.stopped")
    answer = await desk.call("execute_code", code="1")

    assert "! The kernel of epoch 1 was shut down after 0.5 seconds idle: its variables are gone." in answer.text
    assert answer.data["kernel_epoch"] == 2
    assert "was shut down after" not in (await desk.call("execute_code", code="1")).text


async def test_a_later_server_knows_of_it_too(tmp_path: Path) -> None:
    async with open_desk(settings_of(tmp_path, cull_idle_seconds=CULL)) as desk:
        heard = Heard(desk)
        identity = (await desk.call("execute_code", code="x = 1")).data["kernel_id"]
        await heard.first("kernel.stopped")
    async with open_desk(settings_of(tmp_path)) as desk:
        with pytest.raises(NotFound, match=r"it was shut down after 0\.5 seconds idle"):
            await desk.call("execute_code", code="x", kernel_id=identity)
        answer = await desk.call("execute_code", code="1")
    assert "was shut down after 0.5 seconds idle: its variables are gone" in answer.text


WAITS: dict[str, dict[str, Any]] = {
    "a running cell": {"code": "sleep(1.2)", "timeout_seconds": 0},
    "a cell that waits for input": {"code": "input()", "timeout_seconds": 0},
}


@pytest.mark.parametrize("what", WAITS)
async def test_a_kernel_with_something_to_do_is_left_alone(desk: Desk, what: str) -> None:
    heard = Heard(desk)
    execution = (await desk.call("execute_code", **WAITS[what])).data["execution_id"]
    with pytest.raises(TimeoutError):
        await heard.first("kernel.culling", seconds=2 * CULL)

    if "input" in what:
        await desk.call("send_input", execution_id=execution, text="go on")
    await desk.call("get_execution", execution_id=execution, wait_seconds=10)
    done = time.monotonic()
    ended, _ = await heard.first("kernel.stopped")
    assert ended - done >= CULL - 0.1


async def test_running_something_in_the_notice_keeps_the_kernel(noticed: Desk) -> None:
    desk = noticed
    heard = Heard(desk)
    await desk.call("execute_code", code="x = 1")
    await heard.first("kernel.culling")
    answer = await desk.call("execute_code", code="x")
    done = time.monotonic()

    assert answer.data["status"] == "ok"
    assert "will be shut down" not in answer.text
    ended, _ = await heard.first("kernel.stopped")
    assert ended - done >= NOTICED_CULL - 0.2


async def test_looking_at_variables_counts_as_use(desk: Desk) -> None:
    await desk.call("execute_code", code="x = 1")
    session = only(desk)
    await anyio.sleep(0.2)
    before = session.idle_seconds
    with pytest.raises(KernelError):  # the memory kernel has no expressions to look with
        await desk.call("list_variables")

    assert session.idle_seconds < before


async def test_what_others_run_in_the_kernel_is_not_cut_off(desk: Desk) -> None:
    await desk.call("execute_code", code="x = 1")
    session = only(desk)
    assert isinstance(session.kernel, MemoryKernel)
    content = {"code": "sleep(1.2)", "silent": False, "store_history": True, "allow_stdin": False}
    with anyio.fail_after(10):
        async for _ in session.kernel.request("execute_request", content):
            pass
    assert session.kernel.death is None
    assert desk.services.sessions.all() == (session,)


async def test_a_kernel_out_of_reach_is_not_taken_for_idle(desk: Desk) -> None:
    heard = Heard(desk)
    await desk.call("execute_code", code="x = 1")
    kernel = only(desk).kernel
    assert isinstance(kernel, MemoryKernel)
    kernel.unreachable_since = time.time()
    with pytest.raises(TimeoutError):
        await heard.first("kernel.culling", seconds=2 * CULL)
    kernel.unreachable_since = None
    await heard.first("kernel.stopped")


async def test_a_restarted_kernel_has_the_whole_time_again(noticed: Desk) -> None:
    desk = noticed
    heard = Heard(desk)
    await desk.call("execute_code", code="x = 1")
    await heard.first("kernel.culling")
    await desk.call("restart_kernel")
    done = time.monotonic()
    ended, _ = await heard.first("kernel.stopped")
    assert ended - done >= NOTICED_CULL - 0.2


def test_the_notice_is_a_tenth_of_the_time_and_a_minute_at_most() -> None:
    def of(seconds: float) -> float:
        return Culling(seconds, Events(), lambda session, idle: None)._notice

    assert (of(20), of(300), of(86_400)) == (2, 30, 60)


async def test_nothing_is_shut_down_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with open_desk(settings_of(tmp_path)) as desk:
        heard = Heard(desk)
        await desk.call("execute_code", code="x = 1")
        with pytest.raises(TimeoutError):
            await heard.first("kernel.culling", seconds=0.3)
        assert desk.services.settings.cull_idle_seconds == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 seconds"), (90, "90 seconds"), (1800, "30 minutes"), (43_200, "12 hours")]
)
def test_times_are_said_in_units_that_fit(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
