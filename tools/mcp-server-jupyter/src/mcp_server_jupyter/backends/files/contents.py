"""Notebooks as files below a root folder: the default `Contents`.

A notebook that was read stays in memory with its exact bytes, so that an edit costs one splice and one write. The
file is the authority: its version is checked before every use, and what another program wrote is merged in. No file
stays open.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from ... import notebooks
from ...errors import JupyterMcpError
from ...ports import Entry
from ...settings import Settings
from ..shared.changes import Changes
from ..shared.edited_outputs import EditedOutputs
from . import disk, locks, paths
from . import text as notebook_text
from .listing import list_entries
from .notebook import Folder, OpenNotebook
from .text import Document
from .watch import watch

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20
_CACHE_NOTEBOOKS = 128


class FilesContents:
    """`Contents` on disk. Made by `open_contents`."""

    def __init__(self, settings: Settings) -> None:
        self.root = Path(os.path.realpath(settings.root))
        self._limit = settings.max_notebook_bytes
        self._open: OrderedDict[Path, OpenNotebook] = OrderedDict()
        self._ids: dict[Path, Document] = {}
        self._changes = Changes()
        self._swept: set[Path] = set()
        self._is_watched = False
        self._stack = contextlib.AsyncExitStack()
        self._folder: Folder

    async def __aenter__(self) -> FilesContents:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._folder = Folder(self.root, self._limit, tasks, self._changes.tell)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with anyio.CancelScope(shield=True), contextlib.suppress(*((JupyterMcpError,) if error else ())):
                await self.flush()
        finally:
            self._changes.close()
            self._open.clear()
            self._folder.tasks.cancel_scope.cancel()
            await self._stack.aclose()

    # ----------------------------------------------------------------- the port

    def resolve(self, path: str) -> str:
        """The one spelling of a notebook's path: relative to the root, links followed.

        Raises:
            InvalidRequest, OutsideRoot
        """
        return paths.resolve_notebook(self.root, path).relative_to(self.root).as_posix()

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """See `ports.Contents.list`.

        Raises:
            InvalidRequest, NotFound, OutsideRoot
        """
        folder = paths.resolve(self.root, path)
        return await anyio.to_thread.run_sync(list_entries, self.root, folder, path, recursive)

    async def read(self, path: str) -> NotebookNode:
        """See `ports.Contents.read`. Does not wait for a write that goes on."""
        with self._using(path) as state:
            if (seen := state.seen) is not None:
                return seen
            async with state.editing:
                return await self._refreshed(state)

    @contextlib.asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True, author: str = "") -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`."""
        with self._using(path) as state:
            async with state.editing:
                before = await self._refreshed(state)
                assert state.saved is not None
                notebook_text.require_editable(state.saved)
                copy = notebooks.shallow(before, cells=list(before.cells))
                copy["metadata"] = notebooks.shallow(before.metadata)
                yield copy
                after = notebooks.settle(copy, before.cells)
                if durable:
                    with anyio.CancelScope(shield=True):
                        await state.save(before, after)
                else:
                    state.save_later(after)
            self._changes.tell(state.name)

    def outputs(self, path: str, cell_id: str) -> EditedOutputs:
        """See `ports.Contents.outputs`."""
        return EditedOutputs(self, path, cell_id)

    async def flush(self, path: str | None = None, *, urgent: bool = True) -> None:
        """See `ports.Contents.flush`.

        Raises:
            Conflict: a pending source change was given up for a person's.
            NotFound: the file was deleted; pending outputs are gone with it.
            JupyterMcpError: it cannot be written now; the change stays pending.
        """
        problems: list[JupyterMcpError] = []
        for state in list(self._open.values()) if path is None else [self._state(path)]:
            try:
                await (state.flush() if urgent else state.flushed())
            except JupyterMcpError as problem:
                problems.append(problem)
            self._let_go(state)
        if problems:
            raise problems[0]

    async def check(self, path: str) -> None:
        """See `ports.Contents.check`."""
        with self._using(path) as state, paths.translated(state.name):
            disk.check_writable(state.path)

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """See `ports.Contents.create`."""
        settled = notebooks.settle(notebook, ())
        with self._using(path) as state:
            async with state.editing:
                await state.create(settled)
            self._changes.tell(state.name)

    def identity(self, path: str) -> str:
        """See `ports.Files.identity`."""
        try:
            # Every call asks this: links on the way are followed when something is read, which checks them.
            return disk.version_of(self.root / path).identity
        except (OSError, ValueError, JupyterMcpError):
            return ""

    def taken_over(self, path: str) -> str:
        """See `ports.Files.taken_over`."""
        # Spelled by `resolve`: no link leads elsewhere, or what is read next finds it.
        state = self._open.get(self.root / path)
        return state.taken_over if state is not None else ""

    async def take_in(self, path: str) -> None:
        """See `ports.Files.take_in`."""
        with self._using(path) as state:
            await state.look()

    def changes(self) -> AsyncIterator[str]:
        """See `ports.Contents.changes`."""
        if not self._is_watched:
            self._is_watched = True
            self._folder.tasks.start_soon(watch, self.root, self._noticed)
        return self._changes.subscribe()

    # ----------------------------------------------------------------- what is open

    def _state(self, path: str) -> OpenNotebook:
        real = paths.resolve_notebook(self.root, path)
        state = self._open.get(real)
        if state is None:
            state = self._open[real] = OpenNotebook(self._folder, real, self._ids.pop(real, None))
        self._open.move_to_end(real)
        return state

    @contextlib.contextmanager
    def _using(self, path: str) -> Iterator[OpenNotebook]:
        state = self._state(path)
        try:
            yield state
        finally:
            self._let_go(state)

    def _let_go(self, state: OpenNotebook) -> None:
        """Forget what turned out to be no notebook, or is none any more."""
        if state.saved is None and not state.is_busy and self._open.get(state.path) is state:
            del self._open[state.path]

    async def _refreshed(self, state: OpenNotebook) -> NotebookNode:
        """`state.refresh()`; the first time, its folder is swept before, and room is made after."""
        is_known = state.saved is not None
        if not is_known and state.path.parent not in self._swept:
            self._swept.add(state.path.parent)
            await anyio.to_thread.run_sync(locks.sweep, self.root, state.path.parent)
        notebook = await state.refresh()
        if not is_known:
            self._make_room(state)
        return notebook

    def _make_room(self, latest: OpenNotebook) -> None:
        """Drop the notebooks used longest ago once they are too many, or too big together."""
        total, count = sum(state.size for state in self._open.values()), len(self._open)
        if total <= _CACHE_BYTES and count <= _CACHE_NOTEBOOKS:
            return
        for state in list(self._open.values()):
            if state is latest or state.is_busy:
                continue
            total, count = total - state.size, count - 1
            ids = state.remembered_ids()
            if ids is not None:
                self._ids[state.path] = ids
            del self._open[state.path]
            if total <= _CACHE_BYTES and count <= _CACHE_NOTEBOOKS:
                return

    async def _noticed(self, path: Path) -> None:
        """A notebook's file changed: taken in if the notebook is open, and told unless we wrote it ourselves."""
        state = self._open.get(path)
        if state is None or state.saved is None:
            self._changes.tell(path.relative_to(self.root).as_posix())
            return
        try:
            await state.look()
        except JupyterMcpError as error:
            logger.debug("%s was changed, and whoever uses it next is told: %s", state.name, error)
        except Exception:
            logger.exception("what was written to %s could not be taken in", state.name)
        self._let_go(state)


def open_contents(settings: Settings) -> FilesContents:
    """The backend `files`: notebooks on disk below `settings.root`."""
    return FilesContents(settings)
