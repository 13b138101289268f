"""Meeting a request again that an earlier server sent: what the agent's stream has of it, then what still comes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal, cast

from ...errors import KernelDead, Unavailable
from ...ports import Channel, Message, Replay
from ..shared import recording
from ..zmq.request import IDLE, REPLY, Request
from .agent.protocol import DELIMITER, NAMES
from .link import Link
from .stream import AgentStream, event, is_end


async def replay(stream: AgentStream, link: Link | None, msg_id: str) -> Replay:
    """See `ports.Kernel.resume`. The place in the stream at which listening begins is where what is read ends."""
    live = stream.follow(msg_id, REPLY | IDLE)
    gone = Replay(
        _messages(live, None), complete=False, lost="The place of the kernel is gone, and its record with it."
    )
    if link is None:
        return gone
    until = link.at if link.met.is_set() else None
    try:
        found = (await _patiently(link, "find", msg_id=msg_id))[0]
    except Unavailable:
        return gone
    except BaseException:
        await live.aclose()
        raise
    at, first = found["at"], int(found["first"])
    if at is None:
        if not found["forgotten"]:
            live.finish()
            lost = "The kernel never received this request."
            return Replay(_messages(live, None), complete=False, lost=lost, received=False)
        lost = "The request is so long ago that the kernel's agent has forgotten where its messages are."
        return Replay(_messages(live, None), complete=False, lost=lost)
    past = _past(stream, link, live, max(at, first), link.began if until is None else until)
    if at < first:
        lost = "Its first messages were dropped from the kernel's record, which keeps the newest."
        return Replay(_messages(live, past), complete=False, lost=lost)
    return Replay(_messages(live, past), complete=True)


async def _patiently(link: Link, do: str, **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Ask until it is answered: out of reach is not gone.

    Raises:
        Unavailable: the link was closed.
    """
    while True:
        try:
            return await link.ask(do, **fields)
        except Unavailable:
            if link.is_closed:
                raise


async def _messages(live: Request, past: AsyncIterator[Message | None] | None) -> AsyncIterator[Message]:
    had, over = 0, False
    try:
        if past is not None:
            async for message in past:
                if message is None:
                    over = True
                else:
                    had |= _part(message)
                    yield message
        is_whole = had == REPLY | IDLE
        live.already(had)
        if over:
            # Of the kernel it is now, which says so itself, or of an earlier one.
            live.finish(lambda: KernelDead("The kernel was restarted.", reason="restarted"))
        try:
            async for message in live:
                yield message
        except KernelDead:
            # A request that had ended before is none that the kernel took with it.
            if not is_whole:
                raise
    finally:
        await live.aclose()


async def _past(stream: AgentStream, link: Link, live: Request, start: int, end: int) -> AsyncIterator[Message | None]:
    """The recorded messages of one request, of questions for input only one that still waits; None where its process
    ended."""
    asked: Message | None = None
    is_ending = False
    async for kind, frames in _records(link, start, end):
        if kind == "event":
            told = event(frames)["event"]
            if told in ("answered", "exited"):
                asked = None
            is_ending |= told == "stopping"
            if told == "dropped":
                yield _said(live.msg_id, "A part of the output was too big for the kernel's record.")
            if told == "exited":
                yield None
                return
        elif kind is None:
            yield _said(live.msg_id, "A part of the output was dropped from the kernel's record.")
        elif _names(frames, live.msg_id.encode()):
            decoded = stream.codec.decode(kind, frames)
            if decoded is None or decoded[0].parent_id != live.msg_id or (is_ending and is_end(decoded[0])):
                continue
            if kind == "stdin":
                asked = decoded[0]
            else:
                yield decoded[0]
    if asked is not None:
        yield asked


async def _records(
    link: Link, start: int, end: int
) -> AsyncIterator[tuple[Channel | Literal["event"] | None, list[bytes]]]:
    """The records between two places of the stream; (None, []) where some have been dropped meanwhile."""
    buffer = bytearray()
    while start < end:
        place: dict[str, Any] = {"from": start, "to": end}
        piece = (await _patiently(link, "fetch", **place))[1][0]
        if not piece:
            yield None, []
            return
        start += len(piece)
        buffer += piece
        done = 0
        for offset, body in recording.records(bytes(buffer)):
            done = offset
            yield cast(Channel, NAMES.get(body[:1], "event")), recording.frames(body[1:])
        del buffer[:done]


def _names(frames: list[bytes], parent: bytes) -> bool:
    """Whether a message may have this parent: cheaper than unpacking all of them."""
    return DELIMITER in frames and parent in b"".join(frames[frames.index(DELIMITER) + 3 :][:1])


def _part(message: Message) -> int:
    if message.channel == "shell":
        return REPLY
    is_idle = message.msg_type == "status" and message.content.get("execution_state") == "idle"
    return IDLE if is_idle else 0


def _said(msg_id: str, what: str) -> Message:
    return Message("iopub", "stream", uuid.uuid4().hex, msg_id, {"name": "stderr", "text": f"\n[{what}]\n"})
