"""All sessions of a server: which notebook has which kernel. What waits and runs in one is the business of `queue`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import anyio

from ..errors import AlreadyExists, JupyterMcpError, KernelStartFailed, NotFound
from ..events import Events
from ..journal import Binding, Journal, KernelEventKind
from ..ports import Death, Joinable, Kernel, Kernels
from ..tasks import Tasks
from .culling import Culling
from .session import News, Restart, Session, cause_of, describe, require_alive
from .start import Start, Starts

logger = logging.getLogger(__name__)


class Sessions:
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
        self._kernels = kernels
        self._journal = journal
        self._events = events
        self._tasks = tasks
        self._default_kernel = default_kernel
        self._sessions: dict[str, Session] = {}
        self._notebooks: dict[str, str] = {}
        # Of notebooks that have had a kernel and have none now: the next one goes on with their epochs.
        self._gone: dict[str, News] = {}
        self.starts = Starts(kernels, events, tasks)
        self._culling = Culling(cull_idle_seconds, events, self._cull)

    # ------------------------------------------------------------------ finding

    def all(self) -> Sequence[Session]:
        return tuple(self._sessions.values())

    def get(self, kernel_id: str) -> Session:
        """The session of a kernel, by its id or an unambiguous beginning of it.

        Raises:
            KernelStarting, KernelStartFailed: it is the id of a start that goes on, or has failed.
            NotFound: says how it ended, if that is known, and names the kernels there are.
        """
        if start := self.starts.get(kernel_id):
            return start.require()
        kernel_id = self.starts.kernel_id(kernel_id)
        found = [s for key, s in self._sessions.items() if key.startswith(kernel_id)] if kernel_id else []
        if kernel_id in self._sessions:
            return self._sessions[kernel_id]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self._sessions) or "none"
        end = self._journal.kernel_end(kernel_id)
        how = f" (it {cause_of(end)})" if end else ""
        raise NotFound(f"No kernel {kernel_id!r}{how}; running: {known}.", hint="list_kernels shows them.")

    def find(self, notebook: str) -> Session | None:
        """The session of a notebook, dead kernels included."""
        return self._sessions.get(self._notebooks.get(notebook, ""))

    def news(self, notebook: str | None, kernel_id: str | None = None) -> tuple[Session | None, News | None]:
        """The session of a kernel or of a notebook, and what is to be heard of it; of a kernel that is gone, too."""
        kernel_id = self.starts.kernel_id(kernel_id or "")
        session = self._sessions.get(kernel_id or self._notebooks.get(notebook or "", ""))
        return session, self._gone.get(notebook or "") if session is None else session.died()

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

    def _require_none_alive(self, notebook: str) -> None:
        present = self.find(notebook)
        if present is not None and present.death is None:
            raise AlreadyExists(
                f"{notebook} has kernel {present.id} ({present.kernel.name}) already.",
                hint="Use it, shutdown_kernel it first, or leave out notebook_path.",
            )

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

    def _bind_started(self, notebook: str, session: Session) -> None:
        if self.find(notebook) is not session:
            self._journal.bind(notebook, session.id, session.kernel.name, session.kernel.epoch, session.kernel.cwd)
            session.join(notebook)
            self._notebooks[notebook] = session.id

    def bind(self, notebook: str, session: Session | None) -> None:
        """Run a notebook on a kernel that others may run on too; None, on none. The kernel that it had goes on.

        Raises:
            KernelDead
            AlreadyExists: a kernel of its own is starting.
            Unavailable: that cannot be written down; nothing has changed.
        """
        start = self.starts.of(notebook)
        if start is not None and start.goes_on:
            raise AlreadyExists(
                f"A kernel for {notebook} is starting: {start.about()}.", hint="Wait for it, or shut it down."
            )
        present = self.find(notebook)
        if session is present:
            return
        if session is None:
            self._journal.unbind(notebook)
        else:
            require_alive(session)
            kernel = session.kernel
            self._journal.bind(notebook, kernel.id, kernel.name, kernel.epoch, kernel.cwd)
        if present is not None:
            present.leave(notebook)
            del self._notebooks[notebook]
        if session is not None:
            session.join(notebook)
            self._notebooks[notebook] = session.id
            self._gone.pop(notebook, None)
        for each in (present, session):
            if each is not None:
                self._events.publish("kernel.bound", kernel_id=each.id, notebook=each.notebook)

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

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: its kernel and what is known of it go with it.

        Raises:
            Unavailable: that cannot be written down; nothing has changed.
        """
        self._journal.renamed(notebook, to)
        if start := self.starts.of(notebook):
            start.notebook = to
        session = self.find(notebook)
        if session is not None:
            del self._notebooks[notebook]
            self._notebooks[to] = session.id
            names = [to if each == notebook else each for each in session.notebooks]
            session.notebook, session.others = names[0], names[1:]
            self._events.publish("kernel.bound", kernel_id=session.id, notebook=session.notebook)
        if notebook in self._gone:
            self._gone[to] = self._gone.pop(notebook)

    def adopt(self, kernel: Kernel, *notebooks: str) -> Session:
        """Take over a kernel that an earlier server left, also one that has ended meanwhile."""
        session = Session(kernel)
        for notebook in notebooks:
            session.join(notebook)
        self._journal.kernel_event(kernel.id, kernel.epoch, "adopt", "")
        self._add(session)
        return session

    def lose(self, binding: Binding) -> None:
        """Remember the kernel an earlier server had for a notebook and that is gone: its epoch, and why."""
        end = self._journal.kernel_end(binding.kernel_id, binding.epoch)
        asked = end is not None and end.kind == "shutdown"
        cause = cause_of(end) if end is not None else "ended while no server ran"
        self._gone[binding.notebook] = News(binding.epoch, cause, heard=asked)

    def _add(self, session: Session) -> None:
        self._bind(session, session.kernel.epoch)
        for notebook in session.notebooks:
            self._notebooks[notebook] = session.id
        self._sessions[session.id] = session
        self._start_watching(session)

    def _bind(self, session: Session, epoch: int) -> None:
        kernel = session.kernel
        for notebook in session.notebooks:
            self._journal.bind(notebook, kernel.id, kernel.name, epoch, kernel.cwd)

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
                self._keep(session)
                raise

    def _cull(self, session: Session, idle: str) -> None:
        # Forgotten at the very moment at which it was found idle: what comes now starts another one.
        if self._forget(session, f"was shut down after {idle} idle", None):
            self._tasks.start_soon(self._shut_down, session, "cull", idle)

    def _forget(self, session: Session, how: str, by: str | None) -> bool:
        if self._sessions.pop(session.id, None) is None:
            return False
        death = session.death
        for notebook in session.notebooks:
            if self._notebooks.get(notebook) == session.id:
                del self._notebooks[notebook]
                self._gone[notebook] = session.lost(describe(death) if death else how, by=by)
        session.ending = session.ending or "shut down"
        return True

    def _keep(self, session: Session) -> None:
        """A kernel that could not be ended is the one of its notebooks still, unless they have another by now."""
        if session.kernel.state == "dead" or session.id in self._sessions:
            return
        session.ending = ""
        self._sessions[session.id] = session
        for notebook in session.notebooks:
            if notebook in self._notebooks:
                session.leave(notebook)
            else:
                self._notebooks[notebook] = session.id
                self._gone.pop(notebook, None)
        self._start_watching(session)

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

    def forget(self, notebook: str) -> None:
        """A notebook is gone for good: nothing is to be told of its kernels any more. One that has a kernel is left."""
        if notebook not in self._notebooks:
            self._gone.pop(notebook, None)
            self._journal.unbind(notebook)

    def _note(self, session: Session, kind: KernelEventKind, detail: str = "") -> None:
        # It has happened, whether it can be written down or not; without it the next server knows less of the cause.
        try:
            self._journal.kernel_event(session.id, session.kernel.epoch, kind, detail)
        except JupyterMcpError as error:
            logger.warning("the %s of kernel %s is not in the journal: %s", kind, session.id, error)
