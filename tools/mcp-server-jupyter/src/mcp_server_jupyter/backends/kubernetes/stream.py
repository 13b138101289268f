"""The messages of one kernel as they come out of its agent's stream."""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from ...ports import Channel, Message
from ..zmq.codec import Decoded
from ..zmq.dispatch import Dispatch, is_big
from .host import Host
from .link import Link


class AgentStream(Dispatch):
    """The messages of one epoch, carried by a link."""

    def __init__(self, link: Link, host: Host, epoch: int) -> None:
        # The same for every server that this kernel ever has: what one asked, the next understands.
        super().__init__({"key": host.keys.key}, identity=f"{host.id}-{epoch}")
        self.epoch = epoch
        self.is_ending = False
        """Whether the kernel is ended together with its place: what runs ends by that, whatever it says to it."""
        self._link = link

    def _transmit(self, channel: Channel, frames: list[bytes], msg_id: str | None) -> None:
        self._link.post("send", frames, channel=channel, epoch=self.epoch, msg_id=msg_id or uuid.uuid4().hex)

    def _take(self, channel: Channel, frames: list[bytes], decoded: Decoded | None) -> None:
        if decoded is None or not (self.is_ending and is_end(decoded[0])):
            super()._take(channel, frames, decoded)


class Inbox:
    """Records in their order. A big message is unpacked aside, and what comes meanwhile stands behind it.

    Args:
        hear: takes an event of the agent's.
        stream: takes messages: of the epoch that the stream is in now, None where nobody wants them any more.
    """

    def __init__(self, hear: Callable[[dict[str, Any]], None], stream: Callable[[], AgentStream | None]) -> None:
        self._hear, self._stream = hear, stream
        self._held: deque[tuple[str, list[bytes]]] = deque()
        self._unpacking: AgentStream | None = None

    def put(self, kind: str, frames: list[bytes]) -> None:
        """Take one record."""
        self._held.append((kind, frames))
        if self._unpacking is None:
            self._go_on()

    def settle(self) -> None:
        """Have everything handled that was put in."""
        stream, self._unpacking = self._unpacking, None
        if stream is not None:
            stream.finish_unpacking()
        while self._held:
            self._handle(*self._held.popleft())

    def _go_on(self) -> None:
        self._unpacking = None
        while self._held:
            kind, frames = self._held.popleft()
            stream = self._stream()
            if kind != "event" and stream is not None and is_big(frames):
                self._unpacking = stream
                stream.feed_aside(cast(Channel, kind), frames, self._go_on)
                return
            self._handle(kind, frames)

    def _handle(self, kind: str, frames: list[bytes]) -> None:
        if kind == "event":
            self._hear(event(frames))
        elif (stream := self._stream()) is not None:
            stream.feed(cast(Channel, kind), frames)


def is_end(message: Message) -> bool:
    """Whether a message ends a request, or says that it failed."""
    return (
        message.channel == "shell"
        or message.msg_type == "error"
        or (message.msg_type == "status" and message.content.get("execution_state") == "idle")
    )


def event(frames: list[bytes]) -> dict[str, Any]:
    """What a record of kind "event" says."""
    told: dict[str, Any] = json.loads(frames[0])
    return told
