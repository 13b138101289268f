"""One notebook in memory: what readers see, what the file holds, and how the one gets to the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from ... import notebooks
from ...errors import Conflict, InvalidNotebook, JupyterMcpError, NotFound, OutsideRoot
from . import disk, locks
from . import text as notebook_text
from .disk import Version
from .paths import translated
from .text import Document

if TYPE_CHECKING:
    from nbformat import NotebookNode

T = TypeVar("T")

INLINE_BYTES = 256 * 1024
INLINE_CELLS = 200
HALF_WRITTEN_SECONDS = 1.0
DELAY_SECONDS = 0.1
MOST_DELAY_SECONDS = 0.6
_DELAY_FOR_COST = 10.0
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 0.02
_ATTEMPTS = 20
_UNLOCKED_ATTEMPTS = 1


@dataclass(frozen=True, slots=True)
class Folder:
    """What all notebooks of one backend share. `tell` is called with the name of one that another program changed."""

    root: Path
    limit: int
    tasks: anyio.abc.TaskGroup
    tell: Callable[[str], None]


@dataclass(slots=True)
class _Attempt:
    """The next write in the background, which those wait for who are in no hurry."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: JupyterMcpError | None = None


class OpenNotebook:
    """One notebook in memory. `saved` is the file as last read or written, `notebook` what readers see.

    Edits hold `editing`; whoever writes the file holds `writing`, and takes `editing` first if it wants both.
    """

    def __init__(self, folder: Folder, path: Path, ids: Document | None = None) -> None:
        self.path = path
        self.name = path.relative_to(folder.root).as_posix()
        self.editing = anyio.Lock()
        self.writing = anyio.Lock()
        self.saved: Document | None = None
        self.notebook: NotebookNode | None = None
        self._folder = folder
        self._version: Version | None = None
        self._taken: Version | None = None
        self._ids = ids
        self._problems: list[JupyterMcpError] = []
        self._in_background = False
        self._pending = 0
        self._on_disk = 0
        self._next = _Attempt()
        self._cost = 0.0

    @property
    def is_dirty(self) -> bool:
        return self.saved is not None and self.notebook is not self.saved.notebook

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it now, or must still be told something."""
        locked = self.editing.locked() or self.writing.locked()
        return locked or self.is_dirty or self._in_background or bool(self._problems)

    @property
    def size(self) -> int:
        return 0 if self._version is None else self._version.size

    @property
    def seen(self) -> NotebookNode | None:
        """What a reader sees without waiting for anything; None if the file must be looked at first."""
        return self.notebook if self.writing.locked() or self.is_current() else None

    def is_current(self) -> bool:
        """Whether the file is still the one that was read or written last."""
        try:
            return self._version is not None and disk.version_of(self.path) == self._version
        except (OSError, OutsideRoot):
            return False

    @property
    def taken_over(self) -> str:
        """See `ports.Files.taken_over`."""
        return self._taken.identity if self._taken is not None and self.is_current() else ""

    def hold(self, saved: Document, version: Version, notebook: NotebookNode | None = None) -> None:
        """What the file holds by now; `notebook` if readers see more than that."""
        self.saved, self._version = saved, version
        self.notebook = saved.notebook if notebook is None else notebook
        if not self.is_dirty:
            self._on_disk = self._pending
        self._wake()

    def remembered_ids(self) -> Document | None:
        """What finds the ids again that only this process knows; None if there are none."""
        if self.saved is None or not self.saved.are_ids_remembered:
            return None
        return self.saved.without_bytes()

    def _wake(self, error: JupyterMcpError | None = None) -> None:
        attempt, self._next = self._next, _Attempt()
        attempt.error = error
        attempt.done.set()

    # ----------------------------------------------------------------- reading

    async def refresh(self) -> NotebookNode:
        """The notebook with what is on disk merged in; the caller holds `editing`."""
        if (seen := self.seen) is not None:
            return seen
        async with self.writing:
            return await self._reload()

    async def look(self) -> None:
        """Take in what another program wrote, if this notebook is in use."""
        async with self.editing, self.writing:
            if self.saved is not None and not self.is_current():
                await self._reload()

    async def _reload(self) -> NotebookNode:
        try:
            with translated(self.name):
                document, version = await self._load()
        except (NotFound, OutsideRoot):
            self._vanished()
            raise
        self._taken = version
        if self.saved is None or self.notebook is None:
            self.hold(document, version)
            return document.notebook
        notebook = document.notebook
        if self.is_dirty:
            notebook = notebooks.merge(
                self.saved.notebook, self.notebook, document.notebook, on_conflict=self._problems.append
            )
        changed = document is not self.saved
        self.hold(document, version, notebook)
        if changed:
            self._folder.tell(self.name)
        return notebook

    async def _load(self) -> tuple[Document, Version]:
        """Read and parse. A file that is being written in place gets a second to become a notebook."""
        give_up = anyio.current_time() + HALF_WRITTEN_SECONDS
        previous = self.saved or self._ids
        while True:
            version = disk.version_of(self.path)
            try:
                return await run(version.size, lambda: self._read(previous))
            except InvalidNotebook as problem:
                if anyio.current_time() > give_up or not disk.is_fresh(self.path, HALF_WRITTEN_SECONDS):
                    raise self._with_backup(problem) from problem
            await anyio.sleep(_POLL_SECONDS)

    def _read(self, previous: Document | None) -> tuple[Document, Version]:
        data, version = disk.read(self._folder.root, self.path, self._folder.limit)
        if previous is not None and previous.holds(data):
            return previous, version
        return notebook_text.parse(data, previous), version

    def _with_backup(self, problem: InvalidNotebook) -> InvalidNotebook:
        name = disk.backup_name(self.name)
        if not self.path.with_name(name).is_file():
            return problem
        return InvalidNotebook(problem.message, hint=f"Its last whole state is in {name!r}, beside it: copy it back.")

    def _vanished(self) -> None:
        problem = None
        if self.is_dirty:
            problem = NotFound(
                f"{self.name!r} was deleted or became a link; what had not been written yet is gone with it.",
                hint="Create the notebook again, or go on with another.",
            )
            self._problems.append(problem)
        was_there = self.saved is not None
        self.saved = self.notebook = self._version = self._taken = None
        self._on_disk = self._pending
        self._wake(problem)
        if was_there:
            self._folder.tell(self.name)

    # ----------------------------------------------------------------- writing

    async def create(self, notebook: NotebookNode) -> None:
        """Write a new file; the caller holds `editing`."""
        data = notebook_text.render(notebook)
        disk.check_size(self.name, len(data), self._folder.limit)

        def write() -> tuple[Document, Version]:
            document = notebook_text.parse(data)
            return document, disk.create(self._folder.root, self.path, data)

        with translated(self.name), anyio.CancelScope(shield=True):
            self.hold(*await run(len(data), write))
            self._taken = self._version

    async def save(self, before: NotebookNode, after: NotebookNode) -> None:
        """Write an edit; the caller holds `editing`. On a conflict nothing of it stays."""
        async with self.writing:
            for attempt in range(_ATTEMPTS):
                with contextlib.ExitStack() as stack:
                    is_locked = attempt >= _UNLOCKED_ATTEMPTS
                    if is_locked:
                        lock = locks.locked(self._folder.root, self.path)
                        with translated(self.name):
                            await anyio.to_thread.run_sync(stack.enter_context, lock)
                    if attempt:
                        now = await self._reload()
                        after = notebooks.merge(before, after, now)
                        before = now
                    with contextlib.suppress(disk.Changed):
                        await self._write(after, is_locked)
                        return
        raise Conflict(f"{self.name!r} changes all the time.", hint="Stop the program that writes it, try again.")

    def save_later(self, after: NotebookNode) -> None:
        """Let readers see an edit at once, and write it soon; the caller holds `editing`."""
        self.notebook = after
        self._pending += 1
        if not self._in_background:
            self._in_background = True
            self._folder.tasks.start_soon(self._write_in_background)

    async def flush(self) -> None:
        """Write what is pending now, and say what went wrong since the last time."""
        async with self.editing:
            if self.is_dirty:
                await self._save_pending()
        self._raise_problems()

    async def flushed(self) -> None:
        """Wait until what is pending now was written in its own time, and say what went wrong."""
        wanted = self._pending
        while self._on_disk < wanted:
            attempt = self._next
            await attempt.done.wait()
            if attempt.error is not None:
                if attempt.error in self._problems:
                    self._problems.remove(attempt.error)
                raise attempt.error
        self._raise_problems()

    def _raise_problems(self) -> None:
        problems, self._problems = self._problems, []
        if problems:
            raise problems[0]

    async def _save_pending(self) -> None:
        assert self.notebook is not None
        with anyio.CancelScope(shield=True):
            try:
                await self.save(self.notebook, self.notebook)
            except (NotFound, OutsideRoot):
                if self.saved is not None:
                    self._vanished()

    async def _write(self, notebook: NotebookNode, is_locked: bool = False) -> None:
        """Write a state of the notebook if the file is still the one that was read; the caller holds `writing`."""
        saved, version = self.saved, self._version
        assert saved is not None
        assert version is not None
        seen, pending = self.notebook, self._pending
        root, limit = self._folder.root, self._folder.limit

        def write(wait: bool) -> tuple[Document, Version]:
            document = notebook_text.splice(saved, notebook)
            parts = document.parts()
            disk.check_size(self.name, sum(map(len, parts)), limit)
            return document, disk.replace(root, self.path, parts, version, is_locked=is_locked, wait=wait)

        size = INLINE_BYTES if _changed_cells(saved.notebook, notebook) > INLINE_CELLS else self.size
        with translated(self.name):
            try:
                document, written = await run(size, lambda: write(size >= INLINE_BYTES))
            except BlockingIOError:
                document, written = await anyio.to_thread.run_sync(write, True)
        self._on_disk = pending
        self.hold(document, written, self.notebook if self.notebook is not seen else None)

    async def _write_in_background(self) -> None:
        """Write pending changes until there are none."""
        try:
            while self.is_dirty:
                await self._quiet_moment()
                started = anyio.current_time()
                try:
                    await self._write_pending()
                except JupyterMcpError as error:
                    self._wake(error)  # the change is still pending: the next try, or a flush, writes it
                    await anyio.sleep(_RETRY_SECONDS)
                else:
                    self._cost = anyio.current_time() - started
        finally:
            self._in_background = False

    async def _quiet_moment(self) -> None:
        """Wait until edits pause: longer, the more a write costs, but not for long."""
        most = min(MOST_DELAY_SECONDS, max(DELAY_SECONDS, _DELAY_FOR_COST * self._cost))
        end = anyio.current_time() + most
        while (left := end - anyio.current_time()) > 0:
            before = self._pending
            await anyio.sleep(min(DELAY_SECONDS, left))
            if self._pending == before:
                return

    async def _write_pending(self) -> None:
        with anyio.CancelScope(shield=True):
            async with self.writing:
                if not self.is_dirty or self.notebook is None:
                    return
                with contextlib.suppress(disk.Changed, NotFound, OutsideRoot):
                    await self._write(self.notebook)
                    return
            async with self.editing:
                if self.is_dirty:
                    await self._save_pending()


def _changed_cells(old: NotebookNode, new: NotebookNode) -> int:
    """How many cells of a notebook are not the objects they were."""
    kept = {id(cell) for cell in old.cells}
    return sum(id(cell) not in kept for cell in new.cells)


async def run(size: int, work: Callable[[], T]) -> T:
    """Small files are handled at once, which is faster than a thread; big ones do not hold up the loop."""
    return work() if size < INLINE_BYTES else await anyio.to_thread.run_sync(work)
