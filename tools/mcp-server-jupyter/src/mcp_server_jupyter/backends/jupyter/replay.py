"""Meeting a request again that an earlier server sent: what was kept of it, what Jupyter kept, then what still comes.

Jupyter keeps what a kernel publishes from the end of a connection to the next one of the same `session_id`, unless
somebody else is or was connected meanwhile; nobody says which. So a request is known to be whole only if its beginning
is in what Jupyter kept, or its end in what we did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ...ports import Message, Replay
from ..zmq.request import Request
from .requests import SharedDispatch

_NEVER = "The kernel never received this request."
_UNHEARD = (
    "This cell was with the kernel when the server ended, and what it published meanwhile is not known to be whole: "
    "look at its effects before you run it again."
)


async def replay(
    dispatch: SharedDispatch, msg_id: str, had: Sequence[Message], *, was_sent: bool, met: asyncio.Event
) -> Replay:
    """See `ports.Kernel.resume`.

    Args:
        was_sent: an earlier server wrote down that it sent it.
        met: set once what Jupyter kept has come.
    """
    request = dispatch.known(msg_id)
    if _is_whole(had):
        if request is not None:
            await request.aclose()
        return Replay(_listed(had), complete=True)
    if request is None:
        if not had and not was_sent:
            return Replay(_listed(()), complete=False, lost=_NEVER, received=False)
        return Replay(_listed(had), complete=False, lost=_UNHEARD, uncertain=True)
    if not dispatch.was_taken_up(request):
        # This very server sent it, and has missed nothing.
        return Replay(_continued(had, request), complete=True)
    await met.wait()
    answer = Replay(_listed(()), complete=False, lost=_UNHEARD, uncertain=True)
    answer.messages = _judged(had, request, answer)
    return answer


def _is_idle(message: Message) -> bool:
    return message.msg_type == "status" and message.content.get("execution_state") == "idle"


def _is_whole(messages: Sequence[Message]) -> bool:
    return any(map(_is_idle, messages)) and any(message.channel == "shell" for message in messages)


def _is_beginning(message: Message) -> bool:
    return message.msg_type == "execute_input" or (
        message.msg_type == "status" and message.content.get("execution_state") == "busy"
    )


async def _listed(messages: Sequence[Message]) -> AsyncGenerator[Message, None]:
    for message in messages:
        yield message


async def _continued(had: Sequence[Message], request: Request) -> AsyncGenerator[Message, None]:
    seen = {message.msg_id for message in had}
    try:
        for message in had:
            yield message
        async for message in request:
            if message.msg_id not in seen:
                yield message
    finally:
        await request.aclose()


async def _judged(had: Sequence[Message], request: Request, replay: Replay) -> AsyncGenerator[Message, None]:
    """What was kept, then what Jupyter kept, then what comes. It is whole if all of it came after the server began."""
    is_first = not had
    async with aclosing(_continued(had, request)) as messages:
        async for message in messages:
            if is_first and _is_beginning(message):
                replay.complete, replay.lost, replay.uncertain = True, "", False
            is_first = False
            yield message
