"""A notebook path and its kernel (Jupyter's "session"), with one queue each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import anyio

from ..errors import KernelDead, NotFound
from ..events import Events
from ..journal import Journal
from ..ports import Death, Kernel, Kernels
from ..tasks import Tasks

if TYPE_CHECKING:
    from .execution import Execution


@dataclass(eq=False)
class Session:
    """One kernel, the notebook it belongs to (None for a kernel of its own), and what waits for it."""

    kernel: Kernel
    notebook: str | None = None
    queue: deque[Execution] = field(default_factory=deque)
    running: Execution | None = None
    draining: bool = False
    watch: anyio.CancelScope | None = None
    ending: str = ""
    """What is being done to the kernel's process just now: "restarted" or "shut down"."""
    announced_epoch: int = 1
    """The last epoch a caller was told of; a newer one is told once, loudly."""

    @property
    def id(self) -> str:
        return self.kernel.id

    def notice(self) -> str:
        """What a caller must hear once: that the variables of an earlier epoch are gone."""
        if self.kernel.epoch == self.announced_epoch:
            return ""
        self.announced_epoch = self.kernel.epoch
        return f"This is kernel epoch {self.kernel.epoch}: variables of earlier epochs are gone."


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
        self._starting: dict[str, anyio.Lock] = {}

    def all(self) -> Sequence[Session]:
        return tuple(self._sessions.values())

    def get(self, kernel_id: str) -> Session:
        """The session of a kernel, by its id or an unambiguous beginning of it.

        Raises:
            NotFound: names the kernels there are.
        """
        found = [s for key, s in self._sessions.items() if key.startswith(kernel_id)] if kernel_id else []
        if kernel_id in self._sessions:
            return self._sessions[kernel_id]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self._sessions) or "none"
        raise NotFound(f"No kernel {kernel_id!r}; running: {known}.", hint="list_kernels shows them.")

    def find(self, notebook: str) -> Session | None:
        """The session of a notebook, dead kernels included."""
        return self._sessions.get(self._notebooks.get(notebook, ""))

    async def of_notebook(
        self, notebook: str, kernel_name: str | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[Session, bool]:
        """The notebook's session, started if it has none. The flag says whether it was started now.

        Raises:
            KernelDead: it had one that died; it is not replaced behind the caller's back.
            KernelStartFailed, NotFound
        """
        lock = self._starting.setdefault(notebook, anyio.Lock())
        async with lock:
            session = self.find(notebook)
            if session is not None:
                require_alive(session)
                return session, False
            cwd = str(PurePosixPath(notebook).parent)
            return await self.start(kernel_name, cwd="" if cwd == "." else cwd, notebook=notebook, env=env), True

    async def start(
        self,
        kernel_name: str | None,
        *,
        cwd: str = "",
        notebook: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Session:
        """Start a kernel and, if a notebook is given, bind it to that.

        `env` is the environment of whoever starts it; None, the server's own.
        """
        kernel = await self._kernels.start(kernel_name or self._default_kernel, cwd=cwd, env=env)
        session = Session(kernel, notebook)
        self._add(session)
        self._journal.kernel_event(kernel.id, kernel.epoch, "start", kernel.name)
        self._events.publish("kernel.started", kernel_id=kernel.id, name=kernel.name, notebook=notebook)
        return session

    def adopt(self, kernel: Kernel, notebook: str | None) -> Session:
        """Take over a kernel that an earlier server left."""
        session = Session(kernel, notebook, announced_epoch=kernel.epoch)
        self._add(session)
        self._journal.kernel_event(kernel.id, kernel.epoch, "adopt", "")
        return session

    def bind(self, session: Session, notebook: str) -> None:
        """Make a running kernel the one of a notebook."""
        session.notebook = notebook
        self._notebooks[notebook] = session.id
        kernel = session.kernel
        self._journal.bind(notebook, kernel.id, kernel.name, kernel.epoch, kernel.cwd)

    def _add(self, session: Session) -> None:
        self._sessions[session.id] = session
        if session.notebook is not None:
            self.bind(session, session.notebook)
        self._tasks.start_soon(self._watch, session)

    async def _watch(self, session: Session) -> None:
        """Tell the death of this epoch's process."""
        kernel = session.kernel
        with anyio.CancelScope() as session.watch:
            death = await kernel.wait_dead()
            self._journal.kernel_event(kernel.id, kernel.epoch, "death", describe(death))
            self._events.publish(
                "kernel.died",
                kernel_id=kernel.id,
                notebook=session.notebook,
                exit_code=death.exit_code,
                reason=death.reason,
            )

    def _stop_watching(self, session: Session) -> None:
        if session.watch is not None:
            session.watch.cancel()

    async def restart(self, session: Session) -> None:
        """A new process for the same session; its epoch rises and its variables are gone."""
        kernel = session.kernel
        self._stop_watching(session)
        session.ending = "restarted"
        try:
            await kernel.restart()
        finally:
            session.ending = ""
        self._tasks.start_soon(self._watch, session)
        session.announced_epoch = kernel.epoch
        self._journal.kernel_event(kernel.id, kernel.epoch, "restart", "")
        if session.notebook is not None:
            self.bind(session, session.notebook)
        self._events.publish(
            "kernel.restarted", kernel_id=kernel.id, notebook=session.notebook, kernel_epoch=kernel.epoch
        )

    async def shutdown(self, session: Session) -> None:
        """End the kernel and forget the session."""
        self._sessions.pop(session.id, None)
        self._stop_watching(session)
        if session.notebook is not None and self._notebooks.get(session.notebook) == session.id:
            del self._notebooks[session.notebook]
            self._journal.unbind(session.notebook)
        session.ending = "shut down"
        await session.kernel.shutdown()
        self._journal.kernel_event(session.id, session.kernel.epoch, "shutdown", "")
        self._events.publish("kernel.stopped", kernel_id=session.id, notebook=session.notebook)


def describe(death: Death) -> str:
    """A death for people: "was killed by signal 9 (out of memory)"."""
    if death.exit_code is None:
        how = "ended"
    elif death.exit_code < 0:
        how = f"was killed by signal {-death.exit_code}"
    else:
        how = f"exited with code {death.exit_code}"
    return f"{how} ({death.reason})" if death.reason else how


def require_alive(session: Session) -> None:
    """Raise `KernelDead` for a session whose kernel has ended."""
    death = session.kernel.death
    if death is None:
        return
    where = f"restart_kernel(notebook_path={session.notebook!r})" if session.notebook else "start_kernel"
    raise KernelDead(
        f"The kernel {session.id} is dead: it {describe(death)}. Its variables are gone.",
        exit_code=death.exit_code,
        reason=death.reason,
        hint=f"Call {where}, then run again the cells whose results you need.",
    )
