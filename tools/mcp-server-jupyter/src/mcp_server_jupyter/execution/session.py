"""A notebook path and its kernel (Jupyter's "session"), and what is said of a kernel that is gone."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Literal

import anyio

from ..errors import JupyterMcpError, KernelDead
from ..journal import KernelEnd
from ..ports import Death, Kernel

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
class Restart:
    """The restart of a kernel, which goes on when the call that asked for it has been answered."""

    since: float = field(default_factory=time.monotonic)
    error: JupyterMcpError | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def wait(self, seconds: float) -> bool:
        """Whether it is done within `seconds`.

        Raises:
            KernelDead, KernelStartFailed, NotFound, Unavailable: it failed; see `Sessions.restart`.
        """
        with anyio.move_on_after(seconds):
            await self.ended.wait()
        if self.error is not None:
            raise copy.copy(self.error)
        return self.ended.is_set()


@dataclass(eq=False)
class Session:
    """One kernel and the notebook it belongs to (None for a kernel of its own); `others` share it."""

    kernel: Kernel
    notebook: str | None = None
    news: News = field(default_factory=lambda: News(heard=True))
    ending: Literal["", "restarted", "shut down"] = ""
    """What is being done, or has been done for good, to the kernel's process."""
    watch: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while the kernel's process is replaced or ended."""
    restart: Restart | None = None
    """The restart that goes on."""
    failed: Death | None = None
    """Set after a restart that failed: there is no process, whatever the kernel itself knows of it."""
    ends_at: float | None = None
    """When it is to be shut down unless something runs in it, in seconds since the epoch; None while that is far."""
    others: list[str] = field(default_factory=list)
    chosen: str = ""
    """What it was started on and why, until somebody has been told."""
    _callers: set[str] = field(default_factory=set)
    _idle_since: float | None = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.kernel.id

    @property
    def notebooks(self) -> tuple[str, ...]:
        """All notebooks that run on it; the first is the one it belongs to."""
        return () if self.notebook is None else (self.notebook, *self.others)

    def join(self, notebook: str) -> None:
        """One notebook more runs on it."""
        if self.notebook is None:
            self.notebook = notebook
        elif notebook not in self.notebooks:
            self.others.append(notebook)

    def leave(self, notebook: str) -> None:
        """One notebook runs on it no longer."""
        rest = [each for each in self.notebooks if each != notebook]
        self.notebook, self.others = (rest[0], rest[1:]) if rest else (None, [])

    @property
    def death(self) -> Death | None:
        """How the kernel ended, if it has; not what a restart that goes on does to it."""
        return self.failed or (None if self.ending == "restarted" else self.kernel.death)

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been queued, run or waited for input in it; 0 while something does."""
        return 0.0 if self._idle_since is None else time.monotonic() - self._idle_since

    def works(self, *, now: bool) -> None:
        """Its queue has something to do from now on, or nothing more."""
        self._idle_since = None if now else time.monotonic()
        self.ends_at = None

    def touch(self) -> None:
        """It was used beside its queue: it has been idle since now only."""
        if self._idle_since is not None:
            self.works(now=False)

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


def cause_of(end: KernelEnd) -> str:
    """How a kernel ended, as the journal has it."""
    if end.kind == "stop":
        return "ended with its server"
    if end.kind == "shutdown":
        return f"was shut down by {end.detail}" if end.detail else "was shut down"
    if end.kind == "cull":
        return f"was shut down after {end.detail} idle"
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
