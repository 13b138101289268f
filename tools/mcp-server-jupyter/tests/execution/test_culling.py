"""Idle kernels are shut down after a while, told before and after, and never while anything is to be done in them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends.memory.kernels import MemoryKernel
from mcp_server_jupyter.errors import KernelError, NotFound
from mcp_server_jupyter.events import Event, Events
from mcp_server_jupyter.execution.culling import Culling, in_words
from mcp_server_jupyter.execution.session import Session
from mcp_server_jupyter.operations import Answer

pytestmark = pytest.mark.anyio

CULL = 1800.0
NOTICE = 60.0


class Clock:
    """Lets time pass for idle kernels at once: a real wait long enough for any machine would take minutes."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sessions = desk.services.sessions
        self._moved, self._sleeping = anyio.Event(), anyio.Event()
        waits = SimpleNamespace(sleep=self._sleep, sleep_forever=anyio.sleep_forever)
        monkeypatch.setattr("mcp_server_jupyter.execution.culling.anyio", waits)

    async def _sleep(self, seconds: float) -> None:
        self._sleeping.set()
        await self._moved.wait()

    async def advance(self, seconds: float) -> None:
        """Let SECONDS pass, and wait until the kernel has been looked at again, or is no more."""
        await self._looked()
        for session in self._sessions.all():
            if session._idle_since is not None:
                session._idle_since -= seconds
        self._sleeping = anyio.Event()
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        await self._looked()

    async def _looked(self) -> None:
        with anyio.fail_after(60):
            while self._sessions.all() and not self._sleeping.is_set():  # noqa: ASYNC110  (one of two things)
                await anyio.sleep(0.001)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path, cull_idle_seconds=CULL)) as desk:
        yield desk


@pytest.fixture
def clock(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(desk, monkeypatch)


class Heard:
    """The events of a desk, as they happen."""

    def __init__(self, desk: Desk) -> None:
        self.events: list[Event] = []
        desk.services.events.listen(self.events.append)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    @property
    def kinds(self) -> list[str]:
        """Those of an end, in their order."""
        return [event.kind for event in self.events if event.kind in ("kernel.culling", "kernel.stopped")]


def only(desk: Desk) -> Session:
    [session] = desk.services.sessions.all()
    return session


async def run(desk: Desk, code: str = "x = 1", **more: Any) -> Answer:
    """Run it, and wait until the kernel says that it is idle."""
    answer = await desk.call("execute_code", code=code, **more)
    await idle(desk)
    return answer


async def idle(desk: Desk) -> None:
    with anyio.fail_after(60):
        while only(desk).kernel.state != "idle":  # noqa: ASYNC110  (it does not say so)
            await anyio.sleep(0.001)


async def until_stopped(desk: Desk) -> None:
    """Wait until a kernel whose time is up is gone."""
    with anyio.fail_after(60):
        while desk.services.sessions.all():  # noqa: ASYNC110  (its event comes before)
            await anyio.sleep(0.001)


async def test_an_idle_kernel_is_told_of_and_then_shut_down(desk: Desk, clock: Clock) -> None:
    heard = Heard(desk)
    await run(desk)
    await clock.advance(CULL - NOTICE - 30)
    assert heard.kinds == []
    await clock.advance(31)
    [notice] = heard.of("kernel.culling")
    told = (await desk.call("get_notebook_info")).text
    assert heard.kinds == ["kernel.culling"]
    await clock.advance(NOTICE)
    await until_stopped(desk)
    [stopped] = heard.of("kernel.stopped")

    assert notice.data["notebook"] == stopped.data["notebook"] == "a.ipynb"
    assert 0 < notice.data["seconds_left"] <= NOTICE
    assert "! The kernel is idle and will be shut down in " in told
    assert " s, unless something runs in it." in told
    assert heard.kinds == ["kernel.culling", "kernel.stopped"]
    assert stopped.data["how"] == "cull"


async def test_the_next_call_hears_of_it_and_the_epoch_goes_on(desk: Desk, clock: Clock) -> None:
    await desk.call("append_execute_code_cell", cell_source="x = 1")
    await idle(desk)
    await clock.advance(CULL)
    await until_stopped(desk)
    answer = await desk.call("execute_code", code="1")

    assert "! The kernel of epoch 1 was shut down after 30 minutes idle: its variables are gone." in answer.text
    assert answer.data["kernel_epoch"] == 2
    assert "was shut down after" not in (await desk.call("execute_code", code="1")).text


async def test_a_later_server_knows_of_it_too(tmp_path: Path) -> None:
    async with open_desk(settings_of(tmp_path, cull_idle_seconds=0.5)) as desk:
        identity = (await desk.call("execute_code", code="x = 1")).data["kernel_id"]
        await until_stopped(desk)
    async with open_desk(settings_of(tmp_path)) as desk:
        with pytest.raises(NotFound, match=r"it was shut down after 0\.5 seconds idle"):
            await desk.call("execute_code", code="x", kernel_id=identity)
        answer = await desk.call("execute_code", code="1")
    assert "was shut down after 0.5 seconds idle: its variables are gone" in answer.text


@pytest.mark.parametrize("code", ["while not go: sleep(0.01)", "input()"])
async def test_a_kernel_with_something_to_do_is_left_alone(desk: Desk, clock: Clock, code: str) -> None:
    heard = Heard(desk)
    await run(desk, "go = []")
    execution = (await desk.call("execute_code", code=code, timeout_seconds=0)).data["execution_id"]
    await clock.advance(2 * CULL)
    assert heard.kinds == []

    if code == "input()":
        running = desk.services.executions.get(execution)
        assert running is not None
        with anyio.fail_after(60):
            while running.input_prompt is None:  # noqa: ASYNC110  (it does not say so)
                await anyio.sleep(0.001)
        await desk.call("send_input", execution_id=execution, text="go on")
    else:
        only(desk).kernel._interpreter._namespace["go"].append(1)  # type: ignore[attr-defined]
    done = await desk.call("get_execution", execution_id=execution, wait_seconds=45)
    assert done.data["status"] == "ok"
    await idle(desk)
    await clock.advance(CULL - NOTICE - 30)
    assert heard.kinds == []
    await clock.advance(NOTICE + 30)
    await until_stopped(desk)


async def test_running_something_in_the_notice_keeps_the_kernel(desk: Desk, clock: Clock) -> None:
    heard = Heard(desk)
    await run(desk)
    await clock.advance(CULL - NOTICE)
    assert heard.kinds == ["kernel.culling"]
    answer = await run(desk, "x")

    assert answer.data["status"] == "ok"
    assert "will be shut down" not in answer.text
    await clock.advance(CULL - NOTICE - 30)
    assert heard.kinds == ["kernel.culling"]
    await clock.advance(NOTICE + 30)
    await until_stopped(desk)


async def test_looking_at_variables_counts_as_use(desk: Desk, clock: Clock) -> None:
    await run(desk)
    session = only(desk)
    await clock.advance(600)
    with pytest.raises(KernelError):  # the memory kernel has no expressions to look with
        await desk.call("list_variables")

    assert session.idle_seconds < 600


async def test_what_others_run_in_the_kernel_is_not_cut_off(desk: Desk, clock: Clock) -> None:
    await run(desk, "go = []")
    session = only(desk)
    assert isinstance(session.kernel, MemoryKernel)
    content = {"code": "while not go: sleep(0.01)", "silent": False, "store_history": True, "allow_stdin": False}
    with anyio.fail_after(60):
        async for message in session.kernel.request("execute_request", content):
            if message.msg_type == "execute_input":
                await clock.advance(CULL)
                await clock.advance(CULL)
                session.kernel._interpreter._namespace["go"].append(1)
    assert session.kernel.death is None
    assert desk.services.sessions.all() == (session,)


async def test_a_kernel_out_of_reach_is_not_taken_for_idle(desk: Desk, clock: Clock) -> None:
    heard = Heard(desk)
    await run(desk)
    kernel = only(desk).kernel
    assert isinstance(kernel, MemoryKernel)
    kernel.unreachable_since = time.time()
    await clock.advance(2 * CULL)
    assert heard.kinds == []
    kernel.unreachable_since = None
    await clock.advance(CULL)
    await until_stopped(desk)


async def test_a_restarted_kernel_has_the_whole_time_again(desk: Desk, clock: Clock) -> None:
    heard = Heard(desk)
    await run(desk)
    await clock.advance(CULL - NOTICE)
    assert heard.kinds == ["kernel.culling"]
    await desk.call("restart_kernel")
    await idle(desk)
    await clock.advance(CULL - NOTICE - 30)
    assert heard.of("kernel.culling")[1:] == []
    await clock.advance(NOTICE + 30)
    await until_stopped(desk)


def test_the_notice_is_a_tenth_of_the_time_and_a_minute_at_most() -> None:
    def of(seconds: float) -> float:
        return Culling(seconds, Events(), lambda session, idle: None)._notice

    assert (of(20), of(300), of(86_400)) == (2, 30, 60)


async def test_nothing_is_shut_down_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_desk(settings_of(tmp_path)) as desk:
        assert desk.services.settings.cull_idle_seconds == 0
        slept: list[float] = []
        waits = SimpleNamespace(sleep=slept.append, sleep_forever=anyio.sleep_forever)
        monkeypatch.setattr("mcp_server_jupyter.execution.culling.anyio", waits)
        await run(desk)
        only(desk).touch()
        with anyio.move_on_after(0.1) as waiting:
            await desk.services.sessions._culling.follow(only(desk))
        assert waiting.cancelled_caught
        assert slept == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 seconds"), (90, "90 seconds"), (1800, "30 minutes"), (43_200, "12 hours")]
)
def test_times_are_said_in_units_that_fit(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
