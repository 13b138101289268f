"""One notebook that is a file of a Jupyter: what readers see, what the file holds, and how the one gets to the other.

REST has no write that fails where the file has changed. So the file's hash is looked at right before a write, and what
is there right after it: what somebody else wrote in between is merged, or is a `Conflict`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from ... import notebooks
from ...errors import Conflict, InvalidNotebook, JupyterMcpError, NotFound, Unavailable
from .contents_api import INLINE_BYTES, ContentsApi, notebook_body
from .contents_format import Document, edited_copy, parse, render, same, settled
from .edited import EditedNotebook

if TYPE_CHECKING:
    from nbformat import NotebookNode

T = TypeVar("T")

_ATTEMPTS = 20
_HALF_WRITTEN_SECONDS = 1.0
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_DELAY_SECONDS, _MOST_DELAY_SECONDS, _DELAY_FOR_COST = 0.1, 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Folder:
    """What all notebooks of one Jupyter share. `tell` is called with the name of one that somebody else changed."""

    api: ContentsApi
    tasks: anyio.abc.TaskGroup
    tell: Callable[[str], None]


@dataclass(slots=True)
class _Attempt:
    """The next write in the background, which those wait for who are in no hurry."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: JupyterMcpError | None = None


class FileNotebook(EditedNotebook):
    """One notebook of a Jupyter. `saved` is the file as it was last read or written, `notebook` what readers see.

    Whoever changes these holds `editing`; whoever asks Jupyter holds `writing` as well, and readers need not wait then.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.name = name
        self.editing = anyio.Lock()
        self.writing = anyio.Lock()
        self.saved: Document | None = None
        self.notebook: NotebookNode | None = None
        self.used_at = self.opened_at = anyio.current_time()
        self._folder = folder
        self._problems: list[JupyterMcpError] = []
        self._in_background = False
        self._pending = self._on_disk = 0
        self._next = _Attempt()
        self._cost = 0.0

    @property
    def is_live(self) -> bool:
        return False

    @property
    def is_dirty(self) -> bool:
        return self.saved is not None and self.notebook is not self.saved.notebook

    @property
    def is_known(self) -> bool:
        """Whether there is such a notebook, as far as it is known."""
        return self.saved is not None

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it now, or must still be told something."""
        locked = self.editing.locked() or self.writing.locked()
        return locked or self.is_dirty or self._in_background or bool(self._problems)

    @property
    def size(self) -> int:
        return 0 if self.saved is None else self.saved.size

    # ----------------------------------------------------------------- reading

    async def read(self) -> NotebookNode:
        """See `ports.Contents.read`. Does not wait for a write that goes on."""
        self.used_at = anyio.current_time()
        if self.notebook is not None and self.writing.locked():
            return self.notebook
        async with self.editing:
            return await self._looked()

    async def look(self) -> None:
        """Take in what somebody else wrote, if nobody uses it now."""
        if not self.is_busy and self.saved is not None:
            async with self.editing:
                await self._looked()

    async def _looked(self) -> NotebookNode:
        """The notebook with what the file holds merged in; the caller holds `editing`."""
        async with self.writing:
            return await self._look()

    async def _look(self) -> NotebookNode:
        """The same; the caller holds `writing` too."""
        try:
            if self.saved is not None and self.notebook is not None:
                state = await self._folder.api.state(self.name)
                if state.version == self.saved.version:
                    return self.notebook
            document = await self._load(None if self.saved is None else self.saved.notebook)
        except NotFound:
            self._vanished()
            raise
        return self._take(document)

    def _take(self, document: Document) -> NotebookNode:
        """What the file holds now, by somebody else's doing."""
        notebook = document.notebook
        if self.saved is not None and self.notebook is not None:
            if self.is_dirty:
                base = self.saved.notebook
                notebook = notebooks.merge(base, self.notebook, notebook, on_conflict=self._problems.append)
            self._folder.tell(self.name)
        self._hold(document, notebook)
        return notebook

    async def _load(self, previous: NotebookNode | None) -> Document:
        """Read and parse. A file that is being written in place gets a second to become a notebook."""
        give_up = anyio.current_time() + _HALF_WRITTEN_SECONDS
        while True:
            try:
                content, state = await self._folder.api.load(self.name)
                parsing = partial(parse, content, previous, state.version, state.size)
                return await run(state.size, parsing)
            except InvalidNotebook:
                if anyio.current_time() > give_up:
                    raise
            await anyio.sleep(_POLL_SECONDS)

    def _hold(self, document: Document, notebook: NotebookNode) -> None:
        self.saved, self.notebook = document, notebook
        if not self.is_dirty:
            self._on_disk = self._pending
        self._wake()

    def _vanished(self) -> None:
        problem = None
        if self.is_dirty:
            problem = NotFound(
                f"{self.name!r} was deleted; what had not been written yet is gone with it.",
                hint="Create the notebook again, or go on with another.",
            )
            self._problems.append(problem)
        was_there = self.saved is not None
        self.saved = self.notebook = None
        self._on_disk = self._pending
        self._wake(problem)
        if was_there:
            self._folder.tell(self.name)

    def leave(self) -> None:
        """Nobody uses this any more."""

    def _wake(self, error: JupyterMcpError | None = None) -> None:
        attempt, self._next = self._next, _Attempt()
        attempt.error = error
        attempt.done.set()

    # ----------------------------------------------------------------- editing

    @contextlib.asynccontextmanager
    async def edit(self, *, durable: bool, author: str) -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`."""
        self.used_at = anyio.current_time()
        async with self.editing:
            # What waits to be written is looked at when that happens.
            before = self.notebook if self.is_dirty and not durable else await self._looked()
            assert before is not None
            copy = edited_copy(before)
            yield copy
            after = settled(before, copy)
            if durable:
                with anyio.CancelScope(shield=True):
                    await self._save(before, after)
            else:
                self._save_later(after)

    def _mark(self, cell_id: str, *, is_running: bool) -> None:
        """A file does not say it."""

    def _save_later(self, after: NotebookNode) -> None:
        """Let readers see an edit at once, and write it soon; the caller holds `editing`."""
        self.notebook = after
        self._pending += 1
        if not self._in_background:
            self._in_background = True
            self._folder.tasks.start_soon(self._write_in_background)

    async def create(self, notebook: NotebookNode) -> None:
        """Write a new file; the caller holds `editing` and has seen that there is none."""
        self.used_at = anyio.current_time()
        async with self.writing:
            await self._folder.api.put(self.name, notebook_body(render(Document(notebook, ""), notebook)))

    # ----------------------------------------------------------------- writing

    async def _save(self, before: NotebookNode, after: NotebookNode) -> None:
        """Write an edit; the caller holds `editing`. On a conflict nothing of it stays."""
        async with self.writing:
            answered = ""
            for _ in range(_ATTEMPTS):
                now = await self._look()
                after = after if now is before else notebooks.merge(before, after, now)
                before = now
                assert self.saved is not None
                if same(after, self.saved.notebook):
                    self._hold(self.saved, self.saved.notebook)
                    return
                document = await self._put(after)
                if same(document.notebook, after) or document.version == answered:
                    self._hold(document, document.notebook)
                    return
                # Somebody wrote at the same moment; or Jupyter alters what it is given, then it will do so again.
                answered = document.version
                now = self._take(document)
                after = notebooks.merge(before, after, now)
                before = now
        raise Conflict(f"{self.name!r} changes all the time.", hint="Stop the program that writes it, try again.")

    async def _put(self, notebook: NotebookNode) -> Document:
        """Write, and read what is there then."""
        assert self.saved is not None
        saved = self.saved
        body = await run(self.size, lambda: notebook_body(render(saved, notebook)))
        unclear: Unavailable | None = None
        try:
            await self._folder.api.put(self.name, body)
        except Unavailable as error:
            # It may have been written all the same.
            unclear = error
        try:
            document = await self._load(notebook)
        except Unavailable as error:
            raise Unavailable(
                f"Jupyter went away while {self.name!r} was written: nobody knows whether it was.",
                hint="Read the notebook again before you repeat the change.",
            ) from (unclear or error)
        if unclear is not None and document.version == saved.version:
            raise unclear
        return document

    async def flush(self) -> None:
        """Write what is pending now, and say what went wrong since the last time."""
        if self.is_dirty or self._in_background:
            async with self.editing:
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
        """Write what readers see; the caller holds `editing`."""
        if not self.is_dirty or self.notebook is None:
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(NotFound):
            # What is gone was said by `_vanished`.
            await self._save(self.notebook, self.notebook)

    async def _write_in_background(self) -> None:
        """Write pending changes until there are none."""
        try:
            while self.is_dirty:
                await anyio.sleep(max(_DELAY_SECONDS, min(_MOST_DELAY_SECONDS, _DELAY_FOR_COST * self._cost)))
                started = anyio.current_time()
                try:
                    async with self.editing:
                        await self._save_pending()
                except JupyterMcpError as error:
                    self._wake(error)  # the change is still pending: the next try, or a flush, writes it
                    await anyio.sleep(_RETRY_SECONDS)
                else:
                    self._cost = anyio.current_time() - started
        finally:
            self._in_background = False


async def run(size: int, work: Callable[[], T]) -> T:
    """Small notebooks are handled at once, which is faster than a thread; big ones do not hold up the loop."""
    return work() if size < INLINE_BYTES else await anyio.to_thread.run_sync(work)
