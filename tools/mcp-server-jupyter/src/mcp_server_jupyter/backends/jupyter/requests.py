"""Our requests to a kernel that others use, too: one of our cells at a time, sent when the kernel is idle."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from ...errors import JupyterMcpError, KernelDead
from ...ports import Channel, Message
from ..zmq.codec import DELIMITER
from ..zmq.dispatch import Dispatch
from ..zmq.request import IDLE, REPLY, Request

# Some servers lose replies: a cell whose idle status has come ends without one after so long.
_REPLY_SECONDS = 1.0
_UNSIGNED = [DELIMITER, b""]


@dataclass(frozen=True, slots=True)
class Running:
    """What a kernel says it is busy with: which request of which session, and since when."""

    session: str
    msg_id: str
    msg_type: str
    since: float


class SharedDispatch(Dispatch):
    """The requests of one process of a kernel. Messages come without signatures: the server has looked at them.

    Args:
        identity: the session that our messages carry, which is the `session_id` of our connection.
        transmit: sends frames over a channel.
        mark: writes down which cell is with the kernel, "" for none, before it is sent. Raises what keeps it from that.
        interrupt: called when a cell begins that was to be interrupted.
    """

    def __init__(
        self,
        identity: str,
        transmit: Callable[[Channel, list[bytes]], None],
        mark: Callable[[str], None],
        interrupt: Callable[[], None],
    ) -> None:
        super().__init__({"key": b""}, identity=identity)
        self.running: Running | None = None
        self._write = transmit
        self._mark = mark
        self._interrupt = interrupt
        self._held: deque[tuple[str, list[bytes]]] = deque()
        self._with_kernel: Request | None = None
        self._taken_up: Request | None = None
        self._to_interrupt = ""
        self._is_cut_off = False

    # ------------------------------------------------------------------ sending

    def send(
        self,
        channel: Channel,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        msg_id: str | None = None,
        parent: Mapping[str, Any] | None = None,
    ) -> None:
        """See `Dispatch.send`. Cells are held back until the kernel is idle and none of ours is with it."""
        if msg_type != "execute_request" or msg_id is None:
            super().send(channel, msg_type, content, msg_id=msg_id, parent=parent)
            return
        self._held.append((msg_id, self.codec.encode(msg_type, content, msg_id=msg_id, parent=parent)))
        self.pump()

    def _transmit(self, channel: Channel, frames: list[bytes], msg_id: str | None) -> None:
        self._write(channel, frames[len(_UNSIGNED) :])

    def pump(self) -> None:
        """Send the next cell if it is its turn."""
        while self._held and not self._is_cut_off and self.state == "idle" and self._with_kernel is None:
            msg_id, frames = self._held.popleft()
            request = self._requests.get(msg_id)
            if request is None:
                # Nobody waits for it any more.
                continue
            try:
                self._mark(msg_id)
            except JupyterMcpError as error:
                request.finish(_raising(error))
                continue
            self._with_kernel = request
            self._transmit("shell", frames, msg_id)

    def cut_off(self) -> None:
        """Send no cell until `meet` has heard from the kernel again: it may be busy by then, or another process."""
        self._is_cut_off = True

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody waits for anything, and the kernel does nothing."""
        return self.state == "idle" and not self._requests

    def take_up(self, msg_id: str) -> None:
        """Listen to a cell that an earlier server sent; it is with the kernel until its end is heard."""
        self._taken_up = self._with_kernel = self.follow(msg_id, REPLY | IDLE)

    def was_taken_up(self, request: Request) -> bool:
        """Whether an earlier server sent it."""
        return request is self._taken_up

    def known(self, msg_id: str) -> Request | None:
        """A request that is held or with the kernel."""
        return self._requests.get(msg_id)

    def forget(self, request: Request) -> None:
        """See `Dispatch.forget`."""
        super().forget(request)
        if request is self._with_kernel:
            self._with_kernel = None
            self._to_interrupt = ""
            if self._error is None:
                self._note_end()
                self.pump()

    def _note_end(self) -> None:
        try:
            self._mark("")
        except JupyterMcpError:
            # The next server asks for a cell that has ended: it is in the journal with its end by then.
            return

    @property
    def has_sent(self) -> bool:
        """Whether a cell of ours is with the kernel."""
        return self._with_kernel is not None

    @property
    def has_cells(self) -> bool:
        """Whether a cell of ours is with the kernel or waits for its turn."""
        return self.has_sent or bool(self._held)

    # ------------------------------------------------------------------ interrupting

    def is_running(self, msg_id: str) -> bool:
        """Whether an interrupt now would meet this cell."""
        return self.running is not None and self.running.msg_id == msg_id

    def withdraw(self, msg_id: str) -> bool:
        """Interrupt a cell that has not begun: not sent, or when it begins. False if it is not known."""
        request = self._requests.get(msg_id)
        if request is None:
            return False
        request.interrupted = True
        if request is self._with_kernel:
            self._to_interrupt = msg_id
            return True
        content = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "It had not begun.", "traceback": []}
        request.feed(Message("shell", "execute_reply", uuid.uuid4().hex, msg_id, content))
        request.finish()
        return True

    # ------------------------------------------------------------------ receiving

    def receive(self, channel: Channel, frames: list[bytes]) -> None:
        """Take one message's frames, from the header on."""
        self.feed(channel, _UNSIGNED + frames)

    def say_lost(self, msg_id: str, what: str) -> None:
        """Tell whoever runs a cell that some of its output is gone."""
        request = self._requests.get(msg_id)
        if request is not None:
            request.feed(Message("iopub", "lost", uuid.uuid4().hex, msg_id, {"text": what}))

    async def meet(self) -> None:
        """Return once the kernel has answered what was sent over this connection: everything before has come by then.

        A cell that is with it over an earlier connection, and whose end has not been heard, has ended unheard.
        """
        earlier, began = self._with_kernel, time.time()
        self.state = "starting" if self.state == "starting" else "busy"
        # What answers may turn out to be another process: that ends the question.
        with suppress(KernelDead):
            async with aclosing(self.request("kernel_info_request", {})) as answer:
                async for _ in answer:
                    pass
        if self._error is not None:
            return
        if earlier is not None and earlier is self._with_kernel:
            earlier.finish()
        if self.running is not None and self.running.since < began:
            # Its end was missed: the kernel has answered what came after it.
            self.running = None
        self.state = "idle" if self.running is None else "busy"
        self._is_cut_off = False
        self.pump()

    def probe(self) -> None:
        """See `request.Owner.probe`. A reply that is late here is lost: what others send does not overtake ours."""
        request = self._with_kernel
        if request is not None:
            self.loop.call_later(_REPLY_SECONDS, self._end_unanswered, request)

    def _end_unanswered(self, request: Request) -> None:
        if request.interrupted:
            request.overtake()
        else:
            request.finish()

    def _overtake(self, answered: Request) -> None:
        """Replies are lost here without a later one overtaking them; see `probe`."""

    def _track(self, message: Message, parent: Mapping[str, Any]) -> None:
        cell, parent_id, asked = self.running, message.parent_id, parent.get("msg_type")
        runs = cell is not None and cell.msg_type == "execute_request" and cell.msg_id != parent_id
        if runs and asked != "execute_request":
            # Others ask over their control channels while a cell runs: that one goes on.
            return
        super()._track(message, parent)
        state = message.content.get("execution_state")
        if state == "busy" and self.state == "busy":
            self.running = Running(parent.get("session", ""), parent_id, parent.get("msg_type", ""), time.time())
            if parent_id and parent_id == self._to_interrupt:
                self._to_interrupt = ""
                self._interrupt()
        elif state == "idle" and self.state == "idle":
            self.running = None
            self.pump()


def _raising(error: JupyterMcpError) -> Callable[[], JupyterMcpError]:
    return lambda: error
