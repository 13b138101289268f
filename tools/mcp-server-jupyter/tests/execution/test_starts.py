"""A kernel's start belongs to the server: it outlives the call that asked for it, and others join it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends import local
from mcp_server_jupyter.backends.memory import open_kernels
from mcp_server_jupyter.backends.memory.kernels import MemoryKernels
from mcp_server_jupyter.errors import AlreadyExists, JupyterMcpError, KernelStartFailed, KernelStarting, Unavailable
from mcp_server_jupyter.journal import Journal
from mcp_server_jupyter.operations import Answers, Caller
from mcp_server_jupyter.operations.bind import invoke

pytestmark = pytest.mark.anyio

SHORT = Answers(8_000, 4, 1_000_000, 0.05)


class Slow:
    """Starts that go on until they are let go, or fail."""

    def __init__(self, kernels: MemoryKernels) -> None:
        kernels.before_start = self._wait
        self.kernels = kernels
        self.begun = 0
        self.cleaned = 0
        self.stage: Callable[[str], None]
        self.error: JupyterMcpError | None = None
        self.go = anyio.Event()
        self.asked = anyio.Event()

    async def _wait(self, stage: Callable[[str], None]) -> None:
        self.begun += 1
        self.stage = stage
        stage("pulling image example")
        self.asked.set()
        try:
            await self.go.wait()
        except BaseException:
            self.cleaned += 1
            raise
        if self.error is not None:
            raise self.error


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[Desk, Slow]]:
    settings = settings_of(tmp_path)
    slow = Slow(open_kernels(settings))
    async with open_desk(settings, kernels=slow.kernels) as desk:
        yield desk, slow


async def briefly(desk: Desk, operation: str, /, author: str = "tester", **arguments: Any) -> Any:
    """A call whose client waits 50 ms for an answer."""
    with anyio.fail_after(60):
        return await invoke(desk.services, operation, arguments, caller=Caller(author, SHORT))


async def pulling(desk: Desk, starting: Slow) -> None:
    """Bring a start to its stage, and leave it there."""
    with pytest.raises(KernelStarting):
        await briefly(desk, "execute_code", code="1")
    with anyio.fail_after(60):
        await starting.asked.wait()


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("append_execute_code_cell", {"cell_source": "1"}),
    ("execute_cell_with_progress", {"cell_index": 0}),
    ("run_all_cells", {}),
    ("execute_code", {"code": "1", "timeout_seconds": 0}),
]


@pytest.mark.parametrize(("operation", "arguments"), RUNS)
async def test_a_call_whose_wait_ends_first_says_the_stage_and_has_changed_nothing(
    slow: tuple[Desk, Slow], operation: str, arguments: dict[str, Any]
) -> None:
    desk, starting = slow
    await desk.call("insert_cell", cell_index=0, cell_type="code", cell_source="2")
    before = desk.file.read_bytes()
    await pulling(desk, starting)
    with pytest.raises(KernelStarting, match=r"pulling image example, since \d+ s") as caught:
        await briefly(desk, operation, **arguments)

    assert "Nothing was inserted or run; repeat the call, it joins this start." in str(caught.value)
    await desk.services.contents.flush()
    assert desk.file.read_bytes() == before
    assert not desk.services.executions.active()
    starting.go.set()
    assert (await desk.call(operation, **{k: v for k, v in arguments.items() if k != "timeout_seconds"})).data
    assert starting.begun == 1


async def test_the_next_calls_join_the_start_and_each_of_them_runs_once(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    texts: list[str] = []

    async def run(code: str, author: str) -> None:
        texts.append((await desk.call("append_execute_code_cell", author, cell_source=code)).text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "x = 20", "one")
        await starting.asked.wait()
        tasks.start_soon(run, "y = 22", "two")
        await anyio.wait_all_tasks_blocked()
        starting.go.set()

    assert (await desk.call("execute_code", code="x + y")).text.endswith("42")
    assert starting.begun == 1
    assert len(await desk.cells()) == 2


async def test_two_notebooks_start_beside_each_other(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    await desk.call("create_notebook", notebook_path="b.ipynb")
    async with anyio.create_task_group() as tasks:
        for path in ("a.ipynb", "b.ipynb"):
            tasks.start_soon(partial(desk.call, "execute_code", code="1", notebook_path=path))
        await anyio.wait_all_tasks_blocked()
        assert starting.begun == 2
        starting.go.set()
    assert {session.notebook for session in desk.services.sessions.all()} == {"a.ipynb", "b.ipynb"}


async def test_a_cancelled_call_leaves_the_start_going_on(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(desk.call, "execute_code", code="1"))
        await starting.asked.wait()
        tasks.cancel_scope.cancel()

    assert starting.cleaned == 0
    starting.go.set()
    await desk.call("execute_code", code="1")
    assert starting.begun == 1


async def test_whoever_listens_is_told_each_stage(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    told: list[tuple[float, str]] = []
    news = anyio.Event()

    async def progress(value: float, text: str) -> None:
        nonlocal news
        told.append((value, text))
        news.set()
        news = anyio.Event()

    async def run() -> None:
        arguments = {"code": "1"}
        await invoke(desk.services, "execute_code", arguments, caller=Caller("tester"), progress=progress)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await starting.asked.wait()
            await news.wait()
            starting.stage("waiting for a node: 0/3 nodes have enough memory")
            await news.wait()
            starting.go.set()

    texts = [text.rpartition(", since")[0] for _, text in told]
    assert texts[0] == "The kernel is starting: pulling image example"
    assert "The kernel is starting: waiting for a node: 0/3 nodes have enough memory" in texts
    values = [value for value, _ in told]
    assert values == sorted(set(values))


async def test_a_failed_start_is_told_to_everybody_who_waits_and_the_next_call_starts_anew(
    slow: tuple[Desk, Slow],
) -> None:
    desk, starting = slow
    starting.error = KernelStartFailed("No such image.", log="ErrImagePull: example")
    failed: list[str] = []

    async def run(author: str) -> None:
        with pytest.raises(KernelStartFailed) as caught:
            await desk.call("execute_code", author, code="1")
        failed.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "one")
        tasks.start_soon(run, "two")
        await anyio.wait_all_tasks_blocked()
        starting.go.set()
    starting.error = None

    assert failed == ["No such image.\nErrImagePull: example"] * 2
    assert (await desk.call("execute_code", code="1")).data["status"] == "ok"
    assert starting.begun == 2


@pytest.mark.parametrize("operation", ["execute_code", "start_kernel", "restart_kernel", "list_variables"])
async def test_a_start_that_failed_unheard_is_told_once_to_the_next_call(
    slow: tuple[Desk, Slow], operation: str
) -> None:
    desk, starting = slow
    starting.error = Unavailable("The quota is used up.")
    await pulling(desk, starting)
    starting.go.set()
    await anyio.wait_all_tasks_blocked()
    assert "a.ipynb\n" in (await desk.call("list_kernels")).text
    assert "failed (its start failed: The quota is used up.)" in (await desk.call("list_kernels")).text
    assert "kernel: failed" in (await desk.call("get_notebook_info")).text
    starting.error = None
    more = {"execute_code": {"code": "1"}, "start_kernel": {"notebook_path": "a.ipynb"}}.get(operation, {})
    with pytest.raises(Unavailable, match="The quota is used up"):
        await desk.call(operation, **more)

    assert (await desk.call("execute_code", code="1")).data["status"] == "ok"
    assert starting.begun == 2


async def test_a_start_that_breaks_in_the_server_does_not_hang_its_callers(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow

    async def broken(_: object) -> None:
        raise RuntimeError("a defect")

    starting.kernels.before_start = broken
    with pytest.raises(KernelStartFailed, match="The server's log says why"):
        await desk.call("execute_code", code="1")
    assert desk.services.sessions.starts.all() == ()


async def test_listings_show_what_starts_with_its_stage(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    events = []
    stop = desk.services.events.listen(lambda event: events.append(event))
    await pulling(desk, starting)
    listed = await desk.call("list_kernels")
    info = await desk.call("get_notebook_info")
    stop()

    [kernel] = listed.data["kernels"]
    assert (kernel["state"], kernel["notebook_path"]) == ("starting", "a.ipynb")
    assert kernel["stage"].startswith("pulling image example, since ")
    assert f"{kernel['kernel_id']} python3 starting (pulling image example, since " in listed.text
    assert info.data["kernel_state"] == "starting"
    assert info.data["kernel_id"] == kernel["kernel_id"]
    assert f"kernel: starting id={kernel['kernel_id']} (pulling image example" in info.text
    assert "kernel starting" in (await desk.call("list_notebooks")).text
    assert desk.services.kernel_status() == "starting"
    stages = [event.data["stage"].partition(",")[0] for event in events if event.kind == "kernel.starting"]
    assert stages == ["starting the kernel", "starting the kernel", "pulling image example"]


@pytest.mark.parametrize("by", ["notebook", "kernel"])
async def test_a_start_can_be_cancelled_and_leaves_nothing(slow: tuple[Desk, Slow], by: str) -> None:
    desk, starting = slow
    failed: list[str] = []

    async def run() -> None:
        with pytest.raises(KernelStartFailed) as caught:
            await desk.call("execute_code", code="1")
        failed.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await starting.asked.wait()
        [start] = desk.services.sessions.starts.all()
        which = {"kernel_id": start.id} if by == "kernel" else {"notebook_path": "a.ipynb"}
        answer = await desk.call("shutdown_kernel", "ada", **which)

    assert "Cancelled the start" in answer.text
    assert failed == ["The start of the kernel was cancelled by ada. Repeat the call to start one."]
    assert starting.cleaned == 1
    assert desk.services.sessions.all() == ()
    starting.go.set()
    assert (await desk.call("execute_code", code="1")).data["kernel_epoch"] == 1


@pytest.mark.parametrize("operation", ["interrupt_kernel", "restart_kernel", "list_variables"])
async def test_what_needs_a_kernel_says_that_it_is_starting(slow: tuple[Desk, Slow], operation: str) -> None:
    desk, starting = slow
    await pulling(desk, starting)
    with pytest.raises(KernelStarting, match="pulling image example"):
        await desk.call(operation)
    assert starting.begun == 1


async def test_start_kernel_answers_with_the_stage_and_the_same_call_joins(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    first = await briefly(desk, "start_kernel", notebook_path="a.ipynb")
    again = await briefly(desk, "start_kernel", notebook_path="a.ipynb")
    assert first.data["state"] == again.data["state"] == "starting"
    assert first.data["kernel_id"] == again.data["kernel_id"]
    with pytest.raises(AlreadyExists, match="is starting already"):
        await briefly(desk, "start_kernel", notebook_path="a.ipynb", kernel_name="other")
    starting.go.set()
    started = await desk.call("start_kernel", notebook_path="a.ipynb")

    assert started.text.startswith("Started kernel")
    assert starting.begun == 1


async def test_a_kernel_without_a_notebook_is_known_by_the_id_of_its_start(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    start = (await briefly(desk, "start_kernel")).data["kernel_id"]
    with pytest.raises(KernelStarting):
        await briefly(desk, "execute_code", code="1", kernel_id=start)
    starting.go.set()
    answer = await desk.call("execute_code", code="1", kernel_id=start)

    assert answer.data["status"] == "ok"
    assert (await desk.call("execute_code", code="1", kernel_id=start)).data["kernel_id"] == answer.data["kernel_id"]
    await desk.call("shutdown_kernel", kernel_id=start)
    assert desk.services.sessions.all() == ()


async def test_a_dead_kernel_that_was_restarted_while_another_started_keeps_the_notebook(
    slow: tuple[Desk, Slow],
) -> None:
    desk, starting = slow
    starting.go.set()
    await desk.call("execute_code", code="x = 1")
    [session] = desk.services.sessions.all()
    session.kernel.die()  # type: ignore[attr-defined]
    starting.go = anyio.Event()
    await briefly(desk, "start_kernel", notebook_path="a.ipynb")
    await desk.services.sessions.restart(session)
    starting.go.set()
    with pytest.raises(AlreadyExists):
        await desk.call("start_kernel", notebook_path="a.ipynb")

    assert desk.services.sessions.all() == (session,)
    assert list(starting.kernels._kernels) == [session.id]


async def test_a_notebook_that_is_renamed_meanwhile_gets_its_kernel(slow: tuple[Desk, Slow]) -> None:
    desk, starting = slow
    await pulling(desk, starting)
    desk.services.sessions.renamed("a.ipynb", "b.ipynb")
    starting.go.set()
    with anyio.fail_after(60):
        [start] = desk.services.sessions.starts.all()
        await start.wait()
    assert [session.notebook for session in desk.services.sessions.all()] == ["b.ipynb"]


async def test_a_start_under_way_is_cleaned_up_when_the_server_ends(tmp_path: Path) -> None:
    for keep in (False, True):
        settings = settings_of(tmp_path, keep_kernels=keep)
        starting = Slow(open_kernels(settings))
        with anyio.fail_after(60):
            async with open_desk(settings, kernels=starting.kernels) as desk:
                await pulling(desk, starting)
        assert starting.cleaned == 1


async def test_a_full_disk_at_the_end_of_a_start_leaves_no_kernel(
    slow: tuple[Desk, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, starting = slow

    def fail(*_: object) -> None:
        raise Unavailable("The disk is full.")

    await pulling(desk, starting)
    with monkeypatch.context() as full:
        full.setattr(Journal, "bind", fail)
        starting.go.set()
        with pytest.raises(Unavailable, match="The disk is full"):
            await desk.call("execute_code", code="1")
    assert starting.kernels._kernels == {}


# ------------------------------------------------------------------ real kernels


async def test_a_real_start_is_joined_after_the_first_call_gave_up(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local")
    async with open_desk(settings) as desk:
        with pytest.raises(KernelStarting, match=r"starting the kernel, since \d+ s"):
            await briefly(desk, "append_execute_code_cell", cell_source="6 * 7")
        assert json.loads(desk.file.read_text())["cells"] == []
        answer = await desk.call("append_execute_code_cell", cell_source="6 * 7")

        assert answer.text.endswith("42")
        assert len(await desk.cells()) == 1
        assert len(desk.services.sessions.all()) == 1


async def test_a_cancelled_real_start_leaves_no_process_and_no_record(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local")
    async with open_desk(settings) as desk:
        with pytest.raises(KernelStarting):
            await briefly(desk, "execute_code", code="1")
        await desk.call("shutdown_kernel")

        assert desk.services.sessions.all() == ()
        kernels = desk.services.kernels
        assert isinstance(kernels, local.LocalKernels)
        assert kernels._kernels == {}
        assert list((settings.root_state / "kernels").iterdir()) == []
