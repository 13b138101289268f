"""A notebook path and its kernel (Jupyter's "session"). What waits and runs in it is the business of `queue`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal
from weakref import WeakValueDictionary

import anyio

from ..errors import AlreadyExists, JupyterMcpError, KernelDead, NotFound
from ..events import Events
from ..journal import Binding, Journal, KernelEnd, KernelEventKind
from ..ports import Death, Kernel, Kernels
from ..tasks import Tasks

logger = logging.getLogger(__name__)

MOST_CALLERS = 1_000


@dataclass(eq=False)
class News:
    """What callers must hear of a kernel: that the variables of its epochs up to `epoch` are gone, and why.

    `cause` reads after "the kernel": "was killed by signal 9". Without one the kernel is the notebook's first, and
    what must be heard is that nothing of an earlier run is in it.
    """

    epoch: int = 0
    cause: str = ""
    concerns: set[str] = field(default_factory=set)
    """Callers who used what is gone and have not heard of it."""
    heard: bool = False

    def tell(self, caller: str) -> bool:
        """Whether this caller is to be told now: once whom it concerns, and once whoever comes first."""
        due = caller in self.concerns or not self.heard
        self.concerns.discard(caller)
        self.heard = True
        return due


@dataclass(eq=False)
class Session:
    """One kernel and the notebook it belongs to (None for a kernel of its own)."""

    kernel: Kernel
    notebook: str | None = None
    news: News = field(default_factory=lambda: News(heard=True))
    ending: Literal["", "restarted", "shut down"] = ""
    """What is being done, or has been done for good, to the kernel's process."""
    watch: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while the kernel's process is replaced or ended."""
    failed: Death | None = None
    """Set after a restart that failed: there is no process, whatever the kernel itself knows of it."""
    _callers: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.kernel.id

    @property
    def death(self) -> Death | None:
        """How the kernel ended, if it has; not what a restart that goes on does to it."""
        return self.failed or (None if self.ending == "restarted" else self.kernel.death)

    def used_by(self, caller: str) -> None:
        """Remember who must hear when the variables are lost."""
        if len(self._callers) < MOST_CALLERS:
            self._callers.add(caller)

    def lost(self, cause: str, *, epoch: int | None = None, by: str | None = None) -> News:
        """What is to be told once the variables are gone; `by` asked for it and knows."""
        ended = self.kernel.epoch if epoch is None else epoch
        return News(ended, cause, {each for each in self._callers if each != by}, heard=by is not None)

    def died(self) -> News:
        """The news of the kernel's death, made by whoever notices it first."""
        death = self.death
        if death is not None and self.news.epoch < self.kernel.epoch:
            self.news = self.lost(describe(death))
        return self.news


class Sessions:
    """All sessions of the server. Kernels start on first use and are never replaced silently."""

    def __init__(self, kernels: Kernels, journal: Journal, events: Events, tasks: Tasks, default_kernel: str) -> None:
        self._kernels = kernels
        self._journal = journal
        self._events = events
        self._tasks = tasks
        self._default_kernel = default_kernel
        self._sessions: dict[str, Session] = {}
        self._notebooks: dict[str, str] = {}
        # Of notebooks that have had a kernel and have none now: the next one goes on with their epochs.
        self._gone: dict[str, News] = {}
        # A lock lives as long as somebody holds it or waits for it.
        self._starting: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    # ------------------------------------------------------------------ finding

    def all(self) -> Sequence[Session]:
        return tuple(self._sessions.values())

    def get(self, kernel_id: str) -> Session:
        """The session of a kernel, by its id or an unambiguous beginning of it.

        Raises:
            NotFound: says how it ended, if that is known, and names the kernels there are.
        """
        found = [s for key, s in self._sessions.items() if key.startswith(kernel_id)] if kernel_id else []
        if kernel_id in self._sessions:
            return self._sessions[kernel_id]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self._sessions) or "none"
        end = self._journal.kernel_end(kernel_id)
        how = f" (it {_cause(end)})" if end else ""
        raise NotFound(f"No kernel {kernel_id!r}{how}; running: {known}.", hint="list_kernels shows them.")

    def find(self, notebook: str) -> Session | None:
        """The session of a notebook, dead kernels included."""
        return self._sessions.get(self._notebooks.get(notebook, ""))

    def news(self, notebook: str | None, kernel_id: str | None = None) -> tuple[Session | None, News | None]:
        """The session of a kernel or of a notebook, and what is to be heard of it; of a kernel that is gone, too."""
        session = self._sessions.get(kernel_id or self._notebooks.get(notebook or "", ""))
        return session, self._gone.get(notebook or "") if session is None else session.died()

    # ------------------------------------------------------------------ starting

    async def of_notebook(
        self, notebook: str, kernel_name: str | None = None, env: Mapping[str, str] | None = None
    ) -> Session:
        """The notebook's session, started if it has none.

        Raises:
            KernelDead: it had one that died; it is not replaced behind the caller's back.
            KernelStartFailed, NotFound
        """
        async with self._alone(notebook):
            session = self.find(notebook)
            if session is not None:
                require_alive(session)
                return session
            cwd = str(PurePosixPath(notebook).parent)
            return await self._start(kernel_name, "" if cwd == "." else cwd, notebook, env)

    async def start(
        self,
        kernel_name: str | None,
        *,
        cwd: str = "",
        notebook: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Session:
        """Start a kernel and, if a notebook is given, bind it to that; a dead one there is replaced.

        `env` is the environment of whoever starts it; None, the server's own.

        Raises:
            AlreadyExists: the notebook has a living kernel.
            KernelStartFailed, NotFound
        """
        if notebook is None:
            return await self._start(kernel_name, cwd, None, env)
        async with self._alone(notebook):
            present = self.find(notebook)
            if present is not None and present.death is None:
                raise AlreadyExists(
                    f"{notebook} has kernel {present.id} ({present.kernel.name}) already.",
                    hint="Use it, shutdown_kernel it first, or leave out notebook_path.",
                )
            session = await self._start(kernel_name, cwd, notebook, env)
            if present is not None:
                await self.shutdown(present)
            return session

    def _alone(self, notebook: str) -> anyio.Lock:
        """Whoever holds this is the only one to start a kernel for the notebook."""
        lock = self._starting.get(notebook)
        if lock is None:
            lock = self._starting[notebook] = anyio.Lock()
        return lock

    async def _start(
        self, kernel_name: str | None, cwd: str, notebook: str | None, env: Mapping[str, str] | None
    ) -> Session:
        _, before = self.news(notebook)
        epoch = 1 if before is None else before.epoch + 1
        kernel = await self._kernels.start(kernel_name or self._default_kernel, cwd=cwd, env=env, epoch=epoch)
        session = Session(kernel, notebook, before or News(heard=notebook is None))
        try:
            self._journal.kernel_event(kernel.id, kernel.epoch, "start", kernel.name)
            self._add(session)
        except JupyterMcpError:
            # What cannot be written down would be lost to the next server: it is not started, then.
            await self._end(session)
            raise
        if notebook is not None:
            self._gone.pop(notebook, None)
        self._events.publish("kernel.started", kernel_id=kernel.id, name=kernel.name, notebook=notebook)
        return session

    def adopt(self, kernel: Kernel, notebook: str | None) -> Session:
        """Take over a kernel that an earlier server left, also one that has ended meanwhile."""
        session = Session(kernel, notebook)
        self._journal.kernel_event(kernel.id, kernel.epoch, "adopt", "")
        self._add(session)
        return session

    def lose(self, binding: Binding) -> None:
        """Remember the kernel an earlier server had for a notebook and that is gone: its epoch, and why."""
        end = self._journal.kernel_end(binding.kernel_id, binding.epoch)
        asked = end is not None and end.kind == "shutdown"
        cause = _cause(end) if end is not None else "ended while no server ran"
        self._gone[binding.notebook] = News(binding.epoch, cause, heard=asked)

    def _add(self, session: Session) -> None:
        self._bind(session, session.kernel.epoch)
        if session.notebook is not None:
            self._notebooks[session.notebook] = session.id
        self._sessions[session.id] = session
        self._start_watching(session)

    def _bind(self, session: Session, epoch: int) -> None:
        if session.notebook is not None:
            kernel = session.kernel
            self._journal.bind(session.notebook, kernel.id, kernel.name, epoch, kernel.cwd)

    # ------------------------------------------------------------------ ending

    def _start_watching(self, session: Session) -> None:
        session.watch = anyio.CancelScope()
        self._tasks.start_soon(self._watch, session, session.watch)

    async def _watch(self, session: Session, scope: anyio.CancelScope) -> None:
        """Tell the death of this epoch's process."""
        kernel = session.kernel
        with scope:
            death = await kernel.wait_dead()
            session.died()
            self._note(session, "death", describe(death))
            self._events.publish(
                "kernel.died",
                kernel_id=kernel.id,
                notebook=session.notebook,
                exit_code=death.exit_code,
                reason=death.reason,
            )

    async def restart(self, session: Session, by: str = "") -> None:
        """A new process for the same session; its epoch rises and its variables are gone. `by` is who asked.

        Raises:
            KernelDead: it was shut down meanwhile.
            KernelStartFailed, NotFound, Unavailable: the old process goes on; or, where that had been ended, there is
                none and what is run is refused until a restart succeeds.
        """
        async with session.lock:
            kernel = session.kernel
            if session.ending == "shut down":
                require_alive(session)
            ended, death = kernel.epoch, session.death
            # Before anything happens: what cannot be written down is not done.
            self._bind(session, ended + 1)
            session.watch.cancel()
            session.ending = "restarted"
            try:
                # Half a restart helps nobody: whoever asked for it may go, it is finished all the same.
                with anyio.CancelScope(shield=True):
                    await kernel.restart()
            except JupyterMcpError as error:
                self._restart_failed(session, error)
                raise
            finally:
                session.ending = ""
            session.failed = None
            how = f"was restarted by {by}" if by else "was restarted"
            session.news = session.lost(f"{describe(death)} and {how}" if death else how, epoch=ended, by=by)
            self._start_watching(session)
            self._note(session, "restart", by)
        self._events.publish(
            "kernel.restarted", kernel_id=kernel.id, notebook=session.notebook, kernel_epoch=kernel.epoch
        )

    def _restart_failed(self, session: Session, error: JupyterMcpError) -> None:
        if session.kernel.death is None:
            # It was refused before the process ended, which goes on.
            self._start_watching(session)
            with suppress(JupyterMcpError):
                self._bind(session, session.kernel.epoch)
        else:
            session.failed = Death(None, f"its restart failed: {error.message}")

    async def shutdown(self, session: Session, by: str = "") -> None:
        """End the kernel and forget the session. `by` is who asked."""
        if self._sessions.pop(session.id, None) is None:
            return
        if session.notebook is not None and self._notebooks.get(session.notebook) == session.id:
            del self._notebooks[session.notebook]
            how = f"was shut down by {by}" if by else "was shut down"
            self._gone[session.notebook] = session.lost(describe(session.death) if session.death else how, by=by)
        await self._end(session)
        self._note(session, "shutdown", by)
        self._events.publish("kernel.stopped", kernel_id=session.id, notebook=session.notebook)

    async def _end(self, session: Session) -> None:
        with anyio.CancelScope(shield=True):
            async with session.lock:
                session.ending = "shut down"
                session.watch.cancel()
                await session.kernel.shutdown()

    def stop(self) -> None:
        """Write down that the living kernels end with the server."""
        for session in self.all():
            if session.death is None:
                self._note(session, "stop")

    def _note(self, session: Session, kind: KernelEventKind, detail: str = "") -> None:
        # It has happened, whether it can be written down or not; without it the next server knows less of the cause.
        try:
            self._journal.kernel_event(session.id, session.kernel.epoch, kind, detail)
        except JupyterMcpError as error:
            logger.warning("the %s of kernel %s is not in the journal: %s", kind, session.id, error)


def describe(death: Death) -> str:
    """A death for people: "was killed by signal 9 (out of memory)"."""
    if death.exit_code is None:
        how = "ended"
    elif death.exit_code < 0:
        how = f"was killed by signal {-death.exit_code}"
    else:
        how = f"exited with code {death.exit_code}"
    says_no_more = death.reason in ("", f"exit code {death.exit_code}")
    return how if says_no_more else f"{how} ({death.reason})"


def _cause(end: KernelEnd) -> str:
    """How a kernel ended, as the journal has it."""
    if end.kind == "stop":
        return "ended with its server"
    if end.kind == "shutdown":
        return f"was shut down by {end.detail}" if end.detail else "was shut down"
    return end.detail


def require_alive(session: Session) -> None:
    """Raise `KernelDead` for a session whose kernel has ended."""
    death = session.death
    if session.ending == "shut down":
        raise KernelDead(
            f"The kernel {session.id} was shut down just now.",
            reason="shut down",
            hint="Repeat the call: it starts a new one for a notebook.",
        )
    if death is None:
        return
    where = f"restart_kernel(notebook_path={session.notebook!r})" if session.notebook else "start_kernel"
    raise KernelDead(
        f"The kernel {session.id} is dead: it {describe(death)}. Its variables are gone.",
        exit_code=death.exit_code,
        reason=death.reason,
        hint=f"Call {where}, then run again the cells whose results you need.",
    )
