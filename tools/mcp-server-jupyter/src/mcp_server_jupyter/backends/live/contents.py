"""Notebooks that are open in an editor, over wherever notebooks live.

While a window owns a notebook, its buffer is the notebook: reads give it, and an edit is one request to the window.
The file is written by the window alone, so that nothing is in the way of what the person has not saved. What others
have done and the window has not saved is owed to the file, and written there once the window is gone. What goes over
the wire is in docs/editor-protocol.md.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio
import anyio.abc

from ... import notebooks
from ...errors import JupyterMcpError, Unavailable
from ...ports import Contents, Entry, Renewable, Unless
from ...settings import Settings
from ..shared.changes import Changes
from ..shared.edited_outputs import OutputList, put_outputs
from .document import Document
from .ops import edit_ops
from .windows import Windows

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ...ports import OutputSink

logger = logging.getLogger(__name__)

_ATTEMPTS = 20
_SETTLE_SECONDS = 30.0
_RETRY_SECONDS = 1.0


class LiveContents:
    """`Contents` over others, with the buffers of editors' windows over these. `windows` is the editors' side."""

    def __init__(self, below: Contents) -> None:
        self.below = below
        self._documents: dict[str, Document] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._changes = Changes()
        self._stack = contextlib.AsyncExitStack()
        self._is_followed = False
        self._tasks: anyio.abc.TaskGroup
        self.is_handed_over = False
        """The next server goes on with the windows: files are left as they are."""
        self.windows = Windows(self)

    async def __aenter__(self) -> LiveContents:
        await self._stack.enter_async_context(self.below)
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):
                for document in [each for each in self._documents.values() if not each.is_live]:
                    await self.write_owed(document, tries=1)
        finally:
            self._changes.close()
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()

    def renew(self, settings: Settings) -> None:
        """See `ports.Renewable.renew`."""
        if isinstance(self.below, Renewable):
            self.below.renew(settings)

    # ----------------------------------------------------------------- the port

    def resolve(self, path: str) -> str:
        """See `ports.Contents.resolve`."""
        return self.below.resolve(path)

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """See `ports.Contents.list`."""
        return await self.below.list(path, recursive=recursive)

    async def read(self, path: str) -> NotebookNode:
        """See `ports.Contents.read`."""
        document = self._documents.get(self.resolve(path)) if self._documents else None
        return await self.below.read(path) if document is None else document.buffer

    @contextlib.asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True, author: str = "") -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`. Of a notebook that a window owns, it is durable once the window has acknowledged
        it: whatever becomes of the window, the file gets it.

        Raises:
            Unavailable: the window does not answer.
        """
        name = self.resolve(path)
        async with self.lock(name):
            document = await self._settled(name)
            if document is None:
                async with self.below.edit(name, durable=durable, author=author) as notebook:
                    yield notebook
                return
            before = document.buffer
            copy = notebooks.shallow(before, cells=list(before.cells))
            copy["metadata"] = notebooks.shallow(before.metadata)
            yield copy
            wanted = notebooks.settle(copy, before.cells)
            if document.is_recovered:
                document.recovered(wanted)
                self.tell(name)
            else:
                await self._ask(document, before, wanted, author)

    def outputs(self, path: str, cell_id: str) -> LiveOutputs:
        """See `ports.Contents.outputs`."""
        return LiveOutputs(self, self.resolve(path), cell_id)

    async def flush(self, path: str | None = None, *, urgent: bool = True) -> None:
        """See `ports.Contents.flush`. What a window has is durable once it is saved: only whoever is in no hurry waits
        for that."""
        if path is None:
            documents = list(self._documents.values())
        else:
            name = self.resolve(path)
            documents = [self._documents[name]] if name in self._documents else []
        for document in documents:
            if urgent and not document.is_live:
                await self.write_owed(document, tries=1)
            if urgent and self.is_handed_over and document.is_owed:
                raise Unavailable(f"The editor that has {document.path!r} open has not saved it yet.")
            while not urgent and document.is_owed and self._documents.get(document.path) is document:
                await document.news.wait()
        await self.below.flush(path, urgent=urgent)

    async def check(self, path: str) -> None:
        """See `ports.Contents.check`."""
        if self.resolve(path) not in self._documents:
            await self.below.check(path)

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """See `ports.Contents.create`."""
        await self.below.create(path, notebook)

    def changes(self) -> AsyncIterator[str]:
        """See `ports.Contents.changes`."""
        if not self._is_followed:
            self._is_followed = True
            self._tasks.start_soon(self._follow, self.below.changes())
        return self._changes.subscribe()

    async def _follow(self, changes: AsyncIterator[str]) -> None:
        async for path in changes:
            self._changes.tell(path)

    # ----------------------------------------------------------------- what is open

    @property
    def documents(self) -> dict[str, Document]:
        """What windows have open, by path."""
        return self._documents

    def lock(self, name: str) -> anyio.Lock:
        """Held by whoever edits a notebook, or takes it into a window for the first time."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = anyio.Lock(fast_acquire=True)
        return lock

    def tell(self, name: str) -> None:
        """Readers would see something else now."""
        self._changes.tell(name)

    def start_soon(self, function: Any, *arguments: Any) -> None:
        """Run a task as long as these contents are open."""
        self._tasks.start_soon(function, *arguments)

    async def _settled(self, name: str) -> Document | None:
        """The document whose window answers; None where nobody owns the notebook. Waits for a window that is away."""
        with anyio.move_on_after(_SETTLE_SECONDS):
            while (document := self._documents.get(name)) is not None:
                if document.is_live or document.is_recovered:
                    return document
                await document.news.wait()
            return None
        raise Unavailable(
            f"The editor that has {name!r} open does not answer.",
            hint="Look at its window, or close the notebook there.",
        )

    async def _ask(self, document: Document, before: NotebookNode, wanted: NotebookNode, author: str) -> None:
        """Have the window apply an edit. What is typed meanwhile is merged; a clash is a `Conflict`."""
        name = document.path
        for _ in range(_ATTEMPTS):
            current = await self._settled(name)
            if current is None:
                await self._edit_below(name, before, wanted, author)
                return
            document, now = current, current.buffer
            wanted = wanted if now is before else notebooks.merge(before, wanted, now)
            before = now
            ops = edit_ops(now, wanted)
            if not ops:
                return
            try:
                outcome = await self.windows.request(document, ops, author)
            except Unavailable:
                document.given_up.append((now, wanted))
                raise
            if outcome == "applied":
                self.tell(name)
                return
        raise Unavailable(f"{name!r} changes all the time in the editor.", hint="Try again.")

    async def _edit_below(self, name: str, before: NotebookNode, wanted: NotebookNode, author: str) -> None:
        """The window has gone while it was asked: the edit is made in the file."""
        async with self.below.edit(name, author=author) as notebook:
            _become(notebook, notebooks.merge(before, wanted, notebooks.shallow(notebook, cells=list(notebook.cells))))

    # ----------------------------------------------------------------- what is owed to the file

    async def write_owed(self, document: Document, *, tries: int | None = None) -> None:
        """Merge what the window has not saved of others' doings into the file, and give the notebook up.

        Args:
            tries: how often, a second apart; None, until it is written.
        """
        if self.is_handed_over:
            return
        while document.is_owed and not document.is_live and self._documents.get(document.path) is document:
            saved, owed = document.saved, document.owed
            try:
                async with self.below.edit(document.path) as notebook:
                    file = notebooks.shallow(notebook, cells=list(notebook.cells))
                    file = notebooks.merge(saved, owed, file, on_conflict=lambda _: None)
                    _become(notebook, file)
            except Unavailable as error:
                logger.warning("what the editor has not saved of %s waits for the disk: %s", document.path, error)
                tries = None if tries is None else tries - 1
                if tries == 0:
                    return
                await anyio.sleep(_RETRY_SECONDS)
            except JupyterMcpError as error:
                logger.warning("what the editor has not saved of %s is lost: %s", document.path, error)
                break
            else:
                is_whole = document.owed is owed
                document.saved = file if is_whole else owed
                document.owed = file if is_whole else document.owed
        if not document.is_live:
            self.windows.forget(document)


def _become(notebook: NotebookNode, other: NotebookNode) -> None:
    """Change a notebook that may be changed into another one."""
    notebook["cells"] = list(other.cells)
    notebook["metadata"] = other.metadata


class LiveOutputs(OutputList):
    """See `ports.OutputSink`: into the buffer of the window that owns the notebook, which is told them by its stream;
    where there is none, into the sink below."""

    def __init__(self, contents: LiveContents, name: str, cell_id: str) -> None:
        super().__init__()
        self._contents = contents
        self._name = name
        self._cell_id = cell_id
        self._below: OutputSink = contents.below.outputs(name, cell_id)

    def clear(self) -> None:
        super().clear()
        self._below.clear()

    def append(self, output: NotebookNode) -> None:
        super().append(output)
        self._below.append(output)

    def text(self, index: int, text: str, output: NotebookNode) -> None:
        super().text(index, text, output)
        self._below.text(index, text, output)

    def replace(self, index: int, output: NotebookNode) -> None:
        super().replace(index, output)
        self._below.replace(index, output)

    async def show(
        self, execution_count: int | None, *, unless: Unless | None = None, is_running: bool = False
    ) -> NotebookNode | None:
        """See `ports.OutputSink.show`."""
        contents, name = self._contents, self._name
        if name not in contents.documents:
            # Not while a window takes the notebook: it would have what the file had before.
            async with contents.lock(name):
                if name not in contents.documents:
                    return await self._below.show(execution_count, unless=unless, is_running=is_running)
        document = contents.documents[name]
        changed = notebooks.shallow(document.buffer, cells=list(document.buffer.cells))
        cell = put_outputs(changed, self._cell_id, self.outputs, execution_count, unless)
        if cell is not None:
            document.show(self._cell_id, changed)
            contents.tell(name)
        return cell
