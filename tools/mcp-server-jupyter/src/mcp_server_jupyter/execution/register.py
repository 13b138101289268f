"""Which notebook has which kernel, and what is to be told of those that are gone. Written down before it is so."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import AlreadyExists, JupyterMcpError, NotFound
from ..events import Events
from ..journal import Binding, Journal, KernelEventKind
from .session import News, Session, cause_of, describe, require_alive
from .start import Starts

logger = logging.getLogger(__name__)


class Register:
    """The sessions of a server, by their kernels and by their notebooks."""

    def __init__(self, journal: Journal, events: Events, starts: Starts) -> None:
        self.starts = starts
        self._journal = journal
        self._events = events
        self._sessions: dict[str, Session] = {}
        self._notebooks: dict[str, str] = {}
        # Of notebooks that have had a kernel and have none now: the next one goes on with their epochs.
        self._gone: dict[str, News] = {}

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

    # ------------------------------------------------------------------ binding

    def _require_none_alive(self, notebook: str) -> None:
        present = self.find(notebook)
        if present is not None and present.death is None:
            raise AlreadyExists(
                f"{notebook} has kernel {present.id} ({present.kernel.name}) already.",
                hint="Use it, shutdown_kernel it first, or leave out notebook_path.",
            )

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

    def _bind(self, session: Session, epoch: int) -> None:
        kernel = session.kernel
        for notebook in session.notebooks:
            self._journal.bind(notebook, kernel.id, kernel.name, epoch, kernel.cwd)

    # ------------------------------------------------------------------ what is gone

    def lose(self, binding: Binding) -> None:
        """Remember the kernel an earlier server had for a notebook and that is gone: its epoch, and why."""
        end = self._journal.kernel_end(binding.kernel_id, binding.epoch)
        asked = end is not None and end.kind == "shutdown"
        cause = cause_of(end) if end is not None else "ended while no server ran"
        self._gone[binding.notebook] = News(binding.epoch, cause, heard=asked)

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

    def _keep(self, session: Session) -> bool:
        """A kernel that could not be ended is the one of its notebooks still, unless they have another by now.

        Whether it is: one that is dead is forgotten all the same.
        """
        if session.kernel.state == "dead" or session.id in self._sessions:
            return False
        session.ending = ""
        self._sessions[session.id] = session
        for notebook in session.notebooks:
            if notebook in self._notebooks:
                session.leave(notebook)
            else:
                self._notebooks[notebook] = session.id
                self._gone.pop(notebook, None)
        return True

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
