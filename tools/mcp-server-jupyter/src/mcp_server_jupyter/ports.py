"""What a backend offers: the one file its author must read.

`Contents` says where notebooks live, `Kernels` where code runs; they combine freely. A backend is one module that
implements one of them; the command line selects it by name through the entry-point groups
`mcp_server_jupyter.contents` and `mcp_server_jupyter.kernels`.

Rules every backend keeps (the contract suite in `tests/contract` checks them):

* it is an async context manager that owns everything it starts;
* it raises only `errors.JupyterMcpError` and its subclasses;
* paths are POSIX, relative to the root, and never leave it.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from .settings import Settings

Channel = Literal["shell", "iopub", "stdin", "control"]
KernelState = Literal["starting", "idle", "busy", "dead"]


# --------------------------------------------------------------------------- kernels


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
class Environment:
    """A Python environment, as its files tell it: nothing in it has been run.

    `name` is what `Kernels.start` takes, `prefix` its folder, `python` its interpreter; `kind` is what made it: "venv",
    "uv", "poetry", "conda" or "pixi". `version` is "" where the files do not say. `problem` says why it cannot be used
    here, "" if it can.
    """

    name: str
    prefix: str
    python: str
    kind: str
    version: str
    has_ipykernel: bool
    problem: str = ""

    @property
    def adding_ipykernel(self) -> str:
        """The commands that give it ipykernel, first as its own tool does it."""
        prefix = shlex.quote(self.prefix)
        own = {"conda": f"conda install -p {prefix} ipykernel", "pixi": "pixi add ipykernel"}
        own["poetry"] = "poetry add --group dev ipykernel"
        ways = [own.get(self.kind, ""), f"{shlex.quote(self.python)} -m pip install ipykernel"]
        return ", or: ".join(filter(None, [*ways, f"uv pip install --python {prefix} ipykernel"]))


@dataclass(frozen=True, slots=True)
class Choice:
    """What a notebook's kernel is started with, and why.

    `name` is what `Kernels.start` takes; `where` is the interpreter, for people; `why` follows it: "the nearest
    environment with ipykernel".
    """

    name: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" if self.where else ""


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
class Renewable(Protocol):
    """What a backend offers besides that somebody else's server is reached through, by credentials that may change."""

    def renew(self, settings: Settings) -> None:
        """Use the credentials of these settings from now on; they name the same server. Nothing that runs is cut."""


@runtime_checkable
class Interpreters(Protocol):
    """What `Kernels` offer besides where notebooks and Python environments are on one machine. It reads files only.

    `environ` is the environment of whoever would start the kernel; None, the server's own.
    """

    async def choose(
        self, name: str, *, folder: str = "", language: str = "python", environ: Mapping[str, str] | None = None
    ) -> Choice:
        """What a notebook in `folder`, relative to the root, that names the kernelspec `name` runs on.

        Raises:
            NotFound: there is no such kernelspec, and the language is not Python; the message lists those there are.
        """

    async def environments(self, *, environ: Mapping[str, str] | None = None) -> Sequence[Environment]:
        """Every environment found: below and above the root, active ones, and those that conda knows; the near first.

        Those that cannot be used are among them, with their `problem`.
        """

    async def having(
        self, module: str, *, folder: str = "", environ: Mapping[str, str] | None = None
    ) -> Sequence[Environment]:
        """Those of them, and of `folder`, that could be used and hold a module; dotted names are looked up whole."""

    async def flaws(self) -> Mapping[str, Finding]:
        """What is wrong with kernelspecs, by their names, as far as can be told without starting them."""


# --------------------------------------------------------------------------- contents


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder. `size` in bytes, `modified` in seconds since the epoch."""

    path: str
    kind: Literal["notebook", "file", "directory"]
    size: int | None = None
    modified: float | None = None


class Listing(list[Entry]):
    """What `Contents.list` answers where it may be cut: `cut` says so, for people; it is "" for a whole one."""

    def __init__(self, entries: Iterable[Entry], cut: str = "") -> None:
        super().__init__(entries)
        self.cut = cut


Unless = Callable[["NotebookNode"], bool]


class OutputSink(Protocol):
    """The outputs of one run of a cell on their way into its notebook. Made by `Contents.outputs`, empty at first.

    The four steps are taken in order and cost nothing; `show` brings them into the cell. Outputs are values.
    """

    def clear(self) -> None:
        """There are none."""

    def append(self, output: NotebookNode) -> None:
        """One more."""

    def text(self, index: int, text: str, output: NotebookNode) -> None:
        """The stream output at `index` has this text more, and is `output` now."""

    def replace(self, index: int, output: NotebookNode) -> None:
        """The output at `index` is another one now."""

    async def show(self, execution_count: int | None, *, unless: Unless | None = None) -> NotebookNode | None:
        """Show in the cell what has come so far, whatever it showed before: seen by the next read, on disk soon after
        (`Contents.flush` waits for it). Returns the cell as it is then.

        Args:
            unless: asked about the cell as it is; nothing is shown, and None returned, where it says so. The same goes
                for a cell that is no code cell any more.

        Raises:
            NotFound: the cell or its notebook is gone.
            OutsideRoot, InvalidNotebook, Unavailable: it cannot be shown now; the next call shows all there is.
        """


class Contents(AbstractAsyncContextManager["Contents", None], Protocol):
    """Where notebooks live.

    Notebooks are nbformat 4 `NotebookNode`s with multi-line strings joined. Every cell has an `id`, also where the
    file's format has none: the backend then makes one up that lasts as long as the process and never writes it.

    Cells are values: an edit *replaces* a cell in `notebook.cells`, or the value of a key of the notebook's own
    metadata, and never changes one in place. So unchanged cells are known by identity, however big they are.
    """

    def resolve(self, path: str) -> str:
        """The one canonical spelling of a path: relative to the root, no `.` or `..`. The file need not exist.

        Raises:
            OutsideRoot, InvalidRequest
        """

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """Files below `path`, hidden ones and checkpoints left out, sorted by path; a `Listing` where it may be cut."""

    async def read(self, path: str) -> NotebookNode:
        """The notebook as it is now, a person's changes on disk included. Not to be changed: see `edit`.

        Raises:
            NotFound, OutsideRoot, InvalidNotebook
        """

    def edit(self, path: str, *, durable: bool = True, author: str = "") -> AbstractAsyncContextManager[NotebookNode]:
        """Change a notebook: `async with contents.edit(path) as notebook: ...`

        The body gets a copy whose `cells` list may be changed; nothing happens if it raises. Edits of one path wait
        for each other. What a person wrote meanwhile is merged, cell by cell.

        Args:
            durable: True returns when the change would survive a power cut; False may be written up to 250 ms
                later (streamed outputs), for big notebooks up to a second. `flush` waits for it.
            author: whose edit it is, for whoever shows it.

        Raises:
            Conflict: a person changed the same cell in another way; nothing was written.
            NotFound, OutsideRoot, InvalidNotebook
        """

    def outputs(self, path: str, cell_id: str) -> OutputSink:
        """Where a run of a cell puts its outputs. Takes no time, and no notice of whether they are there."""

    async def flush(self, path: str | None = None, *, urgent: bool = True) -> None:
        """Wait until everything (of `path`) that was changed before is durable.

        Args:
            urgent: False waits for the next write in its own time, so that changes in a row are written together.
        """

    async def check(self, path: str) -> None:
        """Return if the notebook could be written now, as far as that can be told without writing it.

        Raises:
            InvalidRequest: it is read-only.
            Unavailable: the disk is full.
            NotFound, OutsideRoot
        """

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """Write a new notebook, with the folders it needs.

        Raises:
            AlreadyExists, OutsideRoot, InvalidRequest
        """

    def changes(self) -> AsyncIterator[str]:
        """Paths of notebooks that changed, each once, as they happen: by us, or by others (noticed without a call)."""


@runtime_checkable
class Files(Protocol):
    """What `Contents` offer besides where notebooks are files that other programs move."""

    def identity(self, path: str) -> str:
        """What a file keeps when it is moved on its disk, and no other has at the same moment; "" where there is none.

        Every write gives it another one. PATH is as `Contents.resolve` spells it.
        """

    def taken_over(self, path: str) -> str:
        """The `identity` of what was read or made at `path`, from which what is there now came by our writes alone.

        "" where that cannot be said: nothing was read yet, or somebody else has written since. Costs one look.
        """

    async def take_in(self, path: str) -> None:
        """Have `read` give what is in the file now, also where a write of ours goes on, which shows readers its own.

        Raises:
            NotFound, OutsideRoot, InvalidNotebook
        """


# --------------------------------------------------------------------------- checks


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` looked at. `advice` says what to do when it is not fine.

    A backend's own checks are an entry point of the group `mcp_server_jupyter.checks`: a function
    `(settings) -> AsyncIterator[Finding]` that `doctor NAME` runs.
    """

    fine: bool
    text: str
    advice: str = ""

    def __str__(self) -> str:
        mark = "ok  " if self.fine else "FAIL"
        return f"{mark}  {self.text}" + (f"\n      {self.advice}" if self.advice else "")


# --------------------------------------------------------------------------- notebooks that are open in editors

EditorListener = Callable[[str, dict[str, Any], str | None], None]
"""Called with an event's kind, its data and the one window it is for, None for all; neither waits nor raises."""


class Editors(Protocol):
    """The windows' side of `Contents` that lie under editors' buffers. docs/editor-protocol.md says what they mean.

    A window is known by its id. What it has open, and the first of those who have it open owns, is the notebook.
    """

    def listen(self, listener: EditorListener) -> Callable[[], None]:
        """Call `listener` with what windows are to be told ("edit", "lease"); returns what ends it."""

    def leases(self) -> Mapping[str, str]:
        """Who owns what: windows by path."""

    def recovering(self, leases: Mapping[str, str]) -> AbstractAsyncContextManager[None]:
        """Give notebooks back to the windows that owned them when the server before this one ended.

        What is put into these notebooks meanwhile is owed to the windows, and told each at its next `open`. From the
        end on they are waited for as windows are whose stream was lost.
        """

    def hand_over(self) -> None:
        """The next server waits for the windows that are here now: what they have not saved is not written any more,
        so that no newer file is in the way of their own saving."""

    def is_shared(self, path: str) -> bool:
        """False if its owner runs it on a kernel that is not ours."""

    @property
    def is_anybody_here(self) -> bool:
        """Whether any window has a stream."""

    def joined(self, window: str) -> None:
        """A window has a stream."""

    def left(self, window: str) -> None:
        """A window's stream was lost: what it owns waits for it."""

    async def open(
        self, window: str, path: str, *, shared: bool = True, notebook: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A window has a notebook open, with what it has of it where that is not the file's. Answers what to do.

        Raises:
            NotFound, OutsideRoot, InvalidNotebook, InvalidRequest
        """

    async def change(self, window: str, path: str, *, base: int, version: int, ops: Sequence[Mapping[str, Any]]) -> int:
        """The person has changed a notebook; the version the server knows then.

        Raises:
            Stale: that does not fit what the server knows: the window opens the notebook again.
            InvalidRequest: that is no change.
        """

    async def saved(self, window: str, path: str, version: int) -> int:
        """A window has saved a notebook."""

    async def renamed(self, window: str, path: str, to: str) -> tuple[str, str]:
        """A window has given a notebook another path; both paths in their canonical spelling."""

    async def close(self, window: str, path: str) -> None:
        """A window has closed a notebook: it is another window's, or the file's, which gets what it lacks."""

    def reply(self, window: str, request_id: str, *, is_applied: bool, version: int) -> int:
        """What became of an edit that a window was asked for.

        Raises:
            Stale: nobody waits for it any more.
        """
