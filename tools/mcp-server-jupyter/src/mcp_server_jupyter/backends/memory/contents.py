"""Notebooks in memory: the smallest `Contents`, for tests and as the reference of what one must do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

from ... import notebooks
from ...errors import AlreadyExists, NotFound
from ...ports import Entry
from ...settings import Settings
from ..shared.changes import Changes
from ..shared.edited_outputs import EditedOutputs
from ..shared.paths import notebook_within, within

if TYPE_CHECKING:
    from nbformat import NotebookNode


class MemoryContents:
    """`Contents` that end with the process."""

    def __init__(self, settings: Settings) -> None:
        self.root = Path(settings.root)
        self._notebooks: dict[str, NotebookNode] = {}
        self._locks: dict[str, anyio.Lock] = {}
        self._changes = Changes()

    async def __aenter__(self) -> MemoryContents:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._changes.close()

    def resolve(self, path: str) -> str:
        """The one spelling of a notebook's path.

        Raises:
            InvalidRequest, OutsideRoot
        """
        return notebook_within(self.root, path)

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """See `ports.Contents.list`.

        Raises:
            NotFound, OutsideRoot
        """
        folder = PurePosixPath(within(self.root, path))
        entries: dict[str, Entry] = {}
        for name in self._notebooks:
            place = PurePosixPath(name)
            above = [place, *place.parents]
            if folder not in above[1:]:
                continue
            for part in above[: above.index(folder)]:
                entry = Entry(str(part), "notebook" if part == place else "directory")
                if recursive or part.parent == folder:
                    entries[entry.path] = entry
        if not entries and folder != PurePosixPath("."):
            raise NotFound(f"There is no folder {path!r}.", hint="List the root for those there are.")
        return [entries[name] for name in sorted(entries) if not _hidden(name)]

    async def read(self, path: str) -> NotebookNode:
        """See `ports.Contents.read`."""
        name = self.resolve(path)
        if name not in self._notebooks:
            raise NotFound(f"There is no notebook {name!r}.", hint="List the notebooks, or create it.")
        return self._notebooks[name]

    @contextlib.asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True, author: str = "") -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`."""
        name = self.resolve(path)
        async with self._locks.setdefault(name, anyio.Lock()):
            before = await self.read(name)
            copy = notebooks.shallow(before, cells=list(before.cells))
            copy["metadata"] = notebooks.shallow(before.metadata)
            yield copy
            self._notebooks[name] = notebooks.settle(copy, before.cells)
        self._changes.tell(name)

    def outputs(self, path: str, cell_id: str) -> EditedOutputs:
        """See `ports.Contents.outputs`."""
        return EditedOutputs(self, path, cell_id)

    async def flush(self, path: str | None = None, *, urgent: bool = True) -> None:
        """See `ports.Contents.flush`."""
        if path is not None:
            self.resolve(path)

    async def check(self, path: str) -> None:
        """See `ports.Contents.check`."""
        await self.read(path)

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """See `ports.Contents.create`."""
        name = self.resolve(path)
        if name in self._notebooks:
            raise AlreadyExists(f"{name!r} exists already.", hint="Open it, or choose another name.")
        self._notebooks[name] = notebooks.settle(notebook, ())
        self._changes.tell(name)

    def changes(self) -> AsyncIterator[str]:
        """See `ports.Contents.changes`."""
        return self._changes.subscribe()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
