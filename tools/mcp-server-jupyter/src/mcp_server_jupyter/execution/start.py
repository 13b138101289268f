"""The start of a kernel, which belongs to the server: it outlives the call that asked for it, and others join it."""

from __future__ import annotations

import copy
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from ..errors import JupyterMcpError, KernelStartFailed, KernelStarting, Unavailable
from ..events import Events
from ..ports import Kernel, Kernels
from ..tasks import Tasks
from .session import Session

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.3
HEARTBEAT_SECONDS = 10.0
MOST_ENDED = 100

Report = Callable[[str], Awaitable[None]]


@dataclass(eq=False)
class Start:
    """A kernel that is starting, or whose start has failed and nobody has heard of it yet.

    `id` stands for the kernel until it has one of its own. `since` and `stage_since` are seconds since the epoch.
    """

    kernel_name: str
    cwd: str
    notebook: str | None
    epoch: int
    chosen: str = ""
    """What was chosen for it and why, for people; "" if somebody named it."""
    id: str = field(default_factory=lambda: f"start-{secrets.token_hex(4)}")
    since: float = field(default_factory=time.time)
    stage: str = "starting the kernel"
    stage_since: float = field(default_factory=time.time)
    session: Session | None = None
    error: JupyterMcpError | None = None
    told: bool = False
    """Whether somebody has heard how it failed."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    cancelled_by: str = ""
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def goes_on(self) -> bool:
        return not self.ended.is_set()

    def about(self) -> str:
        """How it stands, for people: "pulling image x, since 45 s"."""
        if self.error is not None:
            return f"its start failed: {self.error.message}"
        return f"{self.stage}, since {time.time() - self.stage_since:.0f} s"

    def tell(self, stage: str) -> None:
        """The backend has come to another stage."""
        if stage != self.stage:
            self.stage, self.stage_since = stage, time.time()
            self._wake()

    def end(self, *, session: Session | None = None, error: JupyterMcpError | None = None) -> None:
        """It has come up, or has failed. Only the first word counts."""
        if self.goes_on:
            self.session, self.error = session, error
            self.ended.set()
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, seconds: float = math.inf, report: Report | None = None) -> Session:
        """Return once the kernel is there. `report` is awaited with the stage on news, and every ten seconds.

        Raises:
            KernelStarting: it was not within `seconds`; it goes on, and may be waited for again.
            KernelStartFailed, NotFound, Unavailable: it failed, as the backend says.
        """
        with anyio.move_on_after(seconds):
            while self.goes_on:
                if report is None:
                    await self.ended.wait()
                    break
                with anyio.move_on_after(PROGRESS_SECONDS):
                    await self.ended.wait()
                    break
                changed = self._changed
                await report(self.about())
                with anyio.move_on_after(HEARTBEAT_SECONDS):
                    await changed.wait()
        return self.require()

    def require(self) -> Session:
        """The session.

        Raises:
            KernelStarting: there is none yet.
            KernelStartFailed, NotFound, Unavailable: it failed, as the backend says.
        """
        if self.error is not None:
            self.told = True
            raise copy.copy(self.error)
        if self.session is None:
            raise KernelStarting(
                f"The kernel {self.id} is starting: {self.about()}.",
                hint="Nothing was inserted or run; repeat the call, it joins this start.",
            )
        return self.session


Land = Callable[[Start, Kernel], Awaitable[Session]]


class Starts:
    """The starts that go on, and those that failed and are to be told of."""

    def __init__(self, kernels: Kernels, events: Events, tasks: Tasks) -> None:
        self._kernels = kernels
        self._events = events
        self._tasks = tasks
        self._known: dict[str, Start] = {}
        self._came_up: dict[str, str] = {}

    def all(self) -> Sequence[Start]:
        """Those that go on, and those that failed unheard."""
        self._forget_told()
        return tuple(self._known.values())

    def of(self, notebook: str) -> Start | None:
        """The start of a notebook's kernel, if one goes on or has failed unheard."""
        return next((start for start in self.all() if start.notebook == notebook), None)

    def get(self, identity: str) -> Start | None:
        """The same by its id."""
        self._forget_told()
        return self._known.get(identity)

    def kernel_id(self, identity: str) -> str:
        """The id of the kernel that a start has brought up; any other id is returned as it is."""
        return self._came_up.get(identity, identity)

    def begin(self, start: Start, env: Mapping[str, str] | None, land: Land) -> Start:
        """Let a start go on by itself. `land` makes a session of its kernel."""
        self._known[start.id] = start
        self._tasks.start_soon(self._carry_out, start, env, land)
        self._publish(start)
        return start

    async def cancel(self, start: Start, by: str) -> None:
        """End a start for good, with everything of it; one that has failed is forgotten."""
        start.cancelled_by = by
        start.scope.cancel()
        await start.ended.wait()
        start.told = True

    async def _carry_out(self, start: Start, env: Mapping[str, str] | None, land: Land) -> None:
        def progress(stage: str) -> None:
            start.tell(stage)
            self._publish(start)

        kernel = None
        try:
            with start.scope:
                kernel = await self._kernels.start(
                    start.kernel_name,
                    cwd=start.cwd,
                    env=env,
                    epoch=start.epoch,
                    progress=progress,
                    notebook=start.notebook,
                )
            if start.scope.cancel_called:
                if kernel is not None:
                    with anyio.CancelScope(shield=True):
                        await kernel.shutdown()
                start.end(error=_cancelled(start))
            elif kernel is not None:
                session = await land(start, kernel)
                self._came_up[start.id] = session.id
                start.end(session=session)
        except JupyterMcpError as error:
            start.end(error=error)
        except Exception:
            start.end(error=KernelStartFailed("The kernel could not be started.", hint="The server's log says why."))
            raise
        finally:
            start.end(error=Unavailable("The server stopped while the kernel was starting.", hint="Repeat the call."))
            self._after(start)

    def _after(self, start: Start) -> None:
        if start.error is None:
            del self._known[start.id]
            self._publish(start)
        else:
            logger.warning("the start of a kernel for %s failed: %s", start.notebook or "no notebook", start.error)
            self._publish(start)
        self._forget_told()
        ended = [each for each in self._known.values() if not each.goes_on]
        for old in ended[: max(0, len(ended) - MOST_ENDED)]:
            del self._known[old.id]
        for identity in list(self._came_up)[: max(0, len(self._came_up) - MOST_ENDED)]:
            del self._came_up[identity]

    def _forget_told(self) -> None:
        for start in [start for start in self._known.values() if start.told]:
            del self._known[start.id]

    def _publish(self, start: Start) -> None:
        state = "starting" if start.goes_on else "up" if start.error is None else "failed"
        self._events.publish(
            "kernel.starting", kernel_id=start.id, notebook=start.notebook, state=state, stage=start.about()
        )


def _cancelled(start: Start) -> KernelStartFailed:
    by = f" by {start.cancelled_by}" if start.cancelled_by else ""
    return KernelStartFailed(f"The start of the kernel was cancelled{by}.", hint="Repeat the call to start one.")
