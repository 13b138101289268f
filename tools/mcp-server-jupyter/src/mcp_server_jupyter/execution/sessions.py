"""The sessions of a server: how they begin and end. What waits and runs in one is the business of `queue`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath

import anyio

from ..errors import AlreadyExists, JupyterMcpError, KernelStartFailed, NotFound
from ..events import Events
from ..journal import Journal, KernelEventKind
from ..ports import Death, Joinable, Kernel, Kernels
from ..tasks import Tasks
from .culling import Culling
from .register import Register
from .session import News, Restart, Session, describe, require_alive
from .start import Start, Starts

logger = logging.getLogger(__name__)


class Sessions(Register):
    """All sessions of the server. Kernels start on first use and are never replaced silently."""

    def __init__(
        self,
        kernels: Kernels,
        journal: Journal,
        events: Events,
        tasks: Tasks,
        default_kernel: str,
        cull_idle_seconds: float = 0.0,
    ) -> None:
        super().__init__(journal, events, Starts(kernels, events, tasks))
        self._kernels = kernels
        self._tasks = tasks
        self._default_kernel = default_kernel
        self._culling = Culling(cull_idle_seconds, events, self._cull)

    async def meet(self, notebook: str) -> Session | None:
        """The notebook's session. A kernel that it has without our doing is its kernel from now on.

        Raises:
            Unavailable, Unauthorized: where others can start kernels, that cannot be asked now.
        """
        present, before = self.news(notebook)
        known = max(0 if before is None else before.epoch, 0 if present is None else present.kernel.epoch)
        kernel = await self._kernels.of_notebook(notebook, epoch=known + 1)
        present, start = self.find(notebook), self.starts.of(notebook)
        if kernel is None or (present is not None and present.kernel is kernel):
            return present
        if start is not None and start.goes_on:
            # It will find the same.
            return present
        session = self._sessions.get(kernel.id)
        if session is None:
            session = Session(kernel, None, before or News(heard=True))
            self._journal.kernel_event(kernel.id, kernel.epoch, "adopt", "")
            self._add(session)
        if present is not None:
            session.news = present.lost("was replaced by somebody else")
        self.bind(notebook, session)
        return session

    # ------------------------------------------------------------------ starting

    def of_notebook(
        self,
        notebook: str,
        kernel_name: str | None = None,
        env: Mapping[str, str] | None = None,
        chosen: str = "",
    ) -> Session | Start:
        """The notebook's session, or the start of its kernel: the one that goes on, else a new one.

        `chosen` says why it is this kernel, for whoever hears of the start first.

        Raises:
            KernelDead: it had one that died; it is not replaced behind the caller's back.
        """
        start = self.starts.of(notebook)
        if start is not None:
            return start
        session = self.find(notebook)
        if session is not None:
            require_alive(session)
            return session
        cwd = str(PurePosixPath(notebook).parent)
        return self._begin(kernel_name, "" if cwd == "." else cwd, notebook, env, chosen)

    def start(
        self,
        kernel_name: str | None,
        *,
        cwd: str = "",
        notebook: str | None = None,
        env: Mapping[str, str] | None = None,
        chosen: str = "",
    ) -> Start:
        """Start a kernel and, if a notebook is given, bind it to that; a dead one there is replaced.

        `env` is the environment of whoever starts it; None, the server's own. A start of the same kernel for the same
        notebook that goes on is joined.

        Raises:
            AlreadyExists: the notebook has a living kernel, or another one is starting.
        """
        if notebook is None:
            return self._begin(kernel_name, cwd, None, env, chosen)
        start = self.starts.of(notebook)
        if start is not None:
            if start.goes_on and (start.kernel_name, start.cwd) != (kernel_name or self._default_kernel, cwd):
                raise AlreadyExists(
                    f"A kernel ({start.kernel_name}) for {notebook} is starting already: {start.about()}.",
                    hint="Wait for it, or shutdown_kernel ends its start.",
                )
            return start
        self._require_none_alive(notebook)
        return self._begin(kernel_name, cwd, notebook, env, chosen)

    def _begin(
        self, kernel_name: str | None, cwd: str, notebook: str | None, env: Mapping[str, str] | None, chosen: str
    ) -> Start:
        _, before = self.news(notebook)
        epoch = 1 if before is None else before.epoch + 1
        start = Start(kernel_name or self._default_kernel, cwd, notebook, epoch, chosen)
        return self.starts.begin(start, env, self._land)

    async def _land(self, start: Start, kernel: Kernel) -> Session:
        """Make a session of a kernel that has come up; where that cannot be, the kernel is ended again."""
        notebook = start.notebook
        present, before = self.news(notebook)
        if kernel.id in self._sessions and notebook is not None:
            # It was the notebook's already, and has been met while it was to be started.
            self._bind_started(notebook, self._sessions[kernel.id])
            return self._sessions[kernel.id]
        session = Session(kernel, notebook, before or News(heard=notebook is None), chosen=start.chosen)
        try:
            if notebook is not None:
                # The one that was dead may have been restarted meanwhile.
                self._require_none_alive(notebook)
            self._journal.kernel_event(kernel.id, kernel.epoch, "start", kernel.name)
            self._add(session)
        except JupyterMcpError:
            # What cannot be written down would be lost to the next server: it is not started, then.
            if kernel.ends_with_server:
                await self._end(session)
            raise
        if notebook is not None:
            self._gone.pop(notebook, None)
        self._events.publish("kernel.started", kernel_id=kernel.id, name=kernel.name, notebook=notebook)
        if present is not None:
            try:
                await self.shutdown(present)
            except JupyterMcpError as error:
                logger.warning("the dead kernel %s could not be removed: %s", present.id, error)
        return session

    async def choose(self, notebook: str, kernel_id: str) -> Session:
        """Run a notebook on a kernel that is there, also on one that others started.

        Raises:
            NotFound: there is no such kernel.
            AlreadyExists: the notebook has another one.
            Unavailable, Unauthorized
        """
        try:
            session = self.get(kernel_id)
        except NotFound:
            if not isinstance(self._kernels, Joinable):
                raise
            await self._kernels.join(notebook, kernel_id)
            session = await self.meet(notebook) or self.get(kernel_id)
        present = self.find(notebook)
        if present is not None and present is not session and present.death is None:
            raise AlreadyExists(
                f"{notebook} has kernel {present.id} ({present.kernel.name}) already.",
                hint="shutdown_kernel it first, or use it.",
            )
        self.bind(notebook, session)
        return session

    def adopt(self, kernel: Kernel, *notebooks: str) -> Session:
        """Take over a kernel that an earlier server left, also one that has ended meanwhile."""
        session = Session(kernel)
        for notebook in notebooks:
            session.join(notebook)
        self._journal.kernel_event(kernel.id, kernel.epoch, "adopt", "")
        self._add(session)
        return session

    def _add(self, session: Session) -> None:
        self._bind(session, session.kernel.epoch)
        for notebook in session.notebooks:
            self._notebooks[notebook] = session.id
        self._sessions[session.id] = session
        self._start_watching(session)

    # ------------------------------------------------------------------ ending

    def _start_watching(self, session: Session) -> None:
        session.watch = anyio.CancelScope()
        self._tasks.start_soon(self._watch, session, session.watch)

    async def _watch(self, session: Session, scope: anyio.CancelScope) -> None:
        """Tell the death of this epoch's process, and of every one that somebody else has replaced by another."""
        kernel = session.kernel
        with scope:
            while True:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._culling.follow, session)
                    death = await kernel.wait_dead()
                    tasks.cancel_scope.cancel()
                if kernel.death is not None:
                    break
                self._restarted_elsewhere(session, death)
            session.died()
            self._note(session, "death", describe(death))
            self._events.publish(
                "kernel.died",
                kernel_id=kernel.id,
                notebook=session.notebook,
                exit_code=death.exit_code,
                reason=death.reason,
            )

    def _restarted_elsewhere(self, session: Session, death: Death) -> None:
        kernel = session.kernel
        session.news = session.lost(f"was {death.reason}", epoch=kernel.epoch - 1)
        with suppress(JupyterMcpError):
            self._bind(session, kernel.epoch)
        self._note(session, "restart", "")
        self._events.publish(
            "kernel.restarted", kernel_id=kernel.id, notebook=session.notebook, kernel_epoch=kernel.epoch
        )

    def begin_restart(self, session: Session, by: str = "") -> Restart:
        """`restart` it, whoever waits for that; one that goes on is joined."""
        if session.restart is None:
            session.restart = Restart()
            self._tasks.start_soon(self._carry_out, session, session.restart, by)
        return session.restart

    async def _carry_out(self, session: Session, restart: Restart, by: str) -> None:
        try:
            await self.restart(session, by)
        except JupyterMcpError as error:
            restart.error = error
        except BaseException:
            restart.error = KernelStartFailed("The restart was cut short.", hint="list_kernels says what there is.")
            raise
        finally:
            session.restart = None
            restart.ended.set()

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
            session.touch()
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
        """End the kernel and forget the session. `by` is who asked.

        Raises:
            Unavailable, Unauthorized: whoever has the kernel does not end it; the session is as it was.
        """
        if self._forget(session, f"was shut down by {by}" if by else "was shut down", by or None):
            try:
                await self._shut_down(session, "shutdown", by)
            except JupyterMcpError:
                if self._keep(session):
                    self._start_watching(session)
                raise

    def _cull(self, session: Session, idle: str) -> None:
        # Forgotten at the very moment at which it was found idle: what comes now starts another one.
        if self._forget(session, f"was shut down after {idle} idle", None):
            self._tasks.start_soon(self._shut_down, session, "cull", idle)

    async def _shut_down(self, session: Session, kind: KernelEventKind, detail: str) -> None:
        await self._end(session)
        self._note(session, kind, detail)
        self._events.publish("kernel.stopped", kernel_id=session.id, notebook=session.notebook, how=kind)

    async def _end(self, session: Session) -> None:
        with anyio.CancelScope(shield=True):
            async with session.lock:
                session.ending = "shut down"
                session.watch.cancel()
                await session.kernel.shutdown()

    def stop(self) -> None:
        """Write down that the living kernels end with the server."""
        for session in self.all():
            if session.death is None and session.kernel.ends_with_server:
                self._note(session, "stop")
