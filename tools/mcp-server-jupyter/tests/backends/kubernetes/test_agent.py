"""The agent as its clients and its container meet it: its ports, its rules, its end."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient

from agents import AgentHost, AgentKernels, children, deliver
from local_kernels import content, printed, until
from mcp_server_jupyter.backends.kubernetes.agent.protocol import FROM_AGENT, TO_AGENT, seal, unseal
from mcp_server_jupyter.backends.kubernetes.delivery import ENTRY, agent_files
from mcp_server_jupyter.backends.kubernetes.host import Keys, Launch
from mcp_server_jupyter.backends.kubernetes.kernel import PodKernel
from mcp_server_jupyter.backends.kubernetes.link import Link
from mcp_server_jupyter.errors import KernelStartFailed
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio
SPIN = "print('ready', flush=True)\nwhile True: pass"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "root").mkdir()
    return Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state"}, {})


@pytest.fixture
async def kernels(settings: Settings) -> AsyncIterator[AgentKernels]:
    async with AgentKernels(settings, max_message_bytes=1 << 20) as opened:
        yield opened


@pytest.fixture
async def kernel(kernels: AgentKernels) -> PodKernel:
    with anyio.fail_after(60):
        return await kernels.start("python3")


def host_of(kernel: PodKernel) -> AgentHost:
    assert isinstance(kernel.host, AgentHost)
    return kernel.host


async def run(kernel: PodKernel, code: str) -> str:
    with anyio.fail_after(60):
        return printed([message async for message in kernel.request("execute_request", content(code))])


class Raw:
    """A client of one of an agent's ports that says what it likes."""

    def __init__(self, host: AgentHost, port: str, public: str | None, kind: int = zmq.DEALER) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.linger = 0
        if kind == zmq.SUB:
            self.socket.subscribe(b"")
        if public is not None:
            self.socket.curve_serverkey = public.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.curve_keypair()
        self.socket.connect(f"tcp://127.0.0.1:{host.ports[port]}")

    def close(self) -> None:
        self.context.destroy(linger=0)

    async def heard(self, seconds: float) -> list[bytes] | None:
        if await anyio.to_thread.run_sync(self.socket.poll, int(seconds * 1000)):
            return self.socket.recv_multipart()
        return None


class Deaf:
    """Who listens to nothing."""

    def greeted(self, hello: dict[str, Any]) -> None: ...
    def record(self, kind: str, frames: list[bytes]) -> None: ...
    def gap(self, size: int) -> None: ...
    def superseded(self, lease: int) -> None: ...


# --------------------------------------------------------------------------- who may come in


async def test_nobody_is_served_without_all_the_keys(kernel: PodKernel, kernels: AgentKernels) -> None:
    host = host_of(kernel)
    stranger = Keys.new()
    hello = {"do": "hello", "id": 1, "lease": 1}
    plain = Raw(host, "agent", None)
    wrong_curve = Raw(host, "agent", stranger.public)
    wrong_signature = Raw(host, "agent", host.keys.public)
    listener = Raw(host, "iopub", None, zmq.SUB)
    wrong_listener = Raw(host, "iopub", stranger.public, zmq.SUB)
    right = Raw(host, "agent", host.keys.public)
    everyone = (plain, wrong_curve, wrong_signature, listener, wrong_listener)
    try:
        for client in (plain, wrong_curve):
            # Who has been turned away by now has nobody left to say it to, and would wait for somebody for ever.
            with suppress(zmq.Again):
                client.socket.send_multipart(seal(host.keys.key.encode(), TO_AGENT, hello), zmq.NOBLOCK)
        wrong_signature.socket.send_multipart(seal(stranger.key.encode(), TO_AGENT, hello))
        # What the agent says is no command, even to itself.
        wrong_signature.socket.send_multipart(seal(host.keys.key.encode(), FROM_AGENT, hello))
        right.socket.send_multipart(seal(host.keys.key.encode(), TO_AGENT, hello))
        answer = await right.heard(60)
        assert answer is not None
        said = unseal(host.keys.key.encode(), FROM_AGENT, answer)
        assert said is not None
        assert (said[0]["epoch"], said[0]["ended"]) == (1, None)
        assert await run(kernel, "print('secret')") == "secret\n"
        assert [await client.heard(0.05) for client in everyone] == [None] * len(everyone)
    finally:
        for client in (*everyone, right):
            client.close()


async def test_a_link_with_a_wrong_key_never_meets_and_harms_nobody(kernel: PodKernel, kernels: AgentKernels) -> None:
    host = host_of(kernel)
    for keys in (Keys.new(), Keys(Keys.new().key, host.keys.public, host.keys.secret)):
        link = Link(kernels.context, keys, host.address, lambda: 1, Deaf())
        link.open(from_end=True)
        with anyio.move_on_after(0.4) as waiting:
            await link.met.wait()
        link.close()
        assert waiting.cancelled_caught
        assert link.unreachable_since is not None
    assert await run(kernel, "print('goes on')") == "goes on\n"


async def test_garbage_and_oversize_frames_harm_nobody(kernel: PodKernel) -> None:
    host = host_of(kernel)
    key = host.keys.key.encode()
    clients = {port: Raw(host, port, host.keys.public) for port in ("agent", "shell", "control", "stdin", "hb")}
    try:
        for port, client in clients.items():
            for frames in (
                [b""],
                [b"", b""],
                [b"\xff" * 300],
                [b"<IDS|MSG>"],
                [b"<IDS|MSG>", *[b"{}"] * 5],
                [b"x"] * 40,
            ):
                client.socket.send_multipart(frames)
            if port == "agent":
                send = {"do": "send", "lease": 1, "epoch": 1, "channel": "shell", "msg_id": "m"}
                for header in (
                    {},
                    {"do": "hello"},
                    {"do": "hello", "lease": "x"},
                    {"do": "__class__", "lease": 1},
                    {"do": "read", "lease": 1},
                    {"do": "fetch", "lease": 1, "from": -5, "to": "x"},
                    {"do": "spawn", "lease": 1, "launch": {"epoch": 9, "argv": []}},
                    {"do": "signal", "lease": 1, "epoch": 1, "once": "a", "number": 10_000},
                    {**send, "channel": "iopub"},
                    {**send, "epoch": 7},
                    {**send, "epoch": 1},
                ):
                    client.socket.send_multipart(seal(key, TO_AGENT, {**header, "id": 1}, [b"rubbish"]))
                client.socket.send_multipart(seal(key, TO_AGENT, {"do": "unheard of", "lease": 1, "id": 99}))
                for _ in range(12):
                    answer = await client.heard(60)
                    assert answer is not None
                said = unseal(key, FROM_AGENT, answer)
                assert said is not None
                assert said[0] == {"id": 99, "error": "unknown"}
            client.socket.send(b"z" * (2 << 20))
        with closing(socket.create_connection(("127.0.0.1", host.ports["agent"]))) as bare:
            bare.sendall(os.urandom(4096))
        assert await run(kernel, "print('goes on')") == "goes on\n"
    finally:
        for client in clients.values():
            client.close()
    assert host.process is not None
    assert host.process.poll() is None
    assert "Traceback" not in (host.folder / "errors").read_text()


async def test_other_clients_use_the_jupyter_channels_at_the_same_time(kernel: PodKernel, tmp_path: Path) -> None:
    host = host_of(kernel)
    info = host.keys.connection("127.0.0.1", "python3")
    info |= {f"{name}_port": host.ports[name] for name in ("shell", "iopub", "stdin", "control", "hb")}
    clients = [AsyncKernelClient(), AsyncKernelClient()]
    found: dict[str, str] = {}

    async def use(number: int, client: AsyncKernelClient) -> None:
        def asked(message: dict[str, Any]) -> None:
            client.input(f"answer {number}")

        def heard(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                found[f"client {number}"] = message["content"]["text"]

        await client.wait_for_ready(timeout=60)
        code = f"print(input('?'), {number})"
        reply = await client.execute_interactive(
            code, allow_stdin=True, timeout=60, stdin_hook=asked, output_hook=heard
        )
        assert reply["content"]["status"] == "ok"
        assert await client.is_alive()

    for client in clients:
        client.load_connection_info(dict(info))
        client.start_channels()
    try:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number, client in enumerate(clients):
                    tasks.start_soon(use, number, client)
                found["server"] = await run(kernel, "print('ours')")
    finally:
        for client in clients:
            client.stop_channels()
    assert found == {"client 0": "answer 0 0\n", "client 1": "answer 1 1\n", "server": "ours\n"}


# --------------------------------------------------------------------------- how it ends


async def test_a_container_that_is_stopped_ends_the_kernel_and_leaves_word_how(kernel: PodKernel) -> None:
    host = host_of(kernel)
    assert host.process is not None
    left = children(host.process.pid)
    code = "import os, signal\nsignal.signal(signal.SIGINT, lambda *_: os._exit(7))\n" + SPIN
    stream = kernel.request("execute_request", content(code))
    async for message in stream:
        if message.msg_type == "stream":
            break
    host.process.send_signal(signal.SIGTERM)
    with anyio.fail_after(60):
        death = await kernel.wait_dead()
        await until(lambda: host.process is not None and host.process.poll() is not None)

    assert death.exit_code == 7
    assert host.process.returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in left)
    word = json.loads((host.folder / "last_word").read_bytes())
    assert (word["exit_code"], word["epoch"], word["oom"]) == (7, 1, False)


async def test_a_kernel_that_ignores_every_request_to_end_is_killed_within_the_grace(kernel: PodKernel) -> None:
    host = host_of(kernel)
    code = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n" + SPIN
    stream = kernel.request("execute_request", content(code))
    async for message in stream:
        if message.msg_type == "stream":
            break
    assert host.process is not None
    host.process.send_signal(signal.SIGTERM)
    with anyio.fail_after(60):
        death = await kernel.wait_dead()

    assert death.exit_code == -signal.SIGKILL


IDLE = "import time; time.sleep(300)"
BUSY = """
import json, sys, time, zmq
info = json.load(open(sys.argv[1]))
socket = zmq.Context().socket(zmq.XPUB)
socket.bind(f"ipc://{info['ip']}-{info['iopub_port']}")
socket.recv()
parent, state = b'{"msg_type": "execute_request"}', b'{"execution_state": "busy"}'
socket.send_multipart([b"status", b"<IDS|MSG>", b"", b"{}", parent, b"{}", state])
time.sleep(300)
"""


def launch_of(code: str, folder: Path) -> Launch:
    return Launch("python3", "python", (sys.executable, "-c", code, "{connection_file}"), str(folder))


async def state_of(host: AgentHost) -> str:
    key = host.keys.key.encode()
    client = Raw(host, "agent", host.keys.public)
    try:
        client.socket.send_multipart(seal(key, TO_AGENT, {"do": "hello", "id": 1, "lease": 1}))
        said = unseal(key, FROM_AGENT, await client.heard(60) or [])
        return "" if said is None else str(said[0]["state"])
    finally:
        client.close()


async def test_an_idle_kernel_that_no_server_asks_for_is_ended_and_a_busy_one_is_not(
    settings: Settings, tmp_path: Path
) -> None:
    idle, busy = (AgentHost(tmp_path, settings, "python3", orphan_seconds=2.0) for _ in range(2))
    try:
        await busy.create(launch_of(BUSY, tmp_path), str)
        with anyio.fail_after(60):
            while await state_of(busy) != "busy":  # noqa: ASYNC110
                await anyio.sleep(0.02)
        # From here on nobody asks for it, for longer than for the other.
        await idle.create(launch_of(IDLE, tmp_path), str)
        assert idle.process is not None
        assert busy.process is not None
        with anyio.fail_after(60):
            while idle.process.poll() is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await anyio.sleep(0.6)  # it looks every half second
        assert (idle.process.returncode, busy.process.poll()) == (0, None)
        assert json.loads((idle.folder / "last_word").read_bytes())["exit_code"] == -signal.SIGINT
    finally:
        for host in (idle, busy):
            await host.remove()


async def test_a_restart_that_cannot_be_done_leaves_the_agent_to_be_asked_again(kernel: PodKernel) -> None:
    host = host_of(kernel)
    folder = json.loads((host.folder / "agent.json").read_bytes())["folder"]
    os.rename(folder, f"{folder}.away")
    with anyio.fail_after(60):
        with pytest.raises(KernelStartFailed, match="exit code 127") as caught:
            await kernel.restart()
        assert "No such file" in caught.value.log
        assert (kernel.state, kernel.epoch) == ("dead", 2)
        os.rename(f"{folder}.away", folder)
        await kernel.restart()

    assert (kernel.epoch, host.created, await run(kernel, "print('again')")) == (3, 1, "again\n")


async def test_processes_that_the_kernel_leaves_behind_are_collected(kernel: PodKernel) -> None:
    code = (
        "import subprocess\nprint(subprocess.check_output(['sh', '-c', 'sleep 0.1 >/dev/null & echo $!'], text=True))"
    )
    pid = int(await run(kernel, code))

    await until(lambda: not psutil.pid_exists(pid))


async def test_what_the_kernel_prints_on_its_own_streams_is_in_the_containers_log(kernel: PodKernel) -> None:
    await run(kernel, "import os; os.write(os.dup(1), b'written past Python\\n')")
    log = host_of(kernel).folder / "log"

    await until(lambda: "written past Python" in log.read_text())


async def test_a_full_disk_costs_neither_the_kernel_nor_who_listens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file may grow over some kilobytes: what the system says then is what it says of a full disk, too.
    start = AgentHost._start
    monkeypatch.setattr(
        AgentHost, "_start", lambda self, argv: start(self, ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *argv])
    )
    async with AgentKernels(settings) as kernels:
        with anyio.fail_after(60):
            kernel = await kernels.start("python3")
        text = await run(kernel, "for n in range(2000): print('line', n, 'x' * 100, flush=True)")

    assert [line.split()[1] for line in text.splitlines()] == [str(number) for number in range(2000)]


# --------------------------------------------------------------------------- what is delivered


def test_the_agents_files_need_nothing_but_an_old_python_and_zmq(tmp_path: Path) -> None:
    files = agent_files()
    ours = {"recording", *(Path(name).stem for name in files)}
    foreign = set()
    for text in files.values():
        tree = ast.parse(text, feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                foreign |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                foreign.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.ImportFrom) and node.module not in ("shared",):
                assert str(node.module) in ours
            # Evaluated when a module is loaded, `int | None` needs a newer Python; in annotations it does not.
            assert not isinstance(node, ast.Match)
        assert (
            "from __future__ import annotations" in text
            or "def begin" in text
            or not any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree))
        )
    assert foreign - set(sys.stdlib_module_names) == {"zmq"}
    assert sum(len(text.encode()) for text in files.values()) < 100_000
    assert deliver(tmp_path) == tmp_path / ENTRY
