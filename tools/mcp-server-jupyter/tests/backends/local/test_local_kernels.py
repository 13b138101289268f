"""Kernels on this machine: what only they do. The rest is in `contract/test_kernels.py`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from glob import glob
from pathlib import Path

import anyio
import pytest

from local_kernels import content, ignored, is_gone, kernelspec, printed, processes, run, until, until_dead
from mcp_server_jupyter.backends.local import recorder
from mcp_server_jupyter.backends.local.kernels import LocalKernels, open_kernels
from mcp_server_jupyter.errors import InvalidRequest, KernelDead, KernelStartFailed, NotFound, Unsupported
from mcp_server_jupyter.folders import runtime_folder
from mcp_server_jupyter.ports import Death, Message
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


# --------------------------------------------------------------------------- starting


async def test_a_kernel_whose_module_is_missing_fails_at_once_with_its_log(
    kernels: LocalKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "broken", [sys.executable, "-m", "no_such_module_here", "{connection_file}"])
    with anyio.fail_after(60), pytest.raises(KernelStartFailed) as caught:
        await kernels.start("broken")

    assert "no_such_module_here" in caught.value.log
    assert list(kernels._folder.iterdir()) == []


async def test_a_kernel_whose_program_is_missing_fails_at_once_with_its_name(
    kernels: LocalKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "nowhere", ["/no/such/program", "{connection_file}"])
    with anyio.fail_after(60), pytest.raises(KernelStartFailed, match="/no/such/program: No such file"):
        await kernels.start("nowhere")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nobody tells what is ignored here")
async def test_a_kernel_inherits_no_signal_that_is_ignored(
    kernels: LocalKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "shell", ["sh", "-c", "grep SigIgn /proc/self/status; exit 3"])
    with (
        ignored(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
        anyio.fail_after(60),
        pytest.raises(KernelStartFailed, match="exit code 3") as caught,
    ):
        await kernels.start("shell")

    # Those of the C library's own threads are nobody's to set.
    known = sum(1 << (number - 1) for number in signal.valid_signals())
    assert int(caught.value.log.split()[1], 16) & known == 0


async def test_a_cancelled_start_leaves_nothing_behind(kernels: LocalKernels, settings: Settings) -> None:
    for seconds in (0.0, 0.02, 0.1, 0.2):
        with anyio.move_on_after(seconds):
            kernel = await kernels.start("python3")
            with anyio.CancelScope(shield=True):
                await kernel.shutdown()

    assert processes(settings) == []
    assert list(kernels._folder.iterdir()) == []
    assert kernels._kernels == {}


async def test_twenty_kernels_start_at_once(kernels: LocalKernels, settings: Settings) -> None:
    found: list[str] = []

    async def one(number: int) -> None:
        kernel = await kernels.start("python3")
        found.append(printed(await run(kernel, f"print({number})")))

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)

    assert sorted(found, key=int) == [f"{number}\n" for number in range(20)]


async def test_a_clean_exit_leaves_no_process_and_no_record(settings: Settings) -> None:
    child = "import subprocess; p = subprocess.Popen(['sleep', '300']); print(p.pid)"
    async with open_kernels(settings) as kernels:
        first, second = await kernels.start("python3"), await kernels.start("python3")
        pid = int(printed(await run(first, child)))
        second.request("execute_request", content("while True: pass"))
        folders = [json.loads((k.folder / "connection.json").read_bytes())["ip"] for k in (first, second)]

    assert processes(settings) == []
    assert is_gone(pid)
    assert list((settings.root_state / "kernels").iterdir()) == []
    assert [path for prefix in folders for path in glob(f"{prefix}-*")] == []


async def test_records_are_readable_by_their_owner_only(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    await run(kernel, "1")

    assert kernel.folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in kernel.folder.iterdir())


async def test_a_kernel_gets_the_environment_without_the_servers_secrets(
    kernels: LocalKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_JUPYTER_TOKEN", "secret-1")
    monkeypatch.setenv("JUPYTER_TOKEN", "secret-2")
    monkeypatch.setenv("KEPT", "yes")
    kernel = await kernels.start("python3", env={**os.environ, "MORE": "too"})
    text = printed(await run(kernel, "import os; print(os.environ)"))

    assert "secret" not in text
    assert "'KEPT': 'yes'" in text
    assert "'MORE': 'too'" in text


async def test_an_environment_below_the_root_is_listed_and_started_by_its_name(
    kernels: LocalKernels, settings: Settings
) -> None:
    environment = settings.root / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    packages = environment / "lib" / "python3" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "ipykernel").mkdir()
    (environment / "pyvenv.cfg").write_text("home = " + str(Path(sys.executable).parent))
    specs = {spec.name: spec for spec in await kernels.specs()}

    assert specs[".venv/bin/python"].source == "environment"
    assert specs[".venv/bin/python"].display_name == "Python (.venv)"
    kernel = await kernels.start(sys.executable)
    assert printed(await run(kernel, "import sys; print(sys.executable)")).strip() == sys.executable


async def test_an_interpreter_without_ipykernel_is_refused_with_the_command_that_helps(
    kernels: LocalKernels, tmp_path: Path
) -> None:
    bare = tmp_path / "bare" / "bin"
    bare.mkdir(parents=True)
    python = bare / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(InvalidRequest, match=f"{python} -m pip install ipykernel"):
        await kernels.start(str(python))
    with pytest.raises(NotFound):
        await kernels.start("/no/such/python")


async def test_stats_count_the_kernel_and_its_children(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    stats = await kernel.stats()

    assert stats.pid is not None
    assert stats.memory_bytes is not None
    assert stats.memory_bytes > 10_000_000


# --------------------------------------------------------------------------- death


async def test_the_exit_code_of_a_kernel_that_ends_itself_is_told(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    with anyio.fail_after(60), pytest.raises(KernelDead) as caught:
        async for _ in kernel.request("execute_request", content("print('last'); import os; os._exit(3)")):
            pass

    assert (caught.value.exit_code, caught.value.reason) == (3, "exit code 3")


async def test_a_kernel_dies_with_its_recorder(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    assert kernel._process is not None
    pid = kernel._process.pid
    os.kill(kernel._process.recorder, signal.SIGKILL)
    with anyio.fail_after(60):
        death = await kernel.wait_dead()

    assert death.exit_code is None
    assert "recorder" in death.reason
    await until(lambda: is_gone(pid or 0))


async def test_children_end_with_a_killed_kernel(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    child = int(printed(await run(kernel, "import subprocess as s; p = s.Popen(['sleep', '300']); print(p.pid)")))
    assert kernel._process is not None
    os.kill(kernel._process.pid or 0, signal.SIGKILL)
    with anyio.fail_after(60):
        await kernel.wait_dead()

    await until(lambda: is_gone(child))


# --------------------------------------------------------------------------- a server that was killed

OWNER = """
    import asyncio, sys
    from mcp_server_jupyter.backends.local import open_kernels
    from mcp_server_jupyter.settings import Settings

    def content(code):
        return {"code": code, "silent": False, "store_history": True, "allow_stdin": True, "stop_on_error": False}

    async def main():
        settings = Settings.load({"root": sys.argv[1], "state_dir": sys.argv[2]}, {})
        async with open_kernels(settings) as kernels:
            kernel = await kernels.start("python3")
            async for _ in kernel.request("execute_request", content("kept = 42")):
                pass
            stream = kernel.request("execute_request", content(sys.argv[3]), msg_id="running")
            async for message in stream:
                if message.msg_type == "stream":
                    break
            print(kernel.id, flush=True)
            async for _ in stream:
                pass
            await asyncio.sleep(600)

    asyncio.run(main())
"""


async def killed_server(settings: Settings, code: str) -> str:
    """A server that started a kernel, ran `code` in it until the first output, and was killed; the kernel's id."""
    arguments = [str(settings.root), str(settings.state_dir), textwrap.dedent(code)]
    command = [sys.executable, "-c", textwrap.dedent(OWNER), *arguments]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert owner.stdout is not None
    try:
        with anyio.fail_after(60):
            return (await anyio.to_thread.run_sync(owner.stdout.readline)).strip()
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


LINES = """
    import time
    for number in range(300):
        print(number, flush=True)
        time.sleep(0.005)
"""


async def test_a_killed_servers_kernel_is_adopted_with_its_state_and_every_output(settings: Settings) -> None:
    identity = await killed_server(settings, LINES)
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            replay = await kernel.resume("running")
            messages = [message async for message in replay.messages]

        assert (kernel.id, kernel.epoch, replay.complete) == (identity, 1, True)
        assert printed(messages) == "".join(f"{number}\n" for number in range(300))
        assert max(Counter(message.msg_id for message in messages).values()) == 1
        assert messages[-1].content == {"execution_state": "idle"}
        assert printed(await run(kernel, "print(kept)")) == "42\n"
    assert processes(settings) == []


async def test_an_adopted_busy_kernel_can_be_interrupted(settings: Settings) -> None:
    await killed_server(settings, "print(1, flush=True)\nwhile True: pass")
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            assert kernel.state == "busy"
            replay = await kernel.resume("running")
            await kernel.interrupt()
            messages = [message async for message in replay.messages]
        assert [m.content["ename"] for m in messages if m.msg_type == "error"] == ["KeyboardInterrupt"]


async def test_a_cell_that_ended_meanwhile_is_replayed_and_ends(settings: Settings) -> None:
    await killed_server(settings, "print('once', flush=True)\n6 * 7")
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            await until(lambda: kernel.state == "idle")
            replay = await kernel.resume("running")
            messages = [message async for message in replay.messages]
        [result] = [message for message in messages if message.msg_type == "execute_result"]
        assert result.content["data"]["text/plain"] == "42"


async def test_a_cell_asks_the_next_server_for_input(settings: Settings) -> None:
    code = "import time\nprint('wait', flush=True)\ntime.sleep(2)\nprint(input('who? '))"
    await killed_server(settings, code)
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            replay = await kernel.resume("running")
            messages = []
            async for message in replay.messages:
                messages.append(message)
                if message.msg_type == "input_request":
                    await kernel.send_input("me", message)
        assert printed(messages) == "wait\nme\n"


def is_settled(log: Path, text: bytes) -> bool:
    """Whether a record holds the text, and the kernel has nothing more to add to it."""
    data = log.read_bytes()
    busy, idle = (data.count(b'"execution_state": "%s"' % state) for state in (b"busy", b"idle"))
    return text in data and busy == idle


async def test_a_record_whose_beginning_was_dropped_says_so(settings: Settings) -> None:
    identity = await killed_server(settings, "print('first', flush=True)\nprint('second')")
    folder = settings.root_state / "kernels" / identity
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            await until(lambda: is_settled(folder / "iopub.1.log", b"second"))
            # As the recorder does when the next segment would be one too many.
            (folder / "iopub.1.log").rename(folder / "iopub.2.log")
            data = (folder / "iopub.2.log").read_bytes()
            bodies = [body for _, body in recorder.records(data)]
            of_cell = [at for at, body in enumerate(bodies) if b'"running"' in body]
            kept = bodies[of_cell[2] :]
            (folder / "iopub.2.log").write_bytes(b"".join(recorder.pack(recorder.frames(body)) for body in kept))
            replay = await kernel.resume("running")
            messages = [message async for message in replay.messages]
    assert not replay.complete
    assert "first messages were dropped" in replay.lost
    assert "the newest 256 MB and begins anew when its disk is full" in replay.lost
    assert "second" in printed(messages)


async def test_a_kernel_that_died_while_no_server_ran_is_adopted_dead_with_its_cause(settings: Settings) -> None:
    identity = await killed_server(settings, "print(1, flush=True)\nimport time; time.sleep(600)")
    folder = settings.root_state / "kernels" / identity
    pids = json.loads((folder / "process.json").read_bytes())
    await until(lambda: b'"stream"' in (folder / "iopub.1.log").read_bytes())
    os.kill(pids["kernel"][0], signal.SIGKILL)
    await until(lambda: is_gone(pids["recorder"][0]))
    async with open_kernels(settings) as kernels:
        [kernel] = await kernels.adopt()
        with anyio.fail_after(60):
            assert await kernel.wait_dead() == Death(-9, "SIGKILL")
            replay = await kernel.resume("running")
            recorded, end = await until_dead(replay.messages)
        assert (kernel.id, kernel.state, kernel.epoch) == (identity, "dead", 1)
        assert (printed(recorded), end.reason) == ("1\n", "SIGKILL")
        with pytest.raises(KernelDead):
            await run(kernel, "1")
        with anyio.fail_after(60):
            await kernel.restart()
        assert (kernel.epoch, kernel.death, printed(await run(kernel, "print('new')"))) == (2, None, "new\n")
    assert not folder.exists()


async def test_a_kernel_that_dies_with_its_server_is_adopted_with_its_cause(settings: Settings) -> None:
    code = "print(1, flush=True)\nimport os, time\ntime.sleep(0.3)\nos._exit(7)"
    await killed_server(settings, code)
    async with open_kernels(settings) as kernels:
        [kernel] = await kernels.adopt()
        with anyio.fail_after(60):
            assert await kernel.wait_dead() == Death(7, "exit code 7")


async def test_a_dead_kernel_is_offered_until_it_is_shut_down(settings: Settings) -> None:
    identity = await killed_server(settings, "print(1, flush=True)\nimport os, time; time.sleep(0.7); os._exit(7)")
    await until(lambda: (settings.root_state / "kernels" / identity / "exit.json").exists())
    for _ in range(2):
        async with open_kernels(settings) as kernels:
            [kernel] = await kernels.adopt()
            assert kernel.death == Death(7, "exit code 7")
            await kernels.release()
    async with open_kernels(settings) as kernels:
        [kernel] = await kernels.adopt()
        await kernel.shutdown()
    async with open_kernels(settings) as kernels:
        assert list(await kernels.adopt()) == []


async def test_released_kernels_are_adopted_by_the_next_server(settings: Settings) -> None:
    async with open_kernels(settings) as kernels:
        kernel = await kernels.start("python3")
        await run(kernel, "x = 1")
        await kernels.release()
    async with open_kernels(settings) as kernels:
        [adopted] = await kernels.adopt()
        assert printed(await run(adopted, "print(x)")) == "1\n"
        with anyio.fail_after(60):
            await adopted.restart()
        assert adopted.epoch == 2
    assert processes(settings) == []


async def test_a_recycled_pid_is_never_taken_for_a_kernel(settings: Settings) -> None:
    identity = await killed_server(settings, "print(1)")
    folder = settings.root_state / "kernels" / identity
    pids = json.loads((folder / "process.json").read_bytes())
    victim = subprocess.Popen(["sleep", "300"], start_new_session=True)  # noqa: ASYNC220
    try:
        [recorder, born], [kernel, _] = pids["recorder"], pids["kernel"]
        (folder / "process.json").write_text(json.dumps({"recorder": [victim.pid, born], "kernel": [victim.pid, born]}))
        async with open_kernels(settings) as kernels:
            [adopted] = await kernels.adopt()
            assert adopted.state == "dead"
        assert victim.poll() is None
        os.kill(kernel, signal.SIGKILL)
        await until(lambda: is_gone(recorder))
    finally:
        victim.kill()
        victim.wait()


# --------------------------------------------------------------------------- fast kernels

CELLS = {
    "print": ("print('abc')", "abc\n"),
    "descriptor": ("import os; os.write(1, b'raw\\n');", "raw\n"),
    "subprocess": ("import subprocess; subprocess.run(['echo', 'hello']);", "hello\n"),
    "fork": (
        # Python 3.12 and newer warn of forks beside threads, which every kernel has.
        # One write: ipykernel sends each write of a child apart, and a child that ends at once may lose the last.
        "import os, sys, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        "if os.fork() == 0: sys.stdout.write('child\\n'); sys.stdout.flush(); os._exit(0)\nos.wait();",
        "child\n",
    ),
    "both": ("import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr)", "out\nerr\n"),
}


@pytest.mark.parametrize("name", CELLS)
async def test_no_output_of_a_quick_cell_is_lost(kernels: LocalKernels, name: str) -> None:
    kernel = await kernels.start("python3")
    code, expected = CELLS[name]
    late: list[Message] = []

    async def listen() -> None:
        async for message in kernel.stray():
            late.append(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        found = Counter([printed(await run(kernel, code)) for _ in range(100)])
        if name == "fork":
            # A child's text reaches the kernel by a way of its own, on a busy machine after the cell has ended.
            await until(lambda: found[expected] + printed(late).count(expected) == 100)
            assert found.keys() <= {expected, ""}
            found = Counter({expected: 100})
        tasks.cancel_scope.cancel()
    assert found == {expected: 100}


async def test_threads_that_print_lose_nothing(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    code = """
        import threading
        def work(number):
            for line in range(50): print(f"{number}:{line}\\n", end="")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    expected = Counter(f"{number}:{line}" for number in range(8) for line in range(50))
    for _ in range(20):
        assert Counter(printed(await run(kernel, textwrap.dedent(code))).split()) == expected


async def test_long_outputs_keep_their_order(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    lines = "".join(f"é{number}\n" for number in range(20_000))

    assert printed(await run(kernel, "for n in range(20_000): print(f'é{n}')")) == lines
    raw = "import os\nfor n in range(20_000): os.write(1, f'é{n}\\n'.encode())\n0"
    assert printed(await run(kernel, raw)) == lines


@pytest.mark.parametrize("bad", ["None", "object()", "open(os.devnull, 'w'); sys.stdout.close()"])
async def test_a_cell_that_breaks_the_output_streams_does_not_silence_those_after_it(
    kernels: LocalKernels, bad: str
) -> None:
    kernel = await kernels.start("python3")
    with anyio.fail_after(60):
        broke = await run(kernel, f"import os, sys; sys.stdout = {bad}")
        after = await run(kernel, "print('heard')\n6 * 7")

    assert "sys.stdout" in printed(broke)
    assert printed(after) == "heard\n"
    assert [m.content["data"]["text/plain"] for m in after if m.msg_type == "execute_result"] == ["42"]


async def test_output_redirected_by_a_cell_stays_redirected(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    await run(kernel, "import io, sys; kept = sys.stdout; sys.stdout = io.StringIO()")
    silent = await run(kernel, "print('into the buffer')")
    await run(kernel, "buffer, sys.stdout = sys.stdout, kept")
    after = await run(kernel, "print(buffer.getvalue())")

    assert printed(silent) == ""
    assert printed(after).strip() == "into the buffer"


async def test_a_kernel_that_fails_around_a_cell_answers_all_the_same(settings: Settings) -> None:
    slow = dataclasses.replace(settings, fast_kernels=False)
    async with open_kernels(slow) as kernels:
        kernel = await kernels.start("python3")
        await run(kernel, "import sys; sys.stdout = None")
        with anyio.fail_after(60):
            messages = await run(kernel, "1 + 1")
    [reply] = [m.content for m in messages if m.channel == "shell"]
    assert (reply["status"], reply["ename"]) == ("error", "NoReply")


async def test_a_fast_kernel_shows_the_user_what_any_kernel_does(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    names = "print(sorted(name for name in globals() if not name.startswith('_')))"
    assert printed(await run(kernel, names)) == "['In', 'Out', 'exit', 'get_ipython', 'open', 'quit']\n"
    await run(kernel, "40 + 2")
    found = printed(await run(kernel, "print(_, Out[2], In[2], _i)\n%history 1-2"))
    assert found == f"42 42 40 + 2 40 + 2\n{names}\n40 + 2\n"


async def test_plots_appear_inline(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3")
    messages = await run(kernel, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    [shown] = [message for message in messages if message.msg_type == "display_data"]

    assert "image/png" in shown.content["data"]


def test_the_socket_folder_is_private_and_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 40)))
    folder = runtime_folder()

    assert folder.stat().st_mode & 0o077 == 0
    assert len(os.fsencode(folder)) < 90


async def test_a_kernelspec_of_another_provisioner_is_refused_and_not_listed(
    kernels: LocalKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "pod", [], metadata={"kernel_provisioner": {"provisioner_name": "mcp-kubernetes"}})

    assert "pod" not in [spec.name for spec in await kernels.specs()]
    with pytest.raises(Unsupported, match="'mcp-kubernetes'") as caught:
        await kernels.start("pod")
    assert "--kernels kubernetes" in str(caught.value.hint)
