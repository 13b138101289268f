"""Kernels behind agents: what only they do. The rest is in `contract/test_kernels.py`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from agents import AgentHost, AgentKernels, children
from local_kernels import content, ignored, kernelspec, printed, until, until_dead
from mcp_server_jupyter.backends.kubernetes.kernel import PodKernel
from mcp_server_jupyter.errors import KernelDead, KernelStartFailed, Unavailable
from mcp_server_jupyter.ports import Message
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "root").mkdir()
    return Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state"}, {})


@pytest.fixture
async def kernels(settings: Settings) -> AsyncIterator[AgentKernels]:
    async with AgentKernels(settings) as opened:
        yield opened


@pytest.fixture
async def kernel(kernels: AgentKernels) -> PodKernel:
    with anyio.fail_after(60):
        return await kernels.start("python3")


def host_of(kernel: PodKernel) -> AgentHost:
    assert isinstance(kernel.host, AgentHost)
    return kernel.host


async def run(kernel: PodKernel, code: str, **more: Any) -> list[Message]:
    with anyio.fail_after(60):
        return [message async for message in kernel.request("execute_request", content(code), **more)]


class Proxy:
    """In front of an agent's port: a network that can be cut, and be away."""

    def __init__(self) -> None:
        self.away = False
        self.mute = False
        self.swallowed: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.port = 0
        self._target = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.away = True
        self.cut()
        await asyncio.gather(*self._handlers)

    def through(self, port: int) -> int:
        self._target = port
        return self.port

    def cut(self) -> None:
        """End every connection, with whatever is on its way."""
        self.cuts += 1
        for writer in self._open:
            writer.transport.abort()

    def swallow(self) -> None:
        """Let nothing through any more on the connections there are, and say nothing."""
        self.swallowed |= self._open

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        writers = {writer}
        try:
            if not self.away:
                there = await asyncio.open_connection("127.0.0.1", self._target)
                writers.add(there[1])
                if not writer.transport.is_closing():
                    self._open |= writers
                    await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer, answers=True))
        except OSError:
            # Its end of the connection is gone, or nobody listens.
            return
        finally:
            self._handlers.discard(task)
            self._open -= writers
            for each in writers:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        try:
            while data := await reader.read(1 << 14):
                if not (answers and self.mute) and writer not in self.swallowed:
                    writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.transport.abort()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy() as opened:
        yield opened


async def behind(kernels: AgentKernels, proxy: Proxy) -> PodKernel:
    """A kernel on the other side of a proxy."""
    kernels.through = proxy.through
    with anyio.fail_after(60):
        return await kernels.start("python3")


@pytest.fixture
async def far(kernels: AgentKernels, proxy: Proxy) -> PodKernel:
    return await behind(kernels, proxy)


def has_arrived(kernel: PodKernel) -> bool:
    """Whether the agent has said of everything asked so far that it has it."""
    assert kernel._link is not None
    return not kernel._link._unanswered


def was_recorded(kernel: PodKernel, text: bytes) -> bool:
    """Whether the agent has written it into the kernel's record."""
    with suppress(FileNotFoundError):
        return any(text in file.read_bytes() for file in host_of(kernel).folder.glob("record.*/*"))
    return False


# --------------------------------------------------------------------------- the network

UNTIL_GO = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
LINES = "import time\nfor n in range(300): print(n, flush=True); time.sleep(0.002)"


async def test_cuts_at_any_moment_lose_and_double_no_line_of_a_cell(far: PodKernel, proxy: Proxy) -> None:
    chance = random.Random(7)

    async def cut_now_and_then() -> None:
        while True:
            await anyio.sleep(chance.uniform(0.0, 0.15))
            proxy.cut()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut_now_and_then)
        times = 0
        while times < 2 or proxy.cuts < 6:
            times += 1
            messages = await run(far, LINES)
            assert printed(messages).split() == [str(number) for number in range(300)]
            assert [m.content["status"] for m in messages if m.channel == "shell"] == ["ok"]
        tasks.cancel_scope.cancel()


async def test_requests_sent_while_the_network_is_cut_run_once_and_in_order(far: PodKernel, proxy: Proxy) -> None:
    await run(far, "seen = []")
    streams = []
    for number in range(30):
        streams.append(far.request("execute_request", content(f"seen.append({number})")))
        if number % 3 == 0:
            proxy.cut()
        await anyio.sleep(0.005)
    with anyio.fail_after(60):
        for stream in streams:
            assert [m.content["status"] async for m in stream if m.channel == "shell"] == ["ok"]

    assert printed(await run(far, "print(seen == list(range(30)))")) == "True\n"


async def test_a_network_that_swallows_everything_is_noticed_and_another_way_taken(
    kernels: AgentKernels, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.link._HEARTBEAT_MS", 100)
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.link._SILENCE_MS", 400)
    far = await behind(kernels, proxy)
    proxy.swallow()
    with anyio.fail_after(60):
        assert printed(await run(far, "print('still there')")) == "still there\n"


async def test_a_kernel_out_of_reach_can_be_given_up_at_once(far: PodKernel, proxy: Proxy) -> None:
    proxy.away = True
    proxy.cut()
    await until(lambda: far.unreachable_since is not None)
    with anyio.fail_after(60):
        await far.shutdown()

    assert far.state == "dead"
    assert host_of(far).process.poll() is not None  # type: ignore[union-attr]


async def test_what_was_done_but_not_answered_is_not_done_again(
    far: PodKernel, proxy: Proxy, settings: Settings
) -> None:
    await run(far, "count = 0")
    proxy.mute = True
    stream = far.request("execute_request", content("count += 1; open('done', 'w').close()"))
    await until(lambda: (settings.root / "done").exists())
    proxy.mute = False
    proxy.cut()
    with anyio.fail_after(60):
        assert [m.content["execution_count"] async for m in stream if m.channel == "shell"] == [2]

    assert printed(await run(far, "print(count)")) == "1\n"
    # This kernel would not have done it again either, and says so of what it gets twice.
    assert "Duplicate Signature" not in (host_of(far).folder / "log").read_text()


async def test_a_cell_that_ends_while_the_network_is_away_ends_when_it_is_back(
    far: PodKernel, proxy: Proxy, settings: Settings
) -> None:
    stream = far.request(
        "execute_request", content(f"print('begins', flush=True)\n{UNTIL_GO}open('ended', 'w').close()\n'end'")
    )
    async for message in stream:
        if message.msg_type == "stream":
            break
    before = time.time()
    proxy.away = True
    proxy.cut()
    await until(lambda: far.unreachable_since is not None)
    (settings.root / "go").touch()
    await until(lambda: (settings.root / "ended").exists())
    assert far.unreachable_since is not None
    assert before - 1 < far.unreachable_since <= time.time()
    assert (far.state, far.death) == ("busy", None)
    with pytest.raises(Unavailable, match="cannot be reached since"):
        await far.restart()
    proxy.away = False
    with anyio.fail_after(60):
        messages = [message async for message in stream]

    assert [m.content["data"]["text/plain"] for m in messages if m.msg_type == "execute_result"] == ["'end'"]
    assert far.unreachable_since is None


async def test_big_outputs_come_whole_and_in_their_place(far: PodKernel, proxy: Proxy) -> None:
    stream = far.request("execute_request", content("print('a'); print('x' * 9_000_000, flush=True); print('b')"))
    messages = []
    with anyio.fail_after(60):
        async for message in stream:
            messages.append(message)
            if len(messages) == 2:
                proxy.cut()

    text = printed(messages)
    assert len(text) == 9_000_005
    assert (text[:4], text[-4:]) == ("a\nxx", "x\nb\n")


async def test_an_interrupt_that_cannot_be_delivered_is_refused_and_never_done_later(
    far: PodKernel, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.kernel._SIGNAL_SECONDS", 0.2)
    proxy.away = True
    proxy.cut()
    with anyio.fail_after(60), pytest.raises(Unavailable, match="did not answer"):
        await far.interrupt()
    proxy.away = False

    assert printed(await run(far, "import time; time.sleep(0.3); print('whole')")) == "whole\n"


# --------------------------------------------------------------------------- restart, death, adoption


async def test_a_restart_keeps_the_place_and_its_files(kernel: PodKernel, tmp_path: Path) -> None:
    agent = host_of(kernel).process
    await run(kernel, "open('kept.txt', 'w').write('here'); gone = 1")
    with anyio.fail_after(60):
        await kernel.restart()

    assert (host_of(kernel).created, host_of(kernel).process) == (1, agent)
    assert host_of(kernel).notes == {"epoch": "2"}
    assert printed(await run(kernel, "print(open('kept.txt').read(), 'gone' in globals())")) == "here False\n"


async def test_a_restart_makes_a_new_place_where_the_old_will_not_do(kernel: PodKernel) -> None:
    host_of(kernel).changed = True
    with anyio.fail_after(60):
        await kernel.restart()

    assert (kernel.epoch, host_of(kernel).created) == (2, 2)
    assert printed(await run(kernel, "print('new')")) == "new\n"


async def test_a_kernel_whose_place_is_lost_is_dead_and_can_be_restarted_elsewhere(kernel: PodKernel) -> None:
    stream = kernel.request("execute_request", content("while True: pass"))
    await anext(stream)
    host_of(kernel).end()
    with anyio.fail_after(60):
        _, error = await until_dead(stream)
        death = await kernel.wait_dead()
        replay = await kernel.resume("anything")

    assert "agent was killed" in str(error)
    assert death == kernel.death
    assert (replay.complete, replay.received, "is gone" in replay.lost) == (False, True, True)
    with anyio.fail_after(60):
        await kernel.restart()
    assert (kernel.epoch, kernel.state, host_of(kernel).created) == (2, "idle", 2)


async def test_another_server_meets_what_ran_what_ended_and_what_never_came(
    kernel: PodKernel, kernels: AgentKernels
) -> None:
    await run(kernel, "print('done')\n6 * 7", msg_id="ended")
    code = "print('first', flush=True)\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n'last'"
    running = kernel.request("execute_request", content(code), msg_id="runs")
    async for message in running:
        if message.msg_type == "stream":
            break
    waiting = kernel.request("execute_request", content("print('waited')"), msg_id="waits")
    await until(lambda: has_arrived(kernel))
    kernel.release()
    with pytest.raises(KernelDead):
        [_ async for _ in waiting]

    found = await kernels.take_over(kernel)
    assert (found.epoch, found.state, found.language, found.unreachable_since) == (1, "busy", "python", None)
    with anyio.fail_after(60):
        ended, runs, waits, never = [await found.resume(name) for name in ("ended", "runs", "waits", "never")]
        (found.host.settings.root / "go").touch()  # type: ignore[attr-defined]
        first = [m async for m in ended.messages]
        second = [m async for m in runs.messages]
        third = [m async for m in waits.messages]

    assert [ended.complete, runs.complete, waits.complete] == [True, True, True]
    assert (never.complete, never.received) == (False, False)
    assert [m.msg_type for m in first if m.channel == "shell"] == ["execute_reply"]
    assert printed(first) == "done\n"
    assert [m.content["data"]["text/plain"] for m in first + second if m.msg_type == "execute_result"] == [
        "42",
        "'last'",
    ]
    assert (printed(second), printed(third)) == ("first\n", "waited\n")
    assert printed(await run(found, "print('goes on')")) == "goes on\n"


async def test_another_server_is_asked_for_the_input_that_still_waits_and_for_no_other(
    kernel: PodKernel, kernels: AgentKernels
) -> None:
    asking = {**content("print(input('one'), input('two'))"), "allow_stdin": True}
    stream = kernel.request("execute_request", asking, msg_id="asks")
    async for message in stream:
        if message.msg_type == "input_request":
            if message.content["prompt"] == "two":
                break
            await kernel.send_input("1", message)
    kernel.release()

    found = await kernels.take_over(kernel)
    prompts, messages = [], []
    with anyio.fail_after(60):
        async for message in (await found.resume("asks")).messages:
            messages.append(message)
            if message.msg_type == "input_request":
                prompts.append(message.content["prompt"])
                await found.send_input("2", message)
    assert prompts == ["two"]
    assert printed(messages) == "1 2\n"


async def test_a_cell_of_a_place_that_is_ended_between_two_servers_ends_by_that(settings: Settings) -> None:
    async with AgentKernels(settings, grace_seconds=300.0) as kernels:
        with anyio.fail_after(30):
            kernel = await kernels.start("python3")
        code = "import time\nprint('begun')\ntry:\n    time.sleep(600)\nfinally:\n    print('last words', flush=True)"
        async for message in kernel.request("execute_request", content(code), msg_id="cell"):
            if message.msg_type == "stream":
                break
        host = host_of(kernel)
        assert host.process is not None
        host.process.send_signal(signal.SIGTERM)
        assert kernel._link is not None
        with anyio.fail_after(20):
            # Its cell has ended: nothing that it could still say is on its way.
            while (await kernel._link.ask("hello"))[0]["state"] != "idle":  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.02)
        kernel.release()

        found = await kernels.take_over(kernel)
        with anyio.fail_after(20):
            replay = await found.resume("cell")
            messages = []
            async for message in replay.messages:
                messages.append(message)
                if printed(messages) == "begun\nlast words\n":
                    break
            host.end()
            rest, _ = await until_dead(replay.messages)
    assert not {"error", "execute_reply"} & {message.msg_type for message in messages + rest}


async def test_a_kernel_that_ended_between_two_servers_is_adopted_dead_with_its_record(
    kernel: PodKernel, kernels: AgentKernels, settings: Settings
) -> None:
    await run(kernel, "print('ended before')", msg_id="ended")
    code = f"print('last words', flush=True)\n{UNTIL_GO}os._exit(3)"
    kernel.request("execute_request", content(code), msg_id="ends")
    await until(lambda: has_arrived(kernel))
    kernel.release()
    (settings.root / "go").touch()
    await until(lambda: not children(host_of(kernel).process.pid))  # type: ignore[union-attr]

    found = await kernels.take_over(kernel)
    with anyio.fail_after(60):
        death = await found.wait_dead()
        replay = await found.resume("ends")
        messages, error = await until_dead(replay.messages)
        ended = await found.resume("ended")
        before = [message async for message in ended.messages]
    assert (found.state, death.exit_code, death.reason) == ("dead", 3, "exit code 3")
    assert replay.complete
    assert ended.complete
    assert printed(before) == "ended before\n"
    assert printed(messages) == "last words\n"
    assert error.exit_code == 3
    with anyio.fail_after(60):
        await found.restart()
        # Both are of an earlier process now; what ended in it has ended.
        ended, replay = await found.resume("ended"), await found.resume("ends")
        assert printed([message async for message in ended.messages]) == "ended before\n"
        messages, error = await until_dead(replay.messages)
    assert (found.epoch, host_of(found).created) == (2, 1)
    assert (printed(messages), error.reason) == ("last words\n", "restarted")


async def test_a_kernel_out_of_reach_is_adopted_as_such_and_met_when_it_is_back(
    far: PodKernel, kernels: AgentKernels, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.kernel._ADOPT_SECONDS", 0.2)
    await run(far, "kept = 5", msg_id="before")
    far.release()
    proxy.away = True
    proxy.cut()
    found = await kernels.take_over(far)
    assert found.unreachable_since is not None
    assert found.death is None
    found_again: list[Message] = []
    result: list[Message] = []

    async def meet() -> None:
        replay = await found.resume("before")
        assert replay.complete
        found_again.extend([message async for message in replay.messages])

    async def ask() -> None:
        result.extend(await run(found, "print(kept)"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet)
            tasks.start_soon(ask)
            await anyio.sleep(0.3)
            assert (result, found_again) == ([], [])
            proxy.away = False
    assert printed(result) == "5\n"
    assert [m.msg_type for m in found_again if m.channel == "shell"] == ["execute_reply"]


async def test_a_server_that_another_has_overtaken_is_told_so(kernel: PodKernel, kernels: AgentKernels) -> None:
    host_of(kernel).lease = 5
    await run(kernel, "1")
    host_of(kernel).lease = 4
    kernel.request("execute_request", content("refused = True"))
    await until(lambda: kernels.higher)
    host_of(kernel).lease = 5

    assert set(kernels.higher) == {5}
    kernels.higher.clear()
    host_of(kernel).lease = 6
    other = await kernels.take_over(kernel)
    host_of(kernel).lease = 5
    # Also without a word of its own.
    await until(lambda: 6 in kernels.higher)
    kernel.release()
    kernel, host_of(other).lease = other, 6
    assert printed(await run(kernel, "print('refused' in globals())")) == "False\n"


async def test_a_slow_server_is_told_what_it_missed_and_waits_for_nothing_that_cannot_come(
    settings: Settings, proxy: Proxy
) -> None:
    async with AgentKernels(settings, segment_bytes=20_000, segments=3) as kernels:
        kernel = await behind(kernels, proxy)
        code = f"print('begins', flush=True)\n{UNTIL_GO}for n in range(2000): print('line', n, flush=True)"
        stream = kernel.request("execute_request", content(code), msg_id="much")
        async for message in stream:
            if message.msg_type == "stream":
                break
        proxy.away = True
        proxy.cut()
        (settings.root / "go").touch()
        await until(lambda: was_recorded(kernel, b"line 1999"))
        proxy.away = False
        with anyio.fail_after(60):
            messages = [message async for message in stream]
            replay = await kernel.resume("much")
        await replay.messages.aclose()  # type: ignore[attr-defined]

    assert "were dropped: this server was too slow" in printed(messages)
    assert [m.msg_type for m in messages if m.channel == "shell"] == ["execute_reply"]
    assert (replay.complete, "first messages were dropped" in replay.lost) == (False, True)


async def test_an_agent_that_has_no_cpu_for_a_while_costs_no_line(kernel: PodKernel, settings: Settings) -> None:
    agent = host_of(kernel).process
    assert agent is not None
    code = f"{UNTIL_GO}for n in range(2500): print(n, flush=True)\nopen('printed', 'w').close()"
    stream = kernel.request("execute_request", content(code))
    await anext(stream)
    agent.send_signal(signal.SIGSTOP)
    (settings.root / "go").touch()
    await until(lambda: (settings.root / "printed").exists())
    agent.send_signal(signal.SIGCONT)
    with anyio.fail_after(60):
        messages = [message async for message in stream]

    assert printed(messages).split() == [str(number) for number in range(2500)]


async def test_a_message_too_big_for_the_record_is_told_of_and_costs_nothing_else(settings: Settings) -> None:
    code = f"{UNTIL_GO}for text in ('a', 'x' * 100_000, 'b'): print(text, flush=True)\nopen('ended', 'w').close()"
    async with AgentKernels(settings, segment_bytes=20_000, segments=3) as kernels:
        with anyio.fail_after(60):
            kernel = await kernels.start("python3")
        # All of it in one batch of the agent's.
        agent = host_of(kernel).process
        assert agent is not None
        stream = kernel.request("execute_request", content(code), msg_id="big")
        await anext(stream)
        agent.send_signal(signal.SIGSTOP)
        (settings.root / "go").touch()
        await until(lambda: (settings.root / "ended").exists())
        agent.send_signal(signal.SIGCONT)
        with anyio.fail_after(60):
            messages = [message async for message in stream]
        replay = await kernel.resume("big")
        again = [message async for message in replay.messages]

    text = printed(messages)
    assert (text[:2], text[-2:]) == ("a\n", "b\n")
    assert "bytes was too big for the kernel's record" in text
    assert "too big for the kernel's record" in printed(again)


# --------------------------------------------------------------------------- other kernels


def sleeping(agent: int) -> bool:
    """Whether a `sleep` runs below an agent; one that its kernel has not waited for yet does not."""
    for pid in children(agent):
        with suppress(psutil.Error):
            child = psutil.Process(pid)
            if child.name() == "sleep" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


async def test_an_interrupt_reaches_a_child_of_the_kernel(kernel: PodKernel) -> None:
    stream = kernel.request("execute_request", content("import subprocess\nsubprocess.run(['sleep', '60'])"))
    async for message in stream:
        if message.msg_type == "execute_input":
            break
    agent = host_of(kernel).process
    assert agent is not None
    await until(lambda: sleeping(agent.pid))
    with anyio.fail_after(60):
        await kernel.interrupt()
        [reply] = [message async for message in stream if message.channel == "shell"]

    assert reply.content["ename"] == "KeyboardInterrupt"
    await until(lambda: not sleeping(agent.pid))


async def test_a_kernel_inherits_no_signal_that_is_ignored(
    kernels: AgentKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


async def test_a_kernel_of_another_language_needs_nothing_but_its_own(
    kernels: AgentKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "bash", [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"], language="bash")
    with anyio.fail_after(60):
        kernel = await kernels.start("bash")
        first = await run(kernel, "kept=5; echo hello")
        stream = kernel.request("execute_request", content("sleep 60"))
        async for message in stream:
            if message.msg_type == "execute_input":
                break
        await kernel.interrupt()
        [_ async for _ in stream]
        second = await run(kernel, "echo $kept")

    assert (kernel.language, printed(first).strip(), printed(second).strip()) == ("bash", "hello", "5")


async def test_a_kernel_that_cannot_start_is_explained_by_its_log(
    kernels: AgentKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "broken", [sys.executable, "-m", "no_such_module_here", "{connection_file}"])
    kernelspec(tmp_path, "nowhere", ["/no/such/program", "{connection_file}"])
    for name, said in (("broken", "no_such_module_here"), ("nowhere", "/no/such/program")):
        with anyio.fail_after(60), pytest.raises(KernelStartFailed) as caught:
            await kernels.start(name)
        assert said in caught.value.log
    assert kernels.kernels == {}
    assert not list(kernels.folder.glob("*/agent.json"))


async def test_a_kernel_killed_for_want_of_memory_is_named_so_by_its_groups_counters(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "groups").write_text("0::/pod\n")
    (tmp_path / "fs").mkdir()
    counters = tmp_path / "fs" / "memory.events"
    counters.write_text("low 0\noom 2\noom_kill 2\n")
    config = {"control_groups": str(tmp_path / "groups"), "group_root": str(tmp_path / "fs")}
    async with AgentKernels(settings, **config) as kernels:
        with anyio.fail_after(60):
            kernel = await kernels.start("python3")
        counters.write_text("low 0\noom 3\noom_kill 3\n")
        os.kill(host_of(kernel).kernel_pid, signal.SIGKILL)
        with anyio.fail_after(60):
            death = await kernel.wait_dead()
            await kernel.restart()
        os.kill(host_of(kernel).kernel_pid, signal.SIGKILL)
        with anyio.fail_after(60):
            plain = await kernel.wait_dead()

    assert (death.exit_code, death.reason) == (-9, "out of memory")
    assert plain.reason == "SIGKILL"
