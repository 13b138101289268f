"""Whose message is it: requests, their answers, what comes late, and the kernel's state.

It knows no sockets: `Wire` feeds it from ZMQ sockets, a kernel in a pod from its agent's stream.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from ...errors import JupyterMcpError
from ...ports import Channel, KernelState, Message
from .codec import PROTOCOL, Codec, Decoded
from .request import IDLE, REPLY, Request
from .stray import Stray

_STATUS_SECONDS = 0.1
# Verifying and unpacking a message of more bytes than this is left to a thread.
_BIG = 1 << 20
_WITHOUT_REPLY = frozenset({"comm_open", "comm_msg", "comm_close"})
# Requests that only the control channel carries: their status messages say nothing about the shell's state.
_CONTROL_ONLY = frozenset({"interrupt_request", "shutdown_request", "debug_request", "usage_request"})


def is_big(frames: list[bytes]) -> bool:
    """Whether a message is to be fed aside."""
    return sum(map(len, frames)) > _BIG


class Dispatch(ABC):
    """One kernel process's requests. Whoever carries messages subclasses it: `_transmit` sends, `feed` takes.

    Args:
        info: a connection file's content, of which what signs messages is read.
        identity: the session that our messages carry.
        idle_timeout: seconds of silence on iopub after a reply until a missing idle status is given up.
    """

    def __init__(self, info: Mapping[str, Any], *, identity: str | None = None, idle_timeout: float = 5.0) -> None:
        self.identity = identity or uuid.uuid4().hex
        self.idle_timeout = idle_timeout
        self.state: KernelState = "starting"
        self.dropped = 0
        self.loop = asyncio.get_running_loop()
        self._info = info
        self.stray = Stray()
        self._requests: dict[str, Request] = {}
        # Their status messages may come after their reply has ended them.
        self._control_ids: deque[str] = deque(maxlen=64)
        self._subscribed = asyncio.Event()
        self._error: Callable[[], JupyterMcpError] | None = None
        self._unpacking: dict[Channel, list[bytes]] = {}

    @cached_property
    def codec(self) -> Codec:
        """Packs and verifies messages. Made with the first of them: its imports take their time."""
        return Codec(self._info, self.identity)

    @abstractmethod
    def _transmit(self, channel: Channel, frames: list[bytes], msg_id: str | None) -> None:
        """Send one message's frames."""

    def fail(self, error: Callable[[], JupyterMcpError]) -> None:
        """End every request, present and future, with `error()`."""
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
        missing = IDLE if msg_type in _WITHOUT_REPLY else REPLY | IDLE if channel == "shell" else REPLY
        request = Request(self, msg_id, msg_type, channel, missing)
        if self._error is not None:
            request.finish(self._error)
            return request
        self._requests[msg_id] = request
        if channel == "control":
            self._control_ids.append(msg_id)
        self.send(channel, msg_type, content, msg_id=msg_id)
        return request

    def follow(self, msg_id: str, missing: int = IDLE) -> Request:
        """Listen to a request that another process sent. Ends, as a rule, at its idle status: the reply may have gone
        to that process."""
        request = Request(self, msg_id, "", "shell", missing)
        self.stray.forget(msg_id)
        if self._error is not None:
            request.finish(self._error)
        else:
            self._requests[msg_id] = request
        return request

    def missed(self, what: str) -> None:
        """Messages have been lost for good: whoever waits is told `what`, and waits no longer than for others."""
        for request in tuple(self._requests.values()):
            request.missed(what)
        self.probe()

    def remark(self, what: str) -> None:
        """Tell every cell that runs or waits something that the kernel itself does not say."""
        for request in tuple(self._requests.values()):
            request.remark(what)

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
        self._transmit(channel, frames, msg_id)

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

    def feed(self, channel: Channel, frames: list[bytes]) -> None:
        """Take one message's frames, as they came from the kernel."""
        self._take(channel, frames, self.codec.decode(channel, frames))

    def feed_aside(self, channel: Channel, frames: list[bytes], then: Callable[[], None]) -> None:
        """Take a big message's frames: a thread unpacks them, then `then` is called.

        Until then nothing else of that channel may be fed: each channel keeps its order.
        """
        self._unpacking[channel] = frames

        def unpacked(future: asyncio.Future[Decoded | None]) -> None:
            # `finish_unpacking` may have taken it meanwhile.
            if self._unpacking.get(channel) is frames:
                del self._unpacking[channel]
                self._take(channel, frames, future.result())
                then()

        self.loop.run_in_executor(None, self.codec.decode, channel, frames).add_done_callback(unpacked)

    def is_unpacking(self, channel: Channel | None = None) -> bool:
        """Whether a message of this channel, or of any, is being unpacked aside."""
        return bool(self._unpacking) if channel is None else channel in self._unpacking

    def finish_unpacking(self) -> None:
        """Take now what is being unpacked aside."""
        unpacking, self._unpacking = self._unpacking, {}
        for channel, frames in unpacking.items():
            self.feed(channel, frames)

    def _take(self, channel: Channel, frames: list[bytes], decoded: Decoded | None) -> None:
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
