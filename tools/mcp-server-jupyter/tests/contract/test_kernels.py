"""What every kernels backend keeps, over each of them. See `ports.Kernels`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from a_jupyter import TOKEN, Jupyter, managers
from fake_cluster import Pods, PodsHere
from forked_kernels import ForkedKernels
from mcp_server_jupyter.backends import local, memory
from mcp_server_jupyter.backends.jupyter.in_process.kernels import open_kernels as open_managed_kernels
from mcp_server_jupyter.backends.jupyter.kernels import JupyterKernels
from mcp_server_jupyter.backends.local.forking.fitness import is_possible_here
from mcp_server_jupyter.errors import KernelDead, NotFound, OutsideRoot, Unavailable
from mcp_server_jupyter.ports import Kernel, Kernels, Message
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

SLEEPS = {
    "sleep": ("import time\nprint('in', flush=True)\ntime.sleep(60)", "sleep(60)"),
    "loop": ("print('in', flush=True)\nwhile True: pass", "while True: pass"),
    "await": ("import asyncio\nprint('in', flush=True)\nawait asyncio.sleep(60)", None),
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "root" / "below").mkdir(parents=True)
    return Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state", "max_kernels": 3}, {})


# One Jupyter for all: those who need it run where it is.
REMOTE = pytest.param("jupyter", marks=pytest.mark.xdist_group("jupyter"))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter"))
    try:
        yield server.start()
    finally:
        server.close()


FORKED = pytest.param("forked", marks=pytest.mark.skipif(not is_possible_here(), reason="nothing is forked here"))


@pytest.fixture(params=["memory", "local", FORKED, "pods", REMOTE, "serverapp"])
async def kernels(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Kernels]:
    backends = {
        "memory": memory.open_kernels,
        "local": local.open_kernels,
        "forked": ForkedKernels,
        "pods": PodsHere,
        "jupyter": JupyterKernels,
    }
    if request.param == "serverapp":
        async with managers(settings.root) as app, open_managed_kernels(settings, app) as opened:
            yield opened
        return
    if request.param == "jupyter":
        settings = replace(settings, jupyter_url=request.getfixturevalue("jupyter").url, jupyter_token=TOKEN)
    async with backends[request.param](settings) as opened:
        yield opened


@pytest.fixture
async def kernel(kernels: Kernels) -> Kernel:
    with anyio.fail_after(60):
        return await kernels.start("python3")


def content(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True, **more}


async def run(kernel: Kernel, code: str, **more: Any) -> list[Message]:
    with anyio.fail_after(60):
        return [message async for message in kernel.request("execute_request", content(code, **more))]


def kinds(messages: list[Message], channel: str = "iopub") -> list[str]:
    return [message.msg_type for message in messages if message.channel == channel]


def printed(messages: list[Message]) -> str:
    return "".join(message.content["text"] for message in messages if message.msg_type == "stream")


def reply(messages: list[Message]) -> dict[str, Any]:
    [found] = [message for message in messages if message.channel == "shell"]
    return found.content


async def until_idle(kernel: Kernel) -> None:
    with anyio.fail_after(60):
        while kernel.state != "idle":  # noqa: ASYNC110 - others may ask it something
            await anyio.sleep(0.02)


async def begun(stream: AsyncIterator[Message], told_by: str = "execute_input") -> None:
    async for message in stream:
        if message.msg_type == told_by:
            return


async def rest(stream: AsyncIterator[Message]) -> list[Message]:
    with anyio.fail_after(60):
        return [message async for message in stream]


async def test_a_cell_yields_its_messages_in_order_and_ends(kernel: Kernel) -> None:
    messages = await run(kernel, "print('a')\n1 + 1")

    # A text may come in pieces.
    in_turn = [kind for kind, _ in itertools.groupby(kinds(messages))]
    assert in_turn == ["status", "execute_input", "stream", "execute_result", "status"]
    assert printed(messages) == "a\n"
    assert reply(messages)["status"] == "ok"
    assert len({message.parent_id for message in messages}) == 1
    assert kernel.state == "idle"


async def test_the_message_id_may_be_given(kernel: Kernel) -> None:
    messages = await run(kernel, "1")
    with anyio.fail_after(60):
        chosen = [m async for m in kernel.request("execute_request", content("2"), msg_id="chosen-here")]

    assert {message.parent_id for message in chosen} == {"chosen-here"}
    assert not {message.parent_id for message in messages} & {"chosen-here"}


async def test_an_error_is_a_result(kernel: Kernel) -> None:
    messages = await run(kernel, "1 / 0")

    [error] = [message for message in messages if message.msg_type == "error"]
    assert error.content["ename"] == "ZeroDivisionError"
    assert reply(messages)["status"] == "error"
    assert printed(await run(kernel, "print('goes on')")) == "goes on\n"


async def test_cells_keep_their_variables_and_count(kernel: Kernel) -> None:
    await run(kernel, "x = 20")
    messages = await run(kernel, "x + 1")

    [result] = [message for message in messages if message.msg_type == "execute_result"]
    assert result.content["data"]["text/plain"] == "21"
    assert result.content["execution_count"] == 2


async def test_requests_sent_together_run_one_after_the_other(kernel: Kernel) -> None:
    streams = [kernel.request("execute_request", content(f"print({number})")) for number in range(5)]
    outputs = [printed(await rest(stream)) for stream in streams]

    assert outputs == ["0\n", "1\n", "2\n", "3\n", "4\n"]


async def test_a_control_request_ends_with_its_reply_while_a_cell_runs(kernel: Kernel) -> None:
    stream = kernel.request("execute_request", content("while True: pass"))
    await begun(stream)
    with anyio.fail_after(60):
        answers = [m async for m in kernel.request("kernel_info_request", {}, channel="control")]

    assert answers[-1].msg_type == "kernel_info_reply"
    assert kernel.state == "busy"
    await kernel.interrupt()
    await rest(stream)


async def test_input_is_asked_for_and_answered(kernel: Kernel) -> None:
    stream = kernel.request("execute_request", content("input('name? ').upper()", allow_stdin=True))
    messages = []
    with anyio.fail_after(60):
        async for message in stream:
            messages.append(message)
            if message.msg_type == "input_request":
                await kernel.send_input("ada", message)

    [asked] = [message for message in messages if message.msg_type == "input_request"]
    assert asked.channel == "stdin"
    assert asked.content["prompt"] == "name? "
    [result] = [message for message in messages if message.msg_type == "execute_result"]
    assert result.content["data"]["text/plain"] == "'ADA'"


@pytest.mark.parametrize("kind", SLEEPS)
async def test_an_interrupt_ends_the_cell_and_keeps_the_kernel(kernel: Kernel, kernels: Kernels, kind: str) -> None:
    real, memory_code = SLEEPS[kind]
    code = memory_code if isinstance(kernels, memory.MemoryKernels) else real
    if code is None:
        pytest.skip("the memory kernel has no event loop for cells")
    await run(kernel, "kept = 1")
    stream = kernel.request("execute_request", content(code))
    # Before a cell's own code runs, IPython's callbacks swallow an interrupt.
    await begun(stream, "stream" if code is real else "execute_input")
    with anyio.fail_after(60):
        await kernel.interrupt()
        messages = await rest(stream)

    assert reply(messages)["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert printed(await run(kernel, "print(kept)")) == "1\n"


async def test_a_restart_raises_the_epoch_and_forgets_the_variables(kernel: Kernel) -> None:
    identity = kernel.id
    await run(kernel, "x = 1")
    with anyio.fail_after(60):
        await kernel.restart()

    assert (kernel.id, kernel.epoch) == (identity, 2)
    # A Jupyter asks a kernel that it has restarted something, too.
    await until_idle(kernel)
    assert reply(await run(kernel, "x"))["ename"] == "NameError"


async def test_a_restart_ends_the_requests_that_wait(kernel: Kernel) -> None:
    stream = kernel.request("execute_request", content("while True: pass"))
    await begun(stream)
    with anyio.fail_after(60):
        await kernel.restart()

    with pytest.raises(KernelDead):
        await rest(stream)
    assert printed(await run(kernel, "print('new')")) == "new\n"


async def test_a_shut_down_kernel_is_dead_and_may_be_shut_down_again(kernel: Kernel) -> None:
    with anyio.fail_after(60):
        await kernel.shutdown()
        await kernel.shutdown()

    assert kernel.state == "dead"
    with pytest.raises(KernelDead):
        await run(kernel, "1")
    with pytest.raises(KernelDead):
        await kernel.interrupt()


async def test_nobody_is_told_of_a_death_that_was_asked_for(kernel: Kernel) -> None:
    told = []

    async def watch() -> None:
        told.append(await kernel.wait_dead())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await kernel.restart()
        await kernel.shutdown()
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert told == []


async def test_closing_a_request_early_leaves_the_kernel_running(kernel: Kernel) -> None:
    stream = kernel.request("execute_request", content("x = 5"))
    await begun(stream)
    await stream.aclose()  # type: ignore[attr-defined]

    assert printed(await run(kernel, "print(x)")) == "5\n"


async def test_a_request_can_be_met_again_after_it_has_ended(kernel: Kernel) -> None:
    with anyio.fail_after(60):
        first = [m async for m in kernel.request("execute_request", content("print('once')\n7"), msg_id="again")]
        replay = await kernel.resume("again", first)
        second = [m async for m in replay.messages]

    assert replay.complete
    assert kinds(second) == kinds(first)
    assert printed(second) == "once\n"


async def test_a_running_request_can_be_met_again(kernel: Kernel) -> None:
    code = "print('begins', flush=True)\nwhile True: pass"
    stream = kernel.request("execute_request", content(code), msg_id="runs")
    first: list[Message] = []
    async for message in stream:
        first.append(message)
        # The end of the line may come by itself.
        if printed(first) == "begins\n":
            break
    with anyio.fail_after(60):
        replay = await kernel.resume("runs", first)
        await kernel.interrupt()
        messages = [m async for m in replay.messages]

    assert replay.complete
    assert printed(messages) == "begins\n"


async def test_a_request_the_kernel_never_got_is_said_to_be_lost(kernel: Kernel) -> None:
    with anyio.fail_after(60):
        replay = await kernel.resume("never-sent")
        messages = [m async for m in replay.messages]

    assert messages == []
    assert not replay.complete
    assert "never received" in replay.lost


async def test_what_a_thread_prints_after_its_cell_has_ended_is_not_lost(kernel: Kernel, tmp_path: Path) -> None:
    code = f"""
import os, threading, time
def work():
    while not os.path.exists({str(tmp_path / "go")!r}):
        time.sleep(0.01)
    print("late", flush=True)
threading.Thread(target=work).start()
"""
    messages = await run(kernel, code)
    (tmp_path / "go").touch()
    with anyio.fail_after(60):
        late = await anext(kernel.stray())

    assert (late.msg_type, late.content["text"]) == ("stream", "late\n")
    assert late.parent_id == messages[0].parent_id


async def test_stray_messages_end_with_the_process(kernel: Kernel) -> None:
    found = []

    async def listen() -> None:
        found.extend([message async for message in kernel.stray()])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.lowlevel.checkpoint()
            await kernel.restart()
    assert found == []


async def test_an_unknown_kernelspec_is_refused_with_the_names_there_are(kernels: Kernels) -> None:
    with pytest.raises(NotFound, match="python3"):
        await kernels.start("fortran77")


async def test_the_working_folder_is_below_the_root(kernels: Kernels) -> None:
    kernel = await kernels.start("python3", cwd="below")
    assert kernel.cwd == "below"
    with pytest.raises(OutsideRoot):
        await kernels.start("python3", cwd="../..")


async def test_one_kernel_too_many_is_refused_until_another_ends(kernels: Kernels) -> None:
    with anyio.fail_after(60):
        started = [await kernels.start("python3") for _ in range(3)]
        with pytest.raises(Unavailable, match="Shut one down"):
            await kernels.start("python3")
        await started[0].shutdown()
        await kernels.start("python3")


async def test_the_specs_name_what_can_be_started(kernels: Kernels) -> None:
    specs = await kernels.specs()

    assert "python3" in [spec.name for spec in specs]
    assert {spec.source for spec in specs} <= {"jupyter", "environment", "profile"}


async def test_the_only_server_leads_without_waiting(kernels: Kernels) -> None:
    waited: list[str] = []
    with anyio.fail_after(60):
        await kernels.lead(waited.append)

    assert waited == []


async def test_nobody_is_superseded_without_another_server(kernels: Kernels) -> None:
    with anyio.fail_after(60):
        await kernels.lead(lambda _: None)
    with anyio.move_on_after(0.1) as waiting:
        await kernels.superseded()

    assert waiting.cancelled_caught


async def test_a_start_tells_its_stage_and_ends_reachable(kernels: Kernels) -> None:
    stages: list[str] = []
    with anyio.fail_after(60):
        kernel = await kernels.start("python3", progress=stages.append)

    assert stages
    assert all(stages)
    assert kernel.unreachable_since is None


async def test_a_cancelled_start_leaves_nothing_and_takes_no_place(kernels: Kernels) -> None:
    asked: list[str] = []
    with anyio.fail_after(60):
        for _ in range(4):
            async with anyio.create_task_group() as tasks:

                def cancel(stage: str, scope: anyio.CancelScope = tasks.cancel_scope) -> None:
                    asked.append(stage)
                    scope.cancel()

                tasks.start_soon(lambda tell=cancel: kernels.start("python3", progress=tell))
        kernel = await kernels.start("python3")

    assert len(asked) >= 4
    assert printed(await run(kernel, "print('alone')")) == "alone\n"
    assert list(await kernels.adopt()) == []


async def test_nothing_is_adopted_from_a_clean_state(kernels: Kernels) -> None:
    assert list(await kernels.adopt()) == []


async def test_fifty_requests_of_two_kernels_keep_apart(kernels: Kernels) -> None:
    first, second = await kernels.start("python3"), await kernels.start("python3")
    found: dict[str, list[str]] = {"first": [], "second": []}

    async def work(name: str, kernel: Kernel) -> None:
        for number in range(25):
            found[name].append(printed(await run(kernel, f"print('{name}', {number})")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, "first", first)
        tasks.start_soon(work, "second", second)
    assert found == {name: [f"{name} {number}\n" for number in range(25)] for name in found}


Killer = Callable[[Kernel], None]


@pytest.fixture
def kill(kernels: Kernels) -> Killer:
    if isinstance(kernels, JupyterKernels):
        pytest.skip("Jupyter starts a killed kernel again by itself; see tests/backends/jupyter")

    def end(kernel: Kernel) -> None:
        import os
        import signal

        if isinstance(kernel, local.kernel.LocalKernel):
            pid = kernel._process.pid if kernel._process else None
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        elif isinstance(kernels, Pods):
            kernels.kill(kernel)
        else:
            kernel.die(-9)  # type: ignore[attr-defined]

    return end


async def test_a_killed_kernel_is_noticed_while_a_cell_runs(kernel: Kernel, kill: Killer) -> None:
    stream = kernel.request("execute_request", content("while True: pass"))
    await begun(stream)
    kill(kernel)
    with anyio.fail_after(60), pytest.raises(KernelDead) as caught:
        async for _ in stream:
            pass

    assert caught.value.exit_code == -9
    assert kernel.state == "dead"


async def test_a_killed_kernel_is_noticed_while_idle(kernel: Kernel, kill: Killer) -> None:
    kill(kernel)
    with anyio.fail_after(60):
        death = await kernel.wait_dead()

    assert (death.exit_code, death.reason) == (-9, "SIGKILL")
    assert (kernel.state, kernel.death) == ("dead", death)
    with pytest.raises(KernelDead):
        await run(kernel, "1")


async def test_a_dead_kernel_can_be_restarted(kernel: Kernel, kill: Killer) -> None:
    kill(kernel)
    with anyio.fail_after(60):
        await kernel.wait_dead()
        await kernel.restart()

    assert (kernel.epoch, kernel.death) == (2, None)
    assert printed(await run(kernel, "print('back')")) == "back\n"


async def test_a_dead_kernel_takes_no_place_until_it_is_restarted(kernels: Kernels, kill: Killer) -> None:
    with anyio.fail_after(60):
        first, second, _ = [await kernels.start("python3") for _ in range(3)]
        kill(first)
        await first.wait_dead()
        await kernels.start("python3")
        with pytest.raises(Unavailable, match="Shut one down"):
            await first.restart()
        await second.shutdown()
        await first.restart()
    assert first.epoch == 2
