"""The messages of one request, as they come."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ...errors import JupyterMcpError, Unavailable
from ...ports import Channel, Message

REPLY, IDLE = 1, 2
# After its idle status, how long a cell's reply may take until the kernel is asked.
REPLY_SECONDS = 1.0


class Owner(Protocol):
    """What dispatches messages to requests: the wire."""

    idle_timeout: float
    loop: asyncio.AbstractEventLoop

    def forget(self, request: Request) -> None:
        """Stop dispatching to a request that has ended."""

    def probe(self) -> None:
        """Send a shell request that any kernel answers: it overtakes those that are left without a reply."""


class Request:
    """The messages of one request, as they come. Made by `Wire.request` and `Wire.follow`."""

    __slots__ = (
        "_done",
        "_error",
        "_gap",
        "_heard",
        "_messages",
        "_missing",
        "_overtaken",
        "_owner",
        "_timer",
        "_waiter",
        "channel",
        "interrupted",
        "msg_id",
        "msg_type",
    )

    def __init__(self, owner: Owner, msg_id: str, msg_type: str, channel: Channel, missing: int) -> None:
        self.msg_id = msg_id
        self.msg_type = msg_type
        self.channel = channel
        self.interrupted = False
        self._owner = owner
        self._missing = missing
        self._overtaken = self._gap = False
        self._messages: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._done = False
        self._error: Callable[[], JupyterMcpError] | None = None

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            if self._done:
                if self._error is not None:
                    raise self._error()
                raise StopAsyncIteration
            self._waiter = self._owner.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._messages.popleft()

    async def aclose(self) -> None:
        """Stop listening; the kernel is not told."""
        self._messages.clear()
        self.finish()

    def feed(self, message: Message) -> None:
        """Take one message; the dispatcher's side."""
        self._messages.append(message)
        if message.channel == "iopub":
            if message.msg_type == "status" and message.content.get("execution_state") == "idle":
                self._missing &= ~IDLE
        elif message.channel == self.channel:
            self._missing &= ~REPLY
        if not self._missing:
            self.finish()
            return
        if self._missing == IDLE:
            self._await_idle()
        elif self._missing == REPLY:
            self._await_reply()
        self._end_without_reply()
        self._wake()

    def overtake(self) -> None:
        """A later request has been answered: this one's reply, if it has not come, never will.

        ipykernel sends none if an interrupt meets it outside the cell's code, or if it fails there itself. Its idle
        status may still be on its way.
        """
        self._overtaken = True
        self._end_without_reply()

    def missed(self, what: str) -> None:
        """Some of its messages may be lost, its last ones among them. Nothing more is waited for than what can come."""
        if self.channel == "control":
            self.finish(lambda: Unavailable(f"{what} What the kernel answered was among it.", hint="Ask again."))
            return
        self._gap = True
        self.remark(what)

    def remark(self, what: str) -> None:
        """Show a cell a sentence among its outputs; other requests show nothing."""
        if self.msg_type in ("execute_request", "") and self.channel == "shell":
            content = {"name": "stderr", "text": f"\n[{what}]\n"}
            self._messages.append(Message("iopub", "stream", uuid.uuid4().hex, self.msg_id, content))
            self._wake()

    def already(self, had: int) -> None:
        """What of REPLY and IDLE has come to somebody else before."""
        self._missing &= ~had
        if not self._missing:
            self.finish()

    def _end_without_reply(self) -> None:
        if not self._overtaken or not (self._missing == REPLY or self._gap):
            return
        if self.msg_type == "execute_request" and self._missing & REPLY:
            ename, why = "NoReply", "The kernel failed outside the cell's own code; its log says why."
            if self._gap:
                ename, why = "ReplyLost", "The kernel's answer was dropped before it could be read."
            elif self.interrupted:
                ename, why = "KeyboardInterrupt", "The interrupt came before or after the cell's own code."
            content = {"status": "error", "ename": ename, "evalue": why, "traceback": []}
            self._messages.append(Message("shell", "execute_reply", uuid.uuid4().hex, self.msg_id, content))
        self.finish()

    def finish(self, error: Callable[[], JupyterMcpError] | None = None) -> None:
        """No more messages will come; what has come is still delivered, then `error` is raised if there is one."""
        if self._done:
            return
        self._done = True
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
        self._owner.forget(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _await_idle(self) -> None:
        # PUB sockets may drop messages: an idle that never comes must not hang its request for ever.
        self._heard = self._owner.loop.time()
        if self._timer is None:
            self._timer = self._owner.loop.call_later(self._owner.idle_timeout, self._check_idle)

    def _await_reply(self) -> None:
        # The reply comes first, as a rule. What the kernel answers to a request sent now tells whether it ever will.
        if self._timer is None and self.msg_type == "execute_request":
            self._timer = self._owner.loop.call_later(REPLY_SECONDS, self._owner.probe)

    def _check_idle(self) -> None:
        quiet = self._owner.loop.time() - self._heard
        if quiet >= self._owner.idle_timeout * 0.9:
            self.finish()
        else:
            self._timer = self._owner.loop.call_later(self._owner.idle_timeout - quiet, self._check_idle)
