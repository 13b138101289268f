"""The wire protocol against a kernel made of bare sockets, which sends what the test wants."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from mcp_server_jupyter.backends.zmq.codec import DELIMITER, Codec
from mcp_server_jupyter.backends.zmq.request import IDLE, REPLY, Request
from mcp_server_jupyter.backends.zmq.stray import Stray
from mcp_server_jupyter.backends.zmq.wire import Wire
from mcp_server_jupyter.errors import KernelDead
from mcp_server_jupyter.ports import Message

pytestmark = pytest.mark.anyio
KEY = b"the-key-of-the-test"


class Peer:
    """A kernel's end of the channels, driven by the test."""

    def __init__(self, context: zmq.Context[Any], folder: Path) -> None:
        self.info = {"transport": "ipc", "ip": str(folder / "k"), "key": KEY.decode()}
        self.sockets = {}
        for number, (channel, kind) in enumerate(
            (("shell", zmq.ROUTER), ("iopub", zmq.XPUB), ("stdin", zmq.ROUTER), ("control", zmq.ROUTER)), 1
        ):
            self.info[f"{channel}_port"] = number  # type: ignore[assignment]
            socket = context.socket(kind)
            socket.linger = 0
            socket.sndhwm = 0
            socket.bind(f"ipc://{folder / 'k'}-{number}")
            self.sockets[channel] = socket
        self.sockets["shell"].rcvtimeo = self.sockets["iopub"].rcvtimeo = 5000

    def subscribed(self) -> None:
        """Wait until the wire listens to iopub, with both of its topics."""
        for _ in range(2):
            self.sockets["iopub"].recv()

    def received(self) -> tuple[bytes, dict[str, Any]]:
        """The next request on shell: who sent it, and its header."""
        identity, *frames = self.sockets["shell"].recv_multipart()
        return identity, json.loads(frames[2])

    def send(
        self,
        channel: str,
        msg_type: str,
        parent: str,
        content: dict[str, Any] | None = None,
        *,
        to: bytes = b"",
        key: bytes = KEY,
        parent_type: str = "execute_request",
        session: str = "",
    ) -> None:
        header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type, "session": "k", "date": "x", "username": ""}
        parent_header = {"msg_id": parent, "msg_type": parent_type, "session": session}
        parts = [json.dumps(part).encode() for part in (header, parent_header, {}, content or {})]
        signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        self.sockets[channel].send_multipart([to or msg_type.encode(), DELIMITER, signature, *parts])

    def status(self, parent: str, state: str, **more: Any) -> None:
        self.send("iopub", "status", parent, {"execution_state": state}, **more)

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()


@pytest.fixture
def context() -> Any:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def peer(context: zmq.Context[Any], tmp_path: Path) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(context, Path(folder))
        yield peer
        peer.close()


@pytest.fixture
async def wire(context: zmq.Context[Any], peer: Peer) -> AsyncIterator[Wire]:
    wire = Wire(peer.info, reconnect_ms=10, idle_timeout=0.2)
    wire.open(context)
    await anyio.to_thread.run_sync(peer.subscribed)
    yield wire
    wire.close()


async def collect(stream: AsyncIterator[Message], seconds: float = 60) -> list[str]:
    with anyio.fail_after(seconds):
        return [f"{message.channel}:{message.msg_type}" async for message in stream]


async def test_a_request_ends_with_the_reply_when_the_idle_status_came_first(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    peer.status("m", "busy")
    peer.status("m", "idle")
    with anyio.fail_after(60):
        assert [(await anext(stream)).msg_type for _ in range(2)] == ["status", "status"]
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)
    assert await collect(stream) == ["shell:execute_reply"]


async def test_a_reply_whose_idle_status_was_lost_ends_after_a_silence(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)

    assert await collect(stream) == ["shell:execute_reply"]


async def test_messages_with_a_wrong_signature_are_dropped_and_counted(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    peer.send("iopub", "stream", "m", {"name": "stdout", "text": "evil"}, key=b"another")
    peer.sockets["iopub"].send_multipart([b"no frames of the protocol"])
    peer.sockets["iopub"].send_multipart([DELIMITER, b"", b"{", b"{", b"{", b"{"])
    peer.status("m", "idle")
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)

    assert sorted(await collect(stream)) == ["iopub:status", "shell:execute_reply"]
    assert wire.dropped == 3


async def test_what_comes_after_its_request_has_ended_is_stray(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, header = await anyio.to_thread.run_sync(peer.received)
    peer.status("m", "idle")
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)
    await collect(stream)
    ours = {"session": header["session"]}
    peer.status("m", "idle", **ours)
    peer.send("iopub", "stream", "theirs", {"name": "stdout", "text": "of another client"}, session="another")
    peer.send("iopub", "stream", "c", {"name": "stdout", "text": "of no cell"}, parent_type="comm_msg", **ours)
    peer.send("iopub", "stream", "m", {"name": "stdout", "text": "late"}, **ours)
    with anyio.fail_after(60):
        found = await anext(wire.stray.messages())

    assert (found.parent_id, found.content["text"]) == ("m", "late")


async def test_stray_messages_are_bounded_and_the_oldest_go_first() -> None:
    stray = Stray(most=3, most_bytes=100)
    messages = [Message("iopub", "stream", str(number), "m", {}) for number in range(6)]
    for message in messages[:5]:
        stray.feed(message, 10)
    assert stray.dropped == 2
    stray.feed(messages[5], 1000)
    stray.end()

    assert [message.msg_id async for message in stray.messages()] == ["5"]
    assert stray.dropped == 5


async def test_what_is_taken_up_again_is_not_stray_too(wire: Wire) -> None:
    for parent in ("running", "done"):
        wire.stray.feed(Message("iopub", "stream", f"of {parent}", parent, {}), 10)
    wire.follow("running")
    with anyio.fail_after(60):
        found = await anext(wire.stray.messages())
    assert found.parent_id == "done"


async def test_stray_messages_end_with_the_kernel_after_what_had_come(wire: Wire, peer: Peer) -> None:
    peer.send("iopub", "stream", "before", {"name": "stdout", "text": "x"}, session=wire.identity)
    stream = wire.stray.messages()
    with anyio.fail_after(60):
        await anext(stream)
        wire.fail(lambda: KernelDead("It ended."))
        assert [message async for message in stream] == []


async def test_the_state_follows_shell_requests_and_not_control_ones(wire: Wire, peer: Peer) -> None:
    peer.status("other", "busy")
    control = wire.request("kernel_info_request", {}, channel="control", msg_id="c")
    [identity, *_] = await anyio.to_thread.run_sync(peer.sockets["control"].recv_multipart)
    peer.send("control", "kernel_info_reply", "c", {"status": "ok"}, to=identity)
    assert await collect(control) == ["control:kernel_info_reply"]
    peer.status("c", "busy", parent_type="kernel_info_request")
    peer.status("c", "idle", parent_type="kernel_info_request")
    peer.status("x", "idle", parent_type="interrupt_request")
    peer.send("iopub", "stream", "mark", session=wire.identity)
    with anyio.fail_after(60):
        await anext(wire.stray.messages())

    assert wire.state == "busy"


async def test_a_request_that_the_kernel_left_without_a_reply_ends_with_a_later_reply(wire: Wire, peer: Peer) -> None:
    # As ipykernel does when an interrupt meets it outside the cell's own code.
    stream = wire.request("execute_request", {"code": ""}, msg_id="left")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    peer.status("left", "idle")
    with anyio.fail_after(60):
        await anext(stream)
    wire.interrupted()
    wire.request("kernel_info_request", {}, msg_id="later")
    peer.send("shell", "kernel_info_reply", "later", {}, to=identity)
    with anyio.fail_after(60):
        [reply] = [message async for message in stream]

    assert (reply.msg_type, reply.content["ename"]) == ("execute_reply", "KeyboardInterrupt")


async def test_a_kernel_that_is_idle_but_owes_a_reply_is_asked(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="failed")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    peer.status("failed", "idle")
    with anyio.fail_after(60):
        await anext(stream)
        _, asked = await anyio.to_thread.run_sync(peer.received)
        peer.send("shell", asked["msg_type"].replace("request", "reply"), asked["msg_id"], {}, to=identity)
        [reply] = [message async for message in stream]

    assert (reply.msg_type, reply.content["ename"]) == ("execute_reply", "NoReply")


async def test_a_kernel_that_floods_does_not_starve_the_loop(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    count, turns, done = 5000, 0, False
    for _ in range(count):
        peer.send("iopub", "stream", "m", {"name": "stdout", "text": "x"})
    peer.status("m", "idle")
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)

    async def breathe() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breathe)
        found = await collect(stream)
        done = True
    assert found.count("iopub:stream") == count
    assert turns > count / 64 / 2


async def test_a_message_that_is_unpacked_aside_keeps_its_place(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    identity, _ = await anyio.to_thread.run_sync(peer.received)
    texts = ["small", "big" * 1_000_000, "after", "big again" * 500_000, "last"]
    for text in texts:
        peer.send("iopub", "stream", "m", {"name": "stdout", "text": text})
    peer.send("shell", "execute_reply", "m", {"status": "ok"}, to=identity)
    wire.idle_timeout = 5
    with anyio.fail_after(60):
        found = [message.content["text"] async for message in _streams(stream, len(texts))]

    assert found == texts


async def test_a_message_that_is_unpacked_while_the_kernel_dies_is_delivered_once(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    await anyio.to_thread.run_sync(peer.received)
    decode, unpacking, dead = wire.codec.decode, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            unpacking.set()
            dead.wait(60)
        return decode(*arguments)

    wire.codec.decode = slow  # type: ignore[method-assign]
    peer.send("iopub", "stream", "m", {"name": "stdout", "text": "big" * 1_000_000})
    peer.send("iopub", "stream", "m", {"name": "stdout", "text": "after"})
    assert await anyio.to_thread.run_sync(unpacking.wait, 60)
    wire.fail(lambda: KernelDead("It ended."))
    dead.set()

    assert [len((await anext(stream)).content["text"]) for _ in range(2)] == [3_000_000, 5]
    with pytest.raises(KernelDead):
        await anext(stream)


async def _streams(stream: AsyncIterator[Message], number: int) -> AsyncIterator[Message]:
    async for message in stream:
        if message.msg_type == "stream":
            yield message
            number -= 1
        if not number:
            return


async def test_many_requests_are_kept_apart(wire: Wire, peer: Peer) -> None:
    streams = {f"m{n}": wire.request("execute_request", {"code": ""}, msg_id=f"m{n}") for n in range(50)}
    for _ in range(50):
        identity, header = await anyio.to_thread.run_sync(peer.received)
        peer.send("iopub", "stream", header["msg_id"], {"name": "stdout", "text": header["msg_id"]})
        peer.status(header["msg_id"], "idle")
        peer.send("shell", "execute_reply", header["msg_id"], {"status": "ok"}, to=identity)
    for name, stream in streams.items():
        with anyio.fail_after(60):
            messages = [message async for message in stream]
        assert [m.content["text"] for m in messages if m.msg_type == "stream"] == [name]
    assert wire._requests == {}


async def test_a_closed_request_hears_nothing_more(wire: Wire, peer: Peer) -> None:
    async with aclosing(wire.request("execute_request", {"code": ""}, msg_id="m")) as stream:
        await anyio.to_thread.run_sync(peer.received)

    assert await collect(stream) == []
    assert wire._requests == {}


async def test_what_came_before_a_death_is_delivered_before_the_error(wire: Wire, peer: Peer) -> None:
    stream = wire.request("execute_request", {"code": ""}, msg_id="m")
    await anyio.to_thread.run_sync(peer.received)
    peer.send("iopub", "stream", "m", {"name": "stdout", "text": "last words"})
    with anyio.fail_after(60):
        first = await anext(stream)
    wire.fail(lambda: KernelDead("It ended.", exit_code=1))

    assert first.content["text"] == "last words"
    with pytest.raises(KernelDead, match="It ended"):
        await anext(stream)
    with pytest.raises(KernelDead):
        await anext(wire.request("execute_request", {"code": ""}))


async def test_requests_and_input_replies_carry_the_same_identity(wire: Wire, peer: Peer) -> None:
    wire.request("execute_request", {"code": ""}, msg_id="m")
    shell, header = await anyio.to_thread.run_sync(peer.received)
    wire.answer("text", Message("stdin", "input_request", "i", "m", {"prompt": ""}))
    stdin, *frames = await anyio.to_thread.run_sync(peer.sockets["stdin"].recv_multipart)

    assert shell == stdin == wire.identity.encode()
    assert header["session"] == wire.identity
    assert json.loads(frames[5]) == {"status": "ok", "value": "text"}
    assert frames[1] == hmac.new(KEY, b"".join(frames[2:]), hashlib.sha256).hexdigest().encode()


@pytest.mark.parametrize("idle_first", [True, False])
async def test_a_request_whose_reply_was_overtaken_ends_with_its_idle_status(idle_first: bool) -> None:
    request = Request(Wire({}), "one", "execute_request", "shell", REPLY | IDLE)
    request.interrupted = True
    idle = Message("iopub", "status", "2", "one", {"execution_state": "idle"})
    if idle_first:
        request.feed(idle)
        request.overtake()
    else:
        request.overtake()
        request.feed(idle)

    with anyio.fail_after(60):
        messages = [message async for message in request]
    [reply] = [message for message in messages if message.channel == "shell"]
    assert reply.content["ename"] == "KeyboardInterrupt"


def test_code_that_holds_half_a_character_is_sent_as_its_escape() -> None:
    codec = Codec({"key": "k"}, "session")
    frames = codec.encode("execute_request", {"code": "x = '\ud83d é'"}, msg_id=None, parent=None)
    decoded = codec.decode("shell", frames)
    assert decoded is not None
    assert decoded[0].content == {"code": "x = '\\ud83d é'"}
