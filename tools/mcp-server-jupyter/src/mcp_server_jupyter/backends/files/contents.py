"""Notebooks as files below a root folder: the default `Contents`.

A notebook that was read stays in memory with its exact bytes, so that an edit costs one splice and one write. The
file is the authority: its version is checked before every use, and what another program wrote is merged in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from ... import notebooks
from ...errors import Conflict, InvalidNotebook, JupyterMcpError, NotFound
from ...ports import Entry
from ...settings import Settings
from . import disk
from . import text as notebook_text
from .changes import Changes
from .disk import Snapshot
from .listing import list_entries
from .text import Document

if TYPE_CHECKING:
    from nbformat import NotebookNode

T = TypeVar("T")

INLINE_BYTES = 256 * 1024
HALF_WRITTEN_SECONDS = 1.0
DELAY_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 0.02
_ATTEMPTS = 20
_UNLOCKED_ATTEMPTS = 1
_CACHE_BYTES = 256 * 2**20


class _Open:
    """One notebook in memory. `saved` is the file as last read or written, `notebook` what readers see.

    Edits hold `editing`; whoever writes the file holds `writing`, and takes `editing` first if it wants both.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.editing = anyio.Lock()
        self.writing = anyio.Lock()
        self.saved: Document | None = None
        self.snapshot: Snapshot | None = None
        self.notebook: NotebookNode | None = None
        self.problems: list[JupyterMcpError] = []
        self.background = False
        self.ids: Document | None = None

    @property
    def dirty(self) -> bool:
        return self.saved is not None and self.notebook is not self.saved.notebook

    @property
    def size(self) -> int:
        return 0 if self.snapshot is None else self.snapshot.version.size

    def hold(self, saved: Document, snapshot: Snapshot, notebook: NotebookNode | None = None) -> None:
        if self.snapshot is not None:
            self.snapshot.close()
        self.saved, self.snapshot = saved, snapshot
        self.notebook = saved.notebook if notebook is None else notebook

    def forget(self) -> None:
        if self.snapshot is not None:
            self.snapshot.close()
        self.saved = self.snapshot = self.notebook = None


class FilesContents:
    """`Contents` on disk. Made by `open_contents`."""

    def __init__(self, settings: Settings) -> None:
        self.root = Path(os.path.realpath(settings.root))
        self.limit = settings.max_notebook_bytes
        self._open: dict[Path, _Open] = {}
        self._changes = Changes()
        self._swept: set[Path] = set()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> FilesContents:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with anyio.CancelScope(shield=True), contextlib.suppress(*((JupyterMcpError,) if error else ())):
                await self.flush()
        finally:
            self._changes.close()
            for state in self._open.values():
                state.forget()
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()

    # ----------------------------------------------------------------- the port

    def resolve(self, path: str) -> str:
        """The one spelling of a notebook's path: relative to the root, links followed.

        Raises:
            InvalidRequest, OutsideRoot
        """
        return disk.resolve_notebook(self.root, path).relative_to(self.root).as_posix()

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """See `ports.Contents.list`.

        Raises:
            NotFound, OutsideRoot
        """
        folder = disk.resolve(self.root, path)
        return await anyio.to_thread.run_sync(list_entries, self.root, folder, path, recursive)

    async def read(self, path: str) -> NotebookNode:
        """See `ports.Contents.read`. Does not wait for a write that goes on."""
        state = self._state(path)
        if state.notebook is None or not (state.writing.locked() or self._is_current(state)):
            async with state.editing:
                return await self._refresh(state)
        return state.notebook

    @contextlib.asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True) -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`."""
        state = self._state(path)
        async with state.editing:
            before = await self._refresh(state)
            assert state.saved is not None
            notebook_text.require_editable(state.saved)
            copy = notebooks.shallow(before, cells=list(before.cells))
            copy["metadata"] = notebooks.shallow(before.metadata)
            yield copy
            after = notebook_text.settle(copy, before.cells)
            if durable:
                with anyio.CancelScope(shield=True):
                    await self._save(state, before, after)
            else:
                state.notebook = after
                self._write_later(state)
        self._changes.tell(state.name)

    async def flush(self, path: str | None = None) -> None:
        """See `ports.Contents.flush`.

        Raises:
            Conflict: a pending source change was given up for a person's.
            NotFound: the file was deleted; pending outputs are gone with it.
            JupyterMcpError: it cannot be written now; the change stays pending.
        """
        problems: list[JupyterMcpError] = []
        for state in list(self._open.values()) if path is None else [self._state(path)]:
            async with state.editing:
                try:
                    if state.dirty:
                        await self._save_pending(state)
                except JupyterMcpError as problem:
                    problems.append(problem)
                problems += state.problems
                state.problems = []
        if problems:
            raise problems[0]

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """See `ports.Contents.create`."""
        target = disk.resolve_notebook(self.root, path)
        state = self._state(path)
        settled = notebook_text.settle(notebook, ())
        async with state.editing:
            with disk.translated(state.name):
                data = notebook_text.render(settled)
                disk.check_size(state.name, len(data), self.limit)
                snapshot = await _run(len(data), lambda: disk.create(target, data))
            state.hold(notebook_text.parse(data), snapshot)
        self._changes.tell(state.name)

    def changes(self) -> AsyncIterator[str]:
        """See `ports.Contents.changes`."""
        return self._changes.subscribe()

    # ----------------------------------------------------------------- reading

    def _state(self, path: str) -> _Open:
        real = disk.resolve_notebook(self.root, path)
        state = self._open.get(real)
        if state is None:
            state = self._open[real] = _Open(real, real.relative_to(self.root).as_posix())
        return state

    def _is_current(self, state: _Open) -> bool:
        try:
            return state.snapshot is not None and disk.version_of(state.path) == state.snapshot.version
        except OSError:
            return False

    async def _refresh(self, state: _Open) -> NotebookNode:
        """The notebook with what is on disk merged in; the caller holds `editing`."""
        if state.notebook is not None and (state.writing.locked() or self._is_current(state)):
            return state.notebook
        async with state.writing:
            return await self._reload(state)

    async def _reload(self, state: _Open) -> NotebookNode:
        try:
            with disk.translated(state.name):
                document, snapshot = await self._load(state)
        except NotFound:
            self._vanished(state)
            raise
        if state.saved is None or state.notebook is None:
            state.hold(document, snapshot)
            self._make_room(state)
            return document.notebook
        notebook = document.notebook
        if state.dirty:
            notebook = notebooks.merge(
                state.saved.notebook, state.notebook, document.notebook, on_conflict=state.problems.append
            )
        changed = document is not state.saved
        state.hold(document, snapshot, notebook)
        if changed:
            self._changes.tell(state.name)
        return notebook

    async def _load(self, state: _Open) -> tuple[Document, Snapshot]:
        """Read and parse. A file that is being written in place gets a second to become a notebook."""
        give_up = anyio.current_time() + HALF_WRITTEN_SECONDS
        previous = state.saved or state.ids
        if state.path.parent not in self._swept:
            self._swept.add(state.path.parent)
            await anyio.to_thread.run_sync(disk.sweep, state.path.parent)
        while True:
            version = disk.version_of(state.path)
            try:
                return await _run(version.size, lambda: self._read(state.path, previous))
            except InvalidNotebook:
                with disk.translated(state.name):
                    if anyio.current_time() > give_up or not disk.is_fresh(state.path, HALF_WRITTEN_SECONDS):
                        raise
            await anyio.sleep(_POLL_SECONDS)

    def _read(self, path: Path, previous: Document | None) -> tuple[Document, Snapshot]:
        data, snapshot = disk.read(path, self.limit)
        if previous is not None and previous.data() == data:
            return previous, snapshot
        try:
            return notebook_text.parse(data, previous), snapshot
        except JupyterMcpError:
            snapshot.close()
            raise

    def _vanished(self, state: _Open) -> None:
        if state.dirty:
            state.problems.append(
                NotFound(
                    f"{state.name!r} was deleted; what had not been written yet is gone with it.",
                    hint="Create the notebook again, or go on with another.",
                )
            )
        if state.saved is not None:
            self._changes.tell(state.name)
        state.forget()
        if not (state.problems or state.background or state.editing.statistics().tasks_waiting):
            self._open.pop(state.path, None)

    def _make_room(self, latest: _Open) -> None:
        """Drop the notebooks opened longest ago once all together are too big; their made-up ids are kept."""
        total = sum(state.size for state in self._open.values())
        for state in list(self._open.values()):
            if total <= _CACHE_BYTES:
                return
            if state is latest or state.dirty or state.editing.locked() or state.writing.locked():
                continue
            total -= state.size
            if state.saved is not None:
                state.ids = state.saved.without_bytes()
            state.forget()

    # ----------------------------------------------------------------- writing

    async def _save(self, state: _Open, before: NotebookNode, after: NotebookNode) -> None:
        """Write an edit; the caller holds `editing`. On a conflict nothing of it stays."""
        async with state.writing:
            for attempt in range(_ATTEMPTS):
                with contextlib.ExitStack() as stack:
                    is_locked = attempt >= _UNLOCKED_ATTEMPTS
                    if is_locked:
                        with disk.translated(state.name):
                            await anyio.to_thread.run_sync(stack.enter_context, disk.locked(state.path))
                    if attempt:
                        now = await self._reload(state)
                        after = notebooks.merge(before, after, now)
                        before = now
                    with contextlib.suppress(disk.Changed):
                        await self._write(state, after, is_locked)
                        return
        raise Conflict(f"{state.name!r} changes all the time.", hint="Stop the program that writes it, try again.")

    async def _save_pending(self, state: _Open) -> None:
        assert state.notebook is not None
        with anyio.CancelScope(shield=True):
            try:
                await self._save(state, state.notebook, state.notebook)
            except NotFound:
                if state.saved is not None:
                    self._vanished(state)

    async def _write(self, state: _Open, notebook: NotebookNode, is_locked: bool = False) -> None:
        """Write a state of the notebook if the file is still the one that was read; the caller holds `writing`."""
        saved, snapshot = state.saved, state.snapshot
        assert saved is not None
        assert snapshot is not None
        seen = state.notebook

        def write(wait: bool) -> tuple[Document, Snapshot]:
            document = notebook_text.splice(saved, notebook)
            data = document.data()
            disk.check_size(state.name, len(data), self.limit)
            return document, disk.replace(state.path, data, snapshot.version, is_locked=is_locked, wait=wait)

        with disk.translated(state.name):
            try:
                document, written = await _run(state.size, lambda: write(state.size >= INLINE_BYTES))
            except BlockingIOError:
                document, written = await anyio.to_thread.run_sync(write, True)
        pending = state.notebook if state.notebook is not seen else None
        state.hold(document, written, pending)

    def _write_later(self, state: _Open) -> None:
        if not state.background:
            state.background = True
            self._tasks.start_soon(self._write_in_background, state)

    async def _write_in_background(self, state: _Open) -> None:
        """Write pending changes until there are none; the pause grows with what a write costs."""
        pause = DELAY_SECONDS
        try:
            while state.dirty:
                await anyio.sleep(pause)
                started = anyio.current_time()
                try:
                    await self._write_pending(state)
                except JupyterMcpError:
                    pause = _RETRY_SECONDS  # the change is still pending: flush tries it again and tells
                else:
                    pause = max(DELAY_SECONDS, 3 * (anyio.current_time() - started))
        finally:
            state.background = False

    async def _write_pending(self, state: _Open) -> None:
        with anyio.CancelScope(shield=True):
            async with state.writing:
                if not state.dirty or state.notebook is None:
                    return
                with contextlib.suppress(disk.Changed):
                    await self._write(state, state.notebook)
                    return
            async with state.editing:
                if state.dirty:
                    await self._save_pending(state)


async def _run(size: int, work: Callable[[], T]) -> T:
    """Small files are handled at once, which is faster than a thread; big ones do not hold up the loop."""
    return work() if size < INLINE_BYTES else await anyio.to_thread.run_sync(work)


def open_contents(settings: Settings) -> FilesContents:
    """The backend `files`: notebooks on disk below `settings.root`."""
    return FilesContents(settings)
