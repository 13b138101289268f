"""Ends of kernels in odd circumstances, and systems that lack what Linux has."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from local_kernels import content, is_gone, kernelspec, printed, processes, run, until
from mcp_server_jupyter.backends.local import LocalKernels, open_kernels, recorder
from mcp_server_jupyter.backends.local.kernel import LocalKernel
from mcp_server_jupyter.backends.local.process import KernelProcess
from mcp_server_jupyter.backends.local.watch import is_same
from mcp_server_jupyter.ports import Death
from mcp_server_jupyter.settings import Settings
from support import eventually

pytestmark = pytest.mark.anyio


def process_of(kernel: LocalKernel) -> KernelProcess:
    assert kernel._process is not None
    return kernel._process


# --------------------------------------------------------------------------- recorders that are stuck

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="births are not told here")
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="nothing tells of another's child here")


@needs_pidfd
async def test_a_stopped_recorder_does_not_hide_its_kernels_end(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    stream = kernel.request("execute_request", content("import os, signal; os.kill(os.getppid(), signal.SIGSTOP); 1"))
    async for _ in stream:
        pass
    os.kill(process_of(kernel).pid or 0, signal.SIGKILL)
    with anyio.fail_after(60):
        assert await kernel.wait_dead() == Death(-9, "SIGKILL")
    with anyio.fail_after(60):
        await kernel.restart()
        assert printed(await run(kernel, "print('again')")) == "again\n"


@needs_pidfd
async def test_a_recorder_that_stays_stuck_costs_a_second_and_not_the_exit_code(
    kernels: LocalKernels, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = await kernels.start("python3")
    process = process_of(kernel)
    os.kill(process.recorder, signal.SIGSTOP)
    # As if it were held by something that SIGCONT does not end.
    monkeypatch.setattr(process, "_signal_recorder", lambda number: None)
    with anyio.fail_after(60):
        kernel.request("execute_request", content("import os; os._exit(7)"))
        assert await kernel.wait_dead() == Death(7, "exit code 7")
    monkeypatch.undo()
    with anyio.fail_after(60):
        await kernel.shutdown()
    assert processes(settings) == []


@needs_pidfd
async def test_a_kernel_that_died_under_a_stopped_recorder_is_adopted_dead(settings: Settings) -> None:
    async with open_kernels(settings) as kernels:
        process = process_of(await kernels.start("python3"))
        await kernels.release()
    os.kill(process.recorder, signal.SIGSTOP)
    os.kill(process.pid or 0, signal.SIGKILL)
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            assert await kernel.wait_dead() == Death(-9, "SIGKILL")
    assert processes(settings) == []


# --------------------------------------------------------------------------- kernels that are stuck

# Holds the lock of the interpreter, a moment after what was printed has gone out.
STUCK = "import ctypes, time; print('stuck', flush=True); time.sleep(0.2); ctypes.PyDLL(None).sleep(60)"


async def test_a_stuck_kernel_that_is_interrupted_by_message_can_be_interrupted_restarted_and_shut_down(
    kernels: LocalKernels, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr("mcp_server_jupyter.backends.zmq.kernel.INTERRUPT_SECONDS", 0.2)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernelspec(tmp_path, "told", argv, interrupt_mode="message")
    kernel = await kernels.start("told")
    await until_printed(kernel, STUCK)
    with anyio.fail_after(60):
        await kernel.interrupt()
    assert kernel.state == "busy"
    with anyio.fail_after(60):
        await kernel.restart()
    await until_printed(kernel, STUCK)
    with anyio.fail_after(60):
        await kernel.shutdown()
    assert processes(settings) == []


async def until_printed(kernel: LocalKernel, code: str) -> None:
    with anyio.fail_after(60):
        async for message in kernel.request("execute_request", content(code)):
            if message.msg_type == "stream":
                return


# --------------------------------------------------------------------------- systems like macOS

LESS = """
    import builtins, os, sys
    for name in ("waitid", "pidfd_open"):
        if hasattr(os, name):
            delattr(os, name)
    sys.platform = "darwin"
    real_open, real_isdir = open, os.path.isdir
    def is_hidden(path):
        return isinstance(path, str) and path.startswith(("/proc", "/sys"))
    def open(path, *args, **named):
        if is_hidden(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real_open(path, *args, **named)
    builtins.open = open
    os.path.isdir = lambda path: not is_hidden(path) and real_isdir(path)
    import runpy
    runpy.run_path({recorder!r}, run_name="__main__")
"""


@pytest.fixture
def less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What macOS before Python 3.13 lacks is hidden: waitid, pidfds, prctl, /proc, and spawning a session's leader."""
    wrapper = tmp_path / "recorder.py"
    wrapper.write_text(textwrap.dedent(LESS).format(recorder=recorder.__file__))
    spawn = os.posix_spawn

    def spawn_less(path: str, argv: list[str], env: dict[str, str], *, setsid: bool = False, **more: Any) -> int:
        if setsid:
            raise NotImplementedError
        return spawn(path, [str(wrapper) if part == recorder.__file__ else part for part in argv], env, **more)

    monkeypatch.setattr(os, "posix_spawn", spawn_less)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.delattr(os, "waitid", raising=False)


@pytest.mark.usefixtures("less")
async def test_kernels_start_work_and_end_without_what_macos_lacks(settings: Settings) -> None:
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            kernel = await kernels.start("python3")
            assert printed(await run(kernel, "kept = 42; print(kept)")) == "42\n"
            process = process_of(kernel)
            assert process._born == ""
            assert os.getsid(process.recorder) == process.recorder
            stream = kernel.request("execute_request", content("print('begun', flush=True)\nwhile True: pass"))
            while (await anext(stream)).msg_type != "stream":
                pass
            await kernel.interrupt()
            [reply] = [m.content async for m in stream if m.channel == "shell"]
            assert reply["ename"] == "KeyboardInterrupt"
            await kernels.release()
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            assert printed(await run(kernel, "print(kept)")) == "42\n"
            kernel.request("execute_request", content("import os; os._exit(7)"))
            assert await kernel.wait_dead() == Death(7, "exit code 7")
            await kernel.restart()
            assert printed(await run(kernel, "print('again')")) == "again\n"
    assert processes(settings) == []


@pytest.mark.usefixtures("less")
async def test_many_kernels_are_watched_at_once_without_pidfds(settings: Settings) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            started = [await kernels.start("python3") for _ in range(2)]
            assert await asyncio.to_thread(lambda: 1) == 1
            for kernel in started:
                os.kill(process_of(kernel).pid or 0, signal.SIGKILL)
            assert [await kernel.wait_dead() for kernel in started] == [Death(-9, "SIGKILL")] * len(started)


# --------------------------------------------------------------------------- which process is which


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("born", ["", "1", None])
def test_a_process_of_the_same_number_is_a_stranger(
    stranger: subprocess.Popen[bytes], tmp_path: Path, born: str | None
) -> None:
    assert not is_same(stranger.pid, born, tmp_path)


@needs_proc
def test_a_process_is_known_by_its_birth_or_else_by_its_arguments(
    stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert is_same(stranger.pid, recorder.birth(stranger.pid), tmp_path)
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "connection.json")])
    # A process has no arguments for a moment while it begins.
    eventually(lambda: is_same(ours.pid, "", tmp_path))
    ours.kill()
    ours.wait()
    assert not is_same(ours.pid, "", tmp_path)


@needs_proc
def test_a_zombie_has_ended(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    born = str(int((psutil.Process(ended.pid).create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")))
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert not is_same(ended.pid, born, tmp_path)
    ended.wait()


async def test_an_interrupt_never_reaches_a_stranger(kernels: LocalKernels, stranger: subprocess.Popen[bytes]) -> None:
    # Processes are told apart by the clock tick in which they began: 10 ms.
    await anyio.sleep(0.05)
    kernel = await kernels.start("python3")
    process = process_of(kernel)
    real, process.pid = process.pid, stranger.pid
    await kernel.interrupt()
    process.signal(signal.SIGKILL)
    process.pid = real

    assert stranger.poll() is None
    await kernel.shutdown()
    await until(lambda: is_gone(real or 0))
