"""One kernel in a place of its own, reached through its agent. See `agent`, `link` and `host`."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import anyio

from ...errors import JupyterMcpError, KernelDead, KernelStartFailed, Unavailable
from ...ports import Death, KernelStats, Message, Replay
from ..zmq.kernel import FAST_ARGUMENTS, START_SECONDS, DispatchedKernel, fast_request, named
from .host import Host, Launch
from .link import Link, Refused, report
from .owner import Owner
from .replay import replay
from .stream import AgentStream, Inbox

logger = logging.getLogger(__name__)

_ADOPT_SECONDS = 5.0
# A request has to learn of its kernel's death within two seconds.
_CAUSE_SECONDS = 1.2
# But for one whose place is ended: nobody knows but the place, which says so within a second or two.
_PLACE_CAUSE_SECONDS = 5.0
_SIGNAL_SECONDS = 3.0


class PodKernel(DispatchedKernel):
    """One kernel behind an agent. See `ports.Kernel`.

    Args:
        owner: the collection it is in.
        host: its place, which need not be there yet.
        launch: what it is, or was when it was last heard of.
    """

    def __init__(self, owner: Owner, host: Host, launch: Launch) -> None:
        super().__init__()
        self.host = host
        self._owner = owner
        self._launch = launch
        self._link: Link | None = None
        self._stream: AgentStream | None = None
        self._streaming = 0
        self._inbox = Inbox(self._hear, lambda: self._stream if self._is_current() else None)
        self._started = asyncio.Event()
        self._over = asyncio.Event()
        self._log = ""
        self._place_is_gone = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> str:
        return self.host.id

    @property
    def name(self) -> str:
        return self._launch.name

    @property
    def language(self) -> str:
        return self._launch.language

    @property
    def cwd(self) -> str:
        return self._launch.folder

    @property
    def epoch(self) -> int:
        return self._launch.epoch

    @property
    def unreachable_since(self) -> float | None:
        """See `ports.Kernel.unreachable_since`."""
        return self._link.unreachable_since if self._link is not None and self._death is None else None

    @property
    def _interrupt_mode(self) -> str:
        return self._launch.interrupt_mode

    @property
    def _dispatch(self) -> AgentStream | None:
        return self._stream

    async def stats(self) -> KernelStats:
        """See `ports.Kernel.stats`."""
        place = self.host.place
        told: dict[str, Any] = {}
        if self._link is not None and self._death is None and self.unreachable_since is None:
            with suppress(Unavailable):
                told, _ = await self._link.ask("stats", seconds=2.0)
        return KernelStats(told.get("memory_bytes"), told.get("pid"), place.limit_bytes, place.where)

    async def resume(self, msg_id: str, had: Sequence[Message] = ()) -> Replay:
        """See `ports.Kernel.resume`. Waits while the agent cannot be reached."""
        # From here on it is listened to; what is before that is read.
        self._inbox.settle()
        return await replay(self._current, self._link, msg_id)

    # ------------------------------------------------------------------ life

    async def begin(self, epoch: int, progress: Callable[[str], None] | None = None) -> None:
        """Start the process of an epoch and return once it answers: in the place there is, if that will do.

        Raises:
            NotFound, KernelStartFailed, Unavailable
        """
        launch = await self.host.plan(epoch)
        if launch.fast:
            launch = replace(launch, argv=(*launch.argv, *FAST_ARGUMENTS))
        in_place = self._link is not None and not self._place_is_gone and await self.host.fits(launch)
        if not in_place:
            self._let_go()
            await self.host.create(launch, progress or _unheard)
        self._launch = launch
        self._started, self._over, self._log = asyncio.Event(), asyncio.Event(), ""
        link = self._link if in_place and self._link is not None else self._open(from_end=False)
        self._stream = AgentStream(link, self.host, epoch)
        self._begun()
        if progress is not None:
            progress("starting the kernel")
        try:
            with anyio.fail_after(START_SECONDS):
                if in_place:
                    await link.ask("spawn", launch={**asdict(launch)}, seconds=START_SECONDS)
                await self._come_up(self._stream)
        except KernelDead:
            raise self._start_failed("The kernel ended while it was starting") from None
        except TimeoutError:
            since = self.unreachable_since
            what = "The kernel did not answer" if since is None else "The kernel's agent could not be reached"
            await self._fail_start("it did not start")
            raise self._start_failed(f"{what} in {START_SECONDS:.0f} s") from None
        except JupyterMcpError:
            await self._fail_start("it did not start")
            raise
        if in_place:
            await self._note_epoch()

    async def _come_up(self, stream: AgentStream) -> None:
        started = asyncio.create_task(self._started.wait())
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait((started, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
            over.cancel()
        if self._launch.fast:
            stream.request("execute_request", fast_request())
        await stream.greet()

    async def _note_epoch(self) -> None:
        try:
            await self.host.note(epoch=str(self.epoch))
        except Unavailable as error:
            # The agent knows it. Only if the pod is lost before the next note is the number an old one.
            logger.warning("the epoch of kernel %s could not be noted: %s", self.id, error)

    async def _fail_start(self, why: str) -> None:
        await self._kill()
        if self._death is None:
            self._died(Death(None, why))

    def _start_failed(self, what: str) -> KernelStartFailed:
        reason = f" ({self._death.reason})" if self._death is not None else ""
        return KernelStartFailed(f"{what}{reason}.", log=self._log.strip(), hint="The end of its log says why.")

    async def adopt(self) -> None:
        """Take over from an earlier server, be the kernel alive, dead, or out of reach for now."""
        self.adopted = True
        link = self._open(from_end=True)
        self._stream = AgentStream(link, self.host, self.epoch)
        self._stream.state = "busy"
        met = asyncio.create_task(link.met.wait())
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait((met, over), timeout=_ADOPT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if met.done() and link.hello["ended"] is not None:
                await self._has_ended(_CAUSE_SECONDS + 1)
        except BaseException:
            self.release()
            raise
        finally:
            met.cancel()
            over.cancel()

    def moved(self, launch: Launch) -> None:
        """It waited for a user and has one now, who works in the folder of `launch`; the process stays what it is."""
        self._launch = replace(self._launch, cwd=launch.cwd, folder=launch.folder)

    def release(self) -> None:
        """Stop watching and listening; the kernel goes on."""
        self._let_go()
        self._disconnect(lambda: KernelDead("The server is ending; the kernel goes on.", reason="released"))

    async def discard(self) -> None:
        """End the kernel at once and remove every trace of it."""
        self._asked = True
        with anyio.CancelScope(shield=True):
            if self._link is not None and not self._place_is_gone and self._link.unreachable_since is None:
                with suppress(Unavailable):
                    await self._link.ask("stop", grace=0.5, seconds=1.0)
            self._let_go()
            try:
                await self.host.remove()
            except Unavailable as error:
                # What is left is swept up later: nobody counts this kernel any more.
                logger.warning("what kernel %s ran in could not be removed now: %s", self.id, error)
        self._death = self._death or Death(None, "shut down")
        self._disconnect(lambda: KernelDead("The kernel was shut down.", reason="shut down"))
        self._owner.forget(self)

    async def _may_restart(self) -> None:
        if self._death is not None:
            self._owner.require_room()
        await self.host.plan(self.epoch + 1)
        since = self.unreachable_since
        if since is not None and not self._place_is_gone:
            raise Unavailable(
                f"The kernel cannot be reached since {time.strftime('%H:%M:%S', time.localtime(since))}.",
                hint="It may well be alive: wait, or give it up with shutdown_kernel.",
            )

    async def _end(self, *, restart: bool) -> None:
        self._asked = True
        # Out of reach, it cannot be asked for anything; its place can still be ended.
        if self.unreachable_since is None:
            with suppress(Unavailable):
                await super()._end(restart=restart)

    async def signal(self, number: int) -> None:
        """Send a signal to the kernel and its children.

        Raises:
            KernelDead, Unavailable
        """
        self._alive()
        await self._signal(number)

    async def gone(self) -> None:
        """Return when this epoch's process has ended, asked or unasked."""
        await self._over.wait()

    async def _signal(self, number: int) -> None:
        if self._link is None:
            return
        # Not done later, when it would meet other work: who waited for it has been told that it was not.
        with suppress(Refused):
            await self._link.ask(
                "signal", once=uuid.uuid4().hex, number=number, epoch=self.epoch, seconds=_SIGNAL_SECONDS
            )

    async def _has_ended(self, within: float = 0) -> bool:
        if self._stream is None or self._over.is_set() or self._death is not None:
            return True
        with anyio.move_on_after(within):
            await self._over.wait()
        return self._over.is_set()

    async def _kill(self) -> None:
        self._asked = True
        with anyio.CancelScope(shield=True):
            if not await self._has_ended() and self.unreachable_since is None:
                with suppress(Unavailable):
                    await self._signal(signal.SIGKILL)
                    await self._has_ended(2.0)

    def _disconnect(self, error: Callable[[], JupyterMcpError]) -> None:
        self._inbox.settle()
        if self._stream is not None:
            self._stream.fail(error)

    # ------------------------------------------------------------------ the place and the link

    def _open(self, *, from_end: bool) -> Link:
        self._place_is_gone, self._streaming = False, 0
        link = self._link = Link(self._owner.context, self.host.keys, self.host.address, lambda: self.host.lease, self)
        link.open(from_end=from_end)
        self._run(self._watch_place(link))
        return link

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(report)

    def _let_go(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _watch_place(self, link: Link) -> None:
        death = await self.host.ended()
        self._place_is_gone = True
        link.close()
        self._inbox.settle()
        self._ended(death)

    def _ended(self, death: Death) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._died(death)

    async def _explain(self, told: Death, *, ending: bool) -> None:
        death = told
        with anyio.move_on_after(_PLACE_CAUSE_SECONDS if ending else _CAUSE_SECONDS):
            try:
                death = await self.host.cause(told, ending=ending)
            except Unavailable as error:
                logger.warning("why kernel %s ended could not be asked: %s", self.id, error)
        self._ended(death)

    # ------------------------------------------------------------------ what the link hears

    def greeted(self, hello: dict[str, Any]) -> None:
        """See `link.Listener.greeted`."""
        if not self.adopted or self._stream is None or self._link is None or self._streaming:
            return
        # Where it works is its user's, who may have claimed it after it was started.
        names = Launch.__dataclass_fields__.keys() - {"cwd", "folder"}
        known = {name: value for name, value in hello["launch"].items() if name in names}
        self._launch = replace(self._launch, **{**known, "argv": tuple(known["argv"])})
        if self._stream.epoch != self.epoch:
            self._stream.fail(lambda: KernelDead("The kernel was restarted.", reason="restarted"))
            self._stream = AgentStream(self._link, self.host, self.epoch)
        self._streaming = self.epoch
        self._stream.state = "busy" if hello["state"] == "busy" else "idle"
        # An agent of an earlier version does not say.
        self._stream.is_ending = bool(hello.get("stopping"))
        if hello["ended"] is not None:
            self._exited(hello["ended"])

    def record(self, kind: str, frames: list[bytes]) -> None:
        """See `link.Listener.record`."""
        self._inbox.put(kind, frames)

    def gap(self, size: int) -> None:
        """See `link.Listener.gap`."""
        self._inbox.settle()
        if self._stream is not None:
            self._stream.missed(
                f"{size:,} bytes of the kernel's output were dropped: this server was too slow for them."
            )

    def superseded(self, lease: int) -> None:
        """See `link.Listener.superseded`."""
        self._owner.outranked(lease)

    def _hear(self, told: dict[str, Any]) -> None:
        if told["event"] == "started":
            self._streaming = int(told["epoch"])
            if self._streaming == self.epoch:
                self._started.set()
        elif told["event"] == "exited" and told["epoch"] == self.epoch:
            self._exited(told)
        elif self._is_current() and told["event"] == "stopping":
            self._current.is_ending = True
        elif self._is_current() and told["event"] == "oom":
            self._current.remark("The system killed a process of this kernel for want of memory.")
        elif self._is_current() and told["event"] == "dropped":
            self._current.remark(f"A message of {told['bytes']:,} bytes was too big for the kernel's record.")

    def _exited(self, told: dict[str, Any]) -> None:
        self._log = told["log"]
        code = int(told["exit_code"])
        death = Death(code, "out of memory") if told["oom"] else named(code)
        if self._asked:
            self._ended(death)
        else:
            self._run(self._explain(death, ending=self._stream is not None and self._stream.is_ending))

    def _is_current(self) -> bool:
        return self._stream is not None and self._streaming == self._stream.epoch

    @property
    def _current(self) -> AgentStream:
        if self._stream is None:
            raise KernelDead("The kernel has not been started.", hint="Start it again.")
        return self._stream


def _unheard(stage: str) -> None:
    """Progress that nobody asked for."""
