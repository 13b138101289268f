"""Where notebooks live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nbformat import NotebookNode


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

    async def show(
        self, execution_count: int | None, *, unless: Unless | None = None, is_running: bool = False
    ) -> NotebookNode | None:
        """Show in the cell what has come so far, whatever it showed before: seen by the next read, on disk soon after
        (`Contents.flush` waits for it). Returns the cell as it is then.

        Args:
            unless: asked about the cell as it is; nothing is shown, and None returned, where it says so. The same goes
                for a cell that is no code cell any more.
            is_running: more may follow. A place that keeps whatever it has shown may then show less, and later.

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
