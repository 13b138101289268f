"""The Jupyter wire protocol of one kernel over ZMQ, read by the event loop itself.

Spec: jupyter-client docs, "Messaging in Jupyter" (the wire protocol; `iopub_welcome` is JEP 65). Nothing here
assumes that the kernel is local: connection information comes as a dict, addresses may be host names, and keys for
CURVE are honoured.

The sockets are plain ones. A ZMQ file descriptor is edge-triggered, so a socket is read until it is empty after
every wake-up *and* after every send; a reader handles a bounded burst and then lets the loop run other things.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ...errors import JupyterMcpError, KernelDead, Unavailable
from ...ports import Channel, KernelState, Message
from .codec import PROTOCOL, Codec, Decoded
from .request import IDLE, REPLY, Request
from .stray import Stray

if TYPE_CHECKING:
    import zmq

_BURST = 64
_STATUS_SECONDS = 0.1
# Verifying and unpacking a message of more bytes than this is left to a thread.
_BIG = 1 << 20
# Requests that only the control channel carries: their status messages say nothing about the shell's state.
_CONTROL_ONLY = frozenset({"interrupt_request", "shutdown_request", "debug_request", "usage_request"})


class Wire:
    """The channels of one kernel process: shell, control and stdin share one identity, iopub is subscribed whole.

    Args:
        info: a connection file's content (jupyter-client docs, "Connection files"), `ip` being a host name, an
            address or, for ipc, the path prefix of the sockets.
        identity: the session and ZMQ identity. Two living clients must never share one: the kernel would answer the
            second. A server that adopts the kernel uses its predecessor's, and so receives what was meant for it.
        reconnect_ms: how often a channel whose peer is not there tries again.
        idle_timeout: seconds of silence on iopub after a reply until a missing idle status is given up.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        *,
        identity: str | None = None,
        reconnect_ms: int = 100,
        idle_timeout: float = 5.0,
    ) -> None:
        self.identity = identity or uuid.uuid4().hex
        self.idle_timeout = idle_timeout
        self.state: KernelState = "starting"
        self.dropped = 0
        self.loop = asyncio.get_running_loop()
        self._info = info
        self.stray = Stray()
        self._reconnect_ms = reconnect_ms
        self._requests: dict[str, Request] = {}
        # Their status messages may come after their reply has ended them.
        self._control_ids: deque[str] = deque(maxlen=64)
        self._sockets: dict[Channel, zmq.Socket[bytes]] = {}
        self._subscribed = asyncio.Event()
        self._error: Callable[[], JupyterMcpError] | None = None
        # Channels that wait until a big message of theirs has been unpacked: each channel keeps its order.
        self._unpacking: dict[Channel, list[bytes]] = {}

    @cached_property
    def codec(self) -> Codec:
        """Packs and verifies messages. Made with the first of them: its imports take their time."""
        return Codec(self._info, self.identity)

    def open(self, context: zmq.Context[Any]) -> None:
        """Connect the four channels and start to read them. Connecting does not need the kernel to be up.

        Raises:
            Unavailable: there is no descriptor left.
        """
        # 0.1 s to import: paid by who opens a kernel, while the kernel itself starts.
        import zmq  # noqa: PLC0415

        self._again = zmq.Again
        self._fd = int(zmq.FD)
        self._noblock = int(zmq.NOBLOCK)
        kinds: tuple[tuple[Channel, int], ...] = (
            ("iopub", zmq.SUB),
            ("stdin", zmq.DEALER),
            ("control", zmq.DEALER),
            ("shell", zmq.DEALER),
        )
        try:
            for channel, kind in kinds:
                self._open(context, channel, kind)
        except zmq.ZMQError as error:
            self.close()
            raise Unavailable(
                f"The channels of a kernel cannot be opened: {error.strerror}.",
                hint="Shut a kernel down, or start the server with a higher limit of open files (ulimit -n).",
            ) from error

    def _open(self, context: zmq.Context[Any], channel: Channel, kind: int) -> None:
        # Known at once: whatever fails below, `close` closes it.
        socket = self._sockets[channel] = context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = socket.sndhwm = 0
        socket.reconnect_ivl = self._reconnect_ms
        if channel == "iopub":
            socket.subscribe(b"")
            # A kernel with iopub_welcome greets each *new* topic: one of our own proves that both were taken.
            socket.subscribe(self._topic)
        else:
            socket.identity = self.identity.encode()
        _encrypt(socket, self._info)
        socket.connect(_url(self._info, channel))
        self.loop.add_reader(int(socket.getsockopt(self._fd)), self._drain, channel)
        self._drain(channel)

    def close(self) -> None:
        """Close the channels. Requests that still wait end as the last `fail` said, else as closed ones."""
        if self._error is None:
            self.fail(lambda: KernelDead("The connection to the kernel was closed.", hint="Start it again."))
        sockets, self._sockets = self._sockets, {}
        for socket in sockets.values():
            self.loop.remove_reader(int(socket.getsockopt(self._fd)))
            socket.close()

    def fail(self, error: Callable[[], JupyterMcpError]) -> None:
        """Read what has already arrived, then end every request, present and future, with `error()`."""
        for channel, waiting in tuple(self._unpacking.items()):
            self._dispatch(channel, waiting, self.codec.decode(channel, waiting))
        self._unpacking.clear()
        for channel in tuple(self._sockets):
            while (frames := self._receive(channel)) is not None:
                self._dispatch(channel, frames, self.codec.decode(channel, frames))
        self._error = error
        self.state = "dead"
        self.stray.end()
        for request in tuple(self._requests.values()):
            request.finish(error)

    # ------------------------------------------------------------------ sending

    def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        channel: Literal["shell", "control"] = "shell",
        msg_id: str | None = None,
    ) -> Request:
        """Send a request at once; its messages are what the result yields. See `ports.Kernel.request`."""
        msg_id = msg_id or uuid.uuid4().hex
        request = Request(self, msg_id, msg_type, channel, REPLY | IDLE if channel == "shell" else REPLY)
        if self._error is not None:
            request.finish(self._error)
            return request
        self._requests[msg_id] = request
        if channel == "control":
            self._control_ids.append(msg_id)
        self.send(channel, msg_type, content, msg_id=msg_id)
        return request

    def follow(self, msg_id: str) -> Request:
        """Listen to a request that another process sent. Ends at its idle status: the reply may have gone before."""
        request = Request(self, msg_id, "", "shell", IDLE)
        self.stray.forget(msg_id)
        if self._error is not None:
            request.finish(self._error)
        else:
            self._requests[msg_id] = request
        return request

    def send(
        self,
        channel: Channel,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        msg_id: str | None = None,
        parent: Mapping[str, Any] | None = None,
    ) -> None:
        """Send one message without listening for its answer."""
        frames = self.codec.encode(msg_type, content, msg_id=msg_id, parent=parent)
        self._sockets[channel].send_multipart(frames, self._noblock)
        self._drain(channel)

    def answer(self, text: str, request: Message) -> None:
        """Answer an `input_request`."""
        parent = {"msg_id": request.msg_id, "msg_type": request.msg_type, "session": self.identity, "username": ""}
        parent |= {"date": datetime.now(UTC).isoformat(), "version": PROTOCOL}
        self.send("stdin", "input_reply", {"status": "ok", "value": text}, parent=parent)

    def probe(self) -> None:
        """See `request.Owner.probe`."""
        self.request("kernel_info_request", {})

    def interrupted(self) -> None:
        """The kernel is being interrupted: what ends without a reply now ends for that."""
        for request in self._requests.values():
            request.interrupted = True

    async def greet(self) -> dict[str, Any]:
        """Ask for kernel_info until it is answered and the iopub subscription is known to be live; its content."""
        while True:
            async with aclosing(self.request("kernel_info_request", {})) as request:
                answer = await self._answer_of(request)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STATUS_SECONDS):
                        await self._subscribed.wait()
                if not self._subscribed.is_set():
                    # The answer's status messages went out before the subscription came in: cause some more.
                    continue
                # The same may have happened where the kernel says itself that we are subscribed.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STATUS_SECONDS):
                        async for _ in request:
                            pass
                if self.state == "starting":
                    self.state = "idle"
                return answer

    async def _answer_of(self, request: Request) -> dict[str, Any]:
        async for message in request:
            if message.msg_type == "kernel_info_reply":
                return message.content
        return {}

    # ------------------------------------------------------------------ receiving

    def forget(self, request: Request) -> None:
        """Stop dispatching to a request that has ended."""
        self._requests.pop(request.msg_id, None)

    @property
    def _topic(self) -> bytes:
        return b"welcome-" + self.identity.encode()

    def _drain(self, channel: Channel) -> None:
        for _ in range(_BURST):
            if not self._read(channel):
                return
        self.loop.call_soon(self._drain, channel)

    def _read(self, channel: Channel) -> bool:
        """Take one message off a channel; False if there is none, or none that can be taken now."""
        frames = None if channel in self._unpacking else self._receive(channel)
        if frames is None:
            return False
        if sum(map(len, frames)) > _BIG:
            self._unpack_aside(channel, frames)
            return False
        self._dispatch(channel, frames, self.codec.decode(channel, frames))
        return True

    def _receive(self, channel: Channel) -> list[bytes] | None:
        socket = self._sockets.get(channel)
        if socket is None:
            return None
        try:
            return socket.recv_multipart(self._noblock)
        except self._again:
            return None

    def _unpack_aside(self, channel: Channel, frames: list[bytes]) -> None:
        self._unpacking[channel] = frames

        def unpacked(future: asyncio.Future[Decoded | None]) -> None:
            # Whoever ended the wire meanwhile has dispatched it.
            if self._unpacking.get(channel) is frames:
                del self._unpacking[channel]
                self._dispatch(channel, frames, future.result())
                self._drain(channel)

        self.loop.run_in_executor(None, self.codec.decode, channel, frames).add_done_callback(unpacked)

    def _dispatch(self, channel: Channel, frames: list[bytes], decoded: Decoded | None) -> None:
        if decoded is None:
            self.dropped += 1
            return
        message, parent = decoded
        request = self._requests.get(message.parent_id)
        if channel == "iopub":
            if message.msg_type == "iopub_welcome":
                if message.content.get("subscription", "").encode() == self._topic:
                    self._subscribed.set()
                return
            self._subscribed.set()
            if message.msg_type == "status":
                self._track(message, parent)
        elif channel == "shell" and request is not None and len(self._requests) > 1:
            self._overtake(request)
        if channel == "iopub" and self._is_late(message, parent, request):
            self.stray.feed(message, sum(map(len, frames)))
        elif request is not None:
            request.feed(message)

    def _overtake(self, answered: Request) -> None:
        # The kernel answers what came over shell in that order.
        for earlier in tuple(self._requests.values()):
            if earlier is answered:
                return
            if earlier.channel == "shell":
                earlier.overtake()

    def _is_late(self, message: Message, parent: Mapping[str, Any], request: Request | None) -> bool:
        if message.msg_type == "status" or parent.get("session") != self.identity:
            return False
        # One identity for the kernel's whole life: requests of an earlier server are ours, too.
        # After a request for kernel_info, what threads print has that for its parent, at once and later.
        kind = parent.get("msg_type")
        return kind == "kernel_info_request" or (kind == "execute_request" and request is None)

    def _track(self, message: Message, parent: Mapping[str, Any]) -> None:
        if message.parent_id in self._control_ids or parent.get("msg_type") in _CONTROL_ONLY:
            return
        state = message.content.get("execution_state")
        if state in ("busy", "idle"):
            self.state = state


def _url(info: Mapping[str, Any], channel: str) -> str:
    port = info[f"{channel}_port"]
    if info.get("transport", "tcp") == "ipc":
        return f"ipc://{info['ip']}-{port}"
    host = info["ip"]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _encrypt(socket: zmq.Socket[bytes], info: Mapping[str, Any]) -> None:
    if not info.get("curve_publickey"):
        return
    import zmq  # noqa: PLC0415

    # The kernel's public key authenticates it; the client's pair is its own when none was provisioned.
    public = _as_bytes(info["curve_publickey"])
    secret = info.get("curve_secretkey")
    ours = (public, _as_bytes(secret)) if secret else zmq.curve_keypair()
    socket.curve_serverkey = public
    socket.curve_publickey, socket.curve_secretkey = ours


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
