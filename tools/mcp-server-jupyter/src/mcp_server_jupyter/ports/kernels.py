"""Where code runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..settings import Settings

Channel = Literal["shell", "iopub", "stdin", "control"]
KernelState = Literal["starting", "idle", "busy", "dead"]


@dataclass(slots=True)
class Message:
    """One message of the Jupyter protocol (jupyter-client docs, "Messaging in Jupyter"), already verified."""

    channel: Channel
    msg_type: str
    msg_id: str
    parent_id: str
    content: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    buffers: Sequence[bytes | memoryview] = ()


@dataclass(frozen=True, slots=True)
class Kernelspec:
    """One way to start a kernel. `name` is what `start` takes; `source` is "jupyter", "environment" or "profile"."""

    name: str
    display_name: str
    language: str
    argv: tuple[str, ...]
    source: str = "jupyter"


@dataclass(frozen=True, slots=True)
class Death:
    """How a kernel ended. `exit_code` is negative for a signal; `reason` is for people: "out of memory", "SIGKILL"."""

    exit_code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class KernelStats:
    """What listings show. `memory_bytes` is the resident set of the kernel and its children, None when unknown.

    `limit_bytes` is the memory it may have, maybe shared with others, None where only the machine's limits it; `where`
    it runs (a pod and its node) is for people, empty for this machine.
    """

    memory_bytes: int | None = None
    pid: int | None = None
    limit_bytes: int | None = None
    where: str = ""


@dataclass(slots=True)
class Replay:
    """A running or finished request met again after a restart of the server.

    `messages` yields the request's messages from the first recorded one on, then live ones, and ends as
    `Kernel.request` does. `complete` is False when some of them were lost; `lost` then says what, for people.
    `received` is False when the kernel is known never to have had the request, which may then be sent again.
    `uncertain` is True where nobody knows what is missing: how the request ended is not known then either.
    All but `messages` is final once those have ended.
    """

    messages: AsyncIterator[Message]
    complete: bool
    lost: str = ""
    received: bool = True
    uncertain: bool = False


@runtime_checkable
class Kernel(Protocol):
    """One running kernel. Its channels are read by one reader each, which dispatches on the parent id."""

    @property
    def id(self) -> str:
        """Stable over restarts of the kernel and of the server."""

    @property
    def name(self) -> str:
        """The kernelspec's name."""

    @property
    def language(self) -> str: ...

    @property
    def cwd(self) -> str: ...

    @property
    def epoch(self) -> int:
        """What `start` was given (1) for the first process, one more after every restart: a new epoch has lost all
        variables."""

    @property
    def state(self) -> KernelState: ...

    @property
    def death(self) -> Death | None:
        """How it ended, once `state` is "dead"."""

    @property
    def unreachable_since(self) -> float | None:
        """Seconds since the epoch at which a living kernel was last heard of, while it cannot be reached; else None.

        Unreachable is not dead: requests and everything else that needs the kernel wait until it is reached again, and
        lose nothing. Always None where kernels cannot be out of reach.
        """

    @property
    def foreign_since(self) -> float | None:
        """Seconds since the epoch at which code that is not ours began to run in it, while it does; else None.

        Our requests wait until it has ended. Always None where nobody else can use the kernel.
        """

    @property
    def is_recorded(self) -> bool:
        """Whether what it publishes is kept while no server runs.

        If not, whoever runs code keeps the messages and hands them to `resume`.
        """

    @property
    def ends_with_server(self) -> bool:
        """Whether it ends when the backend's context does, unless it is released: not where it is somebody else's."""

    def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        channel: Literal["shell", "control"] = "shell",
        msg_id: str | None = None,
    ) -> AsyncIterator[Message]:
        """Send one request and yield every message it causes, on any channel, in the order of each channel.

        Ends after the reply and (on shell) the idle status have come; comm messages have no reply. `msg_id` may be
        given, so that it can be written down before it is sent. Closing the iterator early stops listening, not the
        kernel.

        A message of type `lost` on iopub is the backend's own: what its `text` says was lost of this request's output.

        Raises:
            KernelDead: the kernel ended before the request did (within 2 s of its death), or was dead already.
        """

    def stray(self) -> AsyncIterator[Message]:
        """Iopub messages of execute requests that have ended: what threads and tasks print later.

        `parent_id` names the request, also one of an earlier server or one whose iterator was closed, or one for
        kernel_info, which a kernel takes for the parent of what threads print after it; status messages are left out.
        Has one reader at a time and ends with this epoch's process: call it again after a restart. What came since the
        epoch began is kept until it is taken, within bounds; then the oldest are dropped.
        """

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an `input_request` (a Message of channel "stdin")."""

    async def interrupt(self, msg_id: str | None = None) -> None:
        """Interrupt what runs (signal or message, as the kernelspec says), and wake an idle event loop.

        Returns within seconds, also when the kernel is stuck and takes no notice; `restart` then helps.

        Args:
            msg_id: the one request that is meant. Somebody else's code is left alone then: a request that waits behind
                it is not run, or is interrupted when it begins. None interrupts whatever runs.

        Raises:
            KernelDead, Unavailable
        """

    async def restart(self) -> None:
        """End the process, start a new one with the same id; `epoch` rises. Works on a dead kernel too.

        Raises:
            NotFound: its kernelspec or its folder is there no more; the process still runs.
            Unavailable: it was dead, and there are `max_kernels` others; or it cannot be started now.
            KernelStartFailed
        """

    async def shutdown(self) -> None:
        """End the process: a request first, then signals. Idempotent. Cancelled, it ends the process at once.

        Raises:
            Unavailable, Unauthorized: whoever has the process does not end it; the kernel is as it was.
        """

    async def wait_dead(self) -> Death:
        """Return when this epoch's process has ended unasked (not for `restart` or `shutdown`).

        Where others may restart a kernel, the next one may run by then: `death` is None and `epoch` has risen. The
        death's reason then reads after "the kernel was": "restarted by somebody else".
        """

    async def stats(self) -> KernelStats: ...

    async def resume(self, msg_id: str, had: Sequence[Message] = ()) -> Replay:
        """Meet a request again that an earlier server sent.

        Args:
            had: where the kernel is not recorded, the messages that were kept of it, in their order; they come first.
        """


class Kernels(AbstractAsyncContextManager["Kernels", None], Protocol):
    """Where code runs."""

    async def specs(self) -> Sequence[Kernelspec]:
        """Everything `start` accepts: kernelspecs and the virtual environments found."""

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """Return once no other server holds these kernels; at once where the lock on the state is enough.

        Called after the context is entered, which must be quick and need nobody, and before anything is adopted or
        started: the journal and the state are opened after it. `waiting(why)` is called when it has to wait, and again
        when the reason changes; `why` is for people: "held by server-5f4d (10.244.0.7)". The caller may give it up by
        cancelling, so no cancel scope that it enters may outlive it.

        Raises:
            Unavailable: it can never be had as things are, e.g. access is denied.
        """

    async def superseded(self) -> str:
        """Return once another server has taken the kernels, with its name; never where that cannot be.

        Whoever called `lead` ends at once then: the kernels run on, and nothing more is written anywhere.
        """

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> Kernel:
        """Start a kernel and return once it answers, which may take minutes. Cancelled, it leaves nothing behind.

        Args:
            name: a kernelspec's name, or the path of a Python interpreter that has ipykernel.
            cwd: a folder relative to the root; absent, the root.
            env: the environment the kernel inherits, whole; None, the server's own. The kernelspec's comes on top.
            epoch: of its first process; more than 1 for a kernel that replaces one that is gone.
            progress: told the stage whenever it changes, in words that follow "The kernel is starting:", e.g. "waiting
                for a node: 0/3 nodes have enough memory".
            notebook: the notebook it is for. Where others see that, and it has a kernel already, that is returned: a
                notebook never gets a second one.

        Raises:
            NotFound: no such kernelspec; the message lists those there are.
            Unavailable: there are `max_kernels` living ones already, or the system has no room or no descriptor left.
            KernelStartFailed: it did not come up; carries the end of its log.
        """

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> Kernel | None:
        """The kernel that a notebook has already, whoever started it; None if it has none, or only we can start one.

        Args:
            notebook: its path relative to the root.
            epoch: of a kernel that is met for the first time; one that is known keeps its own.

        Raises:
            Unavailable: that cannot be asked now.
            Unauthorized
        """

    async def adopt(self) -> Sequence[Kernel]:
        """Kernels an earlier server of the same state directory left, taken over with their state.

        Those that have ended meanwhile are among them: `state` is "dead", `death` says how they ended as far as that is
        known, `wait_dead` returns at once and `resume` answers what had been recorded. They can be restarted, which
        raises their epoch, and are kept, for a later server too, until they are restarted or shut down.

        Those that cannot be reached now are among them, too, with `unreachable_since`; nobody waits for them here.

        Raises:
            Unavailable: a record cannot be read now. All kernels are left as they were.
        """

    async def release(self) -> None:
        """Leave the kernels running when the context ends, for the next server to adopt.

        Adopted kernels are also left when an exception ends the context: a server that fails to start takes nobody's
        variables with it.
        """


@runtime_checkable
class Joinable(Protocol):
    """What `Kernels` offer besides that are others' as well: a notebook can be given a kernel that they started."""

    async def join(self, notebook: str, kernel_id: str) -> None:
        """Make a kernel that is there the notebook's, for everybody; `of_notebook` answers it from now on.

        Raises:
            NotFound: there is no such kernel.
            AlreadyExists: the notebook has another one.
            Unavailable, Unauthorized
        """


@runtime_checkable
class Warmed(Protocol):
    """What `Kernels` offer besides that keep kernels ready for whoever comes first."""

    @property
    def waiting(self) -> int:
        """How many kernels wait for their first user. `start` takes one of them where it can."""


@runtime_checkable
class Renewable(Protocol):
    """What a backend offers besides that somebody else's server is reached through, by credentials that may change."""

    def renew(self, settings: Settings) -> None:
        """Use the credentials of these settings from now on; they name the same server. Nothing that runs is cut."""
