"""The process behind a kernel's id: who answers there, in which epoch, and how it ends, whoever saw to that."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol

import anyio

from ...errors import JupyterMcpError, KernelDead, NotFound, Unavailable
from ...ports import Channel, Death
from ..zmq.kernel import KernelOfRequests
from .kernels_api import KernelsApi
from .known import Known, KnownKernels
from .requests import SharedDispatch

logger = logging.getLogger(__name__)

# A kernel that answers nothing on its control channel over a new connection: the server may have lost its way to it.
_SILENCE_SECONDS, _LONGEST_SILENCE = 5.0, 60.0
_LOOK_SECONDS = 5.0
_REST_SECONDS = 60.0
_RESTARTED = "restarted by somebody else"
_DIED = "restarted by Jupyter, because it had died"
LIMITED = (
    "Jupyter dropped a part of this cell's output, because it came too fast "
    "(ServerApp.iopub_msg_rate_limit and iopub_data_rate_limit): what is missing cannot be had again."
)
_GAP = "The connection to Jupyter was lost while this ran: output may be missing."


class Owner(Protocol):
    """What a kernel needs of the collection it is in."""

    @property
    def api(self) -> KernelsApi: ...

    @property
    def kept(self) -> KnownKernels: ...

    def require_room(self) -> None:
        """Raise `Unavailable` if one more living kernel would be too many."""

    def forget(self, kernel: Any) -> None:
        """Count a kernel no more."""

    def run(self, work: Callable[[], Any]) -> anyio.CancelScope:
        """Have work done beside everything else, until it is cancelled or the collection is closed."""


class JupyterProcess(KernelOfRequests):
    """What of a kernel goes on by itself: it is met, watched, and told apart from the processes before it."""

    def __init__(self, owner: Owner, known: Known) -> None:
        super().__init__()
        self.known = known
        self._owner = owner
        self._socket = owner.api.channels(known.id, known.identity, self)
        self._tasks: set[anyio.CancelScope] = set()
        self._gone_processes: set[str] = set()
        self._met = asyncio.Event()
        self._meeting_since = time.time()
        self._identified = asyncio.Event()
        self._meeting: anyio.CancelScope | None = None
        self._reached_at: float | None = None
        self._shared = self._new_dispatch()

    @property
    def id(self) -> str:
        return self.known.id

    @property
    def _dispatch(self) -> SharedDispatch:
        return self._shared

    # ------------------------------------------------------------------ what the socket hears

    def opened(self) -> None:
        """See `socket.Listener.opened`."""
        self._met.clear()
        self._identified.clear()
        self._meeting_since = time.time()
        if self._reached_at is not None:
            # What Jupyter kept meanwhile follows; if somebody else was connected it kept nothing.
            self._run(self._judge_gap)
        self._reached_at = time.time()
        self._meet_soon()

    def lost(self) -> None:
        """See `socket.Listener.lost`."""
        self._met.clear()
        self._shared.cut_off()

    def gone(self, why: str) -> None:
        """See `socket.Listener.gone`."""
        self._end(Death(None, why))

    def received(self, channel: Channel, frames: list[bytes]) -> None:
        """See `socket.Listener.received`."""
        process = self.known.process
        if not (process and process.encode() in frames[0]):
            header = _header(frames[0])
            session = header.get("session", "")
            if session == self.known.identity:
                self._jupyter_says(header, frames)
                return
            if session in self._gone_processes:
                return
            self._identify(session)
        self._identified.set()
        self._shared.receive(channel, frames)
        if channel == "iopub" and not self._asked and b'"shutdown_reply"' in frames[0]:
            self._run(self.look)

    def revived(self) -> None:
        """See `socket.Listener.revived`."""
        if not self._asked:
            self._restarted(_DIED)

    def given_up(self) -> None:
        """See `socket.Listener.given_up`."""
        self._end(Death(None, "died, and Jupyter could not start it again"))

    def _jupyter_says(self, header: dict[str, Any], frames: list[bytes]) -> None:
        """Jupyter itself speaks in our name: of the process, or of output that it drops."""
        kind = header.get("msg_type")
        if kind == "status":
            state = _header(frames[3]).get("execution_state")
            if state == "dead":
                self.given_up()
            elif state in ("restarting", "autorestarting"):
                self.revived()
        elif kind == "stream":
            self._shared.receive("iopub", frames)
            self._shared.say_lost(_header(frames[1]).get("msg_id", ""), LIMITED)

    def _identify(self, process: str) -> None:
        if self.known.process and not self._asked:
            self._restarted(_RESTARTED)
        self.known.process = process
        self._save()

    # ------------------------------------------------------------------ epochs

    def _new_dispatch(self) -> SharedDispatch:
        return SharedDispatch(self.known.identity, self._socket.send, self._mark, self._interrupt_soon)

    def _mark(self, msg_id: str) -> None:
        self.known.sent = msg_id
        self._owner.kept.save(self.known)

    def _interrupt_soon(self) -> None:
        self._shared.interrupted()
        self._run(self._interrupt_quietly)

    async def _interrupt_quietly(self) -> None:
        try:
            await self._post_interrupt()
        except JupyterMcpError as error:
            logger.warning("a cell that was cancelled could not be interrupted: %s", error)

    def _restarted(self, how: str) -> None:
        """Its process has ended, and another one runs, without our doing."""
        unasked, self._unasked = self._unasked, asyncio.get_running_loop().create_future()
        self._next_epoch(how)
        if not unasked.done():
            unasked.set_result(Death(None, how))

    def _next_epoch(self, how: str) -> None:
        if self.known.process:
            self._gone_processes.add(self.known.process)
        self.known.epoch += 1
        self.known.process = self.known.sent = ""
        self._save()
        ended, self._shared = self._shared, self._new_dispatch()
        ended.fail(lambda: KernelDead(f"The kernel was {how}.", reason=how))
        self._met.clear()
        self._identified.clear()
        if self._socket.is_open:
            self._meet_soon()
        else:
            self._socket.wake()

    def _end(self, death: Death) -> None:
        if self._death is not None:
            return
        self._let_go()
        self.known.sent = ""
        self._died(death)
        self._met.set()
        self._identified.set()

    def _save(self) -> None:
        try:
            self._owner.kept.save(self.known)
        except Unavailable as error:
            logger.warning("%s", error)

    # ------------------------------------------------------------------ work beside

    def _run(self, work: Callable[[], Any]) -> anyio.CancelScope:
        scope = self._owner.run(work)
        self._tasks = {each for each in self._tasks if not each.cancel_called} | {scope}
        return scope

    def _let_go(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for scope in tasks:
            scope.cancel()

    def _meet_soon(self) -> None:
        if self._meeting is not None:
            self._meeting.cancel()
        self._meeting = self._run(self._meet)

    async def _meet(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_identified)
            await self._shared.meet()
        if self._death is None:
            self._identified.set()
            self._met.set()

    async def _wait_identified(self) -> None:
        """Ask on the control channel who answers; where nobody does, connect again."""
        patience = _SILENCE_SECONDS
        while not self._identified.is_set() and not self._met.is_set():
            async with aclosing(self._shared.request("kernel_info_request", {}, channel="control")):
                with anyio.move_on_after(patience):
                    await self._identified.wait()
                    return
            patience = min(2 * patience, _LONGEST_SILENCE)
            await self.look()
            self._socket.reset()

    async def _judge_gap(self) -> None:
        """Others who were connected have taken what Jupyter would have kept for us."""
        if not self._owner.api.keeps_messages:
            if self._shared.has_sent:
                self._shared.missed(_GAP)
            return
        try:
            model = await self._owner.api.kernel(self.id)
        except JupyterMcpError:
            return
        if model.get("connections", 1) > 1:
            self._shared.missed(_GAP)

    async def _look_now_and_then(self) -> None:
        """A kernel that is ended or restarted by force says nothing, and its socket stays open."""
        patience = _SILENCE_SECONDS
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            # Asked for nothing, a Jupyter counts as idle: whoever ends idle ones may do so.
            self._rest_if_unused()
            if self._socket.is_open and self._shared.has_cells:
                await self.look()
                answered = await self._ask_who(patience)
                patience = _SILENCE_SECONDS if answered else min(2 * patience, _LONGEST_SILENCE)

    async def _ask_who(self, patience: float) -> bool:
        """Have the process say which it is; what it sends identifies it. Whether it answered within so many seconds.

        Many kernels answer on their control channel only between cells.
        """
        # A restart ends the question with everything else that was asked of the old process.
        with anyio.move_on_after(patience), suppress(KernelDead):
            async with aclosing(self._shared.request("kernel_info_request", {}, channel="control")) as answer:
                async for _ in answer:
                    pass
            return True
        return False

    def _rest_if_unused(self) -> None:
        """Leave Jupyter after a while without work, so that it may count as idle."""
        unused = time.monotonic() - self._socket.used_at
        if self._socket.is_open and self._met.is_set() and self._shared.is_at_rest and unused > _REST_SECONDS:
            # What it publishes to nobody meanwhile is not missed by a request of ours.
            self._reached_at = None
            self._socket.rest()

    async def look(self) -> None:
        """Whether Jupyter has it still."""
        try:
            await self._owner.api.kernel(self.id)
        except NotFound:
            self._end(Death(None, "was shut down at Jupyter"))
        except JupyterMcpError:
            # The socket finds out by itself.
            return

    async def _post_interrupt(self) -> None:
        await self._owner.api.interrupt(self.id)


def _header(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
