"""Notebooks that other programs move: kernel, history and what runs go with the file, not with its name.

A file is known by its number and time on the disk, and by its cells. It has moved when what is at a path is what
another path's file was, and that one does not have it any more: so a copy takes nothing from what it was copied from,
and of two files that were swapped each keeps its own. Nothing is searched while a server runs: whoever names a path, or
changes what is there, has it looked at. What was moved while no server ran is looked for when one starts.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from ..errors import JupyterMcpError
from ..events import Event
from ..journal import Journal, Known
from ..notebooks import source_hash
from ..ports import Contents, Entry, Files

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from .queue import Executions
    from .sessions import Sessions

logger = logging.getLogger(__name__)

MOST_KNOWN = 1_000
MOST_CELLS = 500
"""Cells that a notebook is known by."""
MOST_READ = 200
"""Files that are read when a server starts, to find one that was moved."""
MOST_BYTES = 20 * 2**20
KNOW_SECONDS = 0.2
"""How long after a change of ours a notebook is known by what is in it then."""


class Moves:
    """Follows the notebooks of one server. Made by `open_services`.

    Args:
        files: the contents on a disk; where notebooks live elsewhere, nothing is followed.

    Attributes:
        tell: called once something has another path, with both.
    """

    def __init__(self, files: Contents, journal: Journal, sessions: Sessions, executions: Executions) -> None:
        self.tell: Callable[[str, str], None] = lambda before, to: None
        self._contents = files
        self._files = files if isinstance(files, Files) else None
        self._journal = journal
        self._sessions = sessions
        self._executions = executions
        self._known: dict[str, Known] = {}
        # What was looked at, and has been changed by nobody but us since.
        self._taken_over: dict[str, str] = {}
        self._looking = anyio.Lock()

    async def find(self) -> None:
        """Find what was moved while no server ran."""
        if self._files is None:
            return
        self._known = {known.notebook: known for known in self._journal.known(MOST_KNOWN)}
        changed = [path for path, known in self._known.items() if self._identity(path) != known.identity]
        if not changed:
            return
        for path in [path for path in changed if self._identity(path)][:MOST_READ]:
            await self.look(path)
        lost = [path for path in self._known if not self._identity(path)]
        if lost:
            await self._search(lost)
        # Whoever was not found is not looked for again at every start.
        forgotten = [path for path in lost if self._known.pop(path, None) is not None]
        self._journal.forget(*forgotten)

    async def _search(self, lost: Sequence[str]) -> None:
        """Look at notebooks that nobody knows, the likely ones first, until none is lost."""
        try:
            entries = await self._contents.list("", recursive=True)
        except JupyterMcpError as error:
            logger.warning("what was moved while no server ran is not looked for: %s", error)
            return
        strangers = [e for e in entries if e.kind == "notebook" and e.path not in self._known]
        identities = {self._known[path].identity for path in lost}
        names = {path.rpartition("/")[2] for path in lost}

        def unlikely(entry: Entry) -> tuple[bool, bool]:
            return self._identity(entry.path) not in identities, entry.path.rpartition("/")[2] not in names

        for entry in sorted(strangers, key=unlikely)[:MOST_READ]:
            if not any(path in self._known for path in lost):
                return
            if (entry.size or 0) <= MOST_BYTES:
                await self.look(entry.path, remember=False)

    async def follow(self, events: AsyncIterator[Event]) -> None:
        """Look at what other programs, or we, change."""
        if self._files is None:
            return
        ours: set[str] = set()

        async def know_soon(path: str) -> None:
            await anyio.sleep(KNOW_SECONDS)
            ours.discard(path)
            if self._is_ours(path):
                await self._know_anew(path)
            else:
                await self.look(path, remember=False)

        async with anyio.create_task_group() as tasks:
            async for event in events:
                if event.kind != "notebook.changed":
                    continue
                path = event.data["notebook"]
                if path in ours:
                    continue
                if self._is_ours(path):
                    # Each call changes it several times.
                    ours.add(path)
                    tasks.start_soon(know_soon, path)
                elif path in self._known or self._may_have_come(path):
                    await self.look(path, remember=False)

    def _may_have_come(self, path: str) -> bool:
        """Whether it is worth the while to read what has changed at a path that nobody has named."""
        identity = self._identity(path)
        if not identity:
            return False
        held = (notebook for session in self._sessions.all() for notebook in session.notebooks)
        return any(known.identity == identity for known in self._known.values()) or not all(map(self._identity, held))

    async def look(self, path: str, *, remember: bool = True) -> None:
        """Let what is at a path have its kernel and its history, if it was moved there.

        Args:
            remember: whether it is to be known from now on, if it was not.
        """
        if self._files is None or self._is_unchanged(path):
            return
        async with self._looking:
            if self._is_unchanged(path):
                return
            try:
                await self._look(path, remember)
            except JupyterMcpError as error:
                logger.debug("%s is not followed now: %s", path, error)

    def _is_ours(self, path: str) -> bool:
        """Whether only we have written what is known since it was looked at: so nothing was moved there."""
        taken_over = self._taken_over.get(path)
        return bool(taken_over) and self._files is not None and self._files.taken_over(path) == taken_over

    async def _know_anew(self, path: str) -> None:
        """Know what we have written ourselves by what it is now."""
        async with self._looking:
            try:
                marks = marks_of(await self._contents.read(path))
            except JupyterMcpError as error:
                logger.debug("%s is not followed now: %s", path, error)
                return
            if self._is_ours(path):
                self._note(Known(path, self._identity(path), marks))

    def _is_unchanged(self, path: str) -> bool:
        if self._is_ours(path):
            return True
        known = self._known.get(path)
        return known is not None and known.identity != "" and known.identity == self._identity(path)

    def _identity(self, path: str) -> str:
        return "" if self._files is None else self._files.identity(path)

    async def _is_there(self, known: Known) -> bool:
        identity = self._identity(known.notebook)
        if identity in ("", known.identity):
            return identity != ""
        return _is(known, identity, await self._marks(known.notebook))

    async def _marks(self, path: str) -> frozenset[str]:
        try:
            return await self._read(path)
        except JupyterMcpError:
            return frozenset()

    async def _read(self, path: str) -> frozenset[str]:
        assert self._files is not None
        await self._files.take_in(path)
        return marks_of(await self._contents.read(path))

    async def _look(self, path: str, remember: bool) -> None:
        identity = self._identity(path)
        if not identity:
            return
        marks = await self._read(path)
        taken_over = "" if self._files is None else self._files.taken_over(path)
        own = self._known.get(path)
        came = await self._came_from(path, identity, marks, own)
        if came is not None:
            await self._move(came, path)
        if came is not None or own is not None or remember:
            self._note(Known(path, identity, marks))
            self._taken_over[path] = taken_over

    async def _came_from(self, path: str, identity: str, marks: frozenset[str], own: Known | None) -> Known | None:
        """What was at another path, is not there any more, and is here now."""
        others = [known for known in self._known.values() if known is not own and _is(known, identity, marks)]
        same_file = [known for known in others if known.identity == identity]
        if own is not None and not same_file and _is(own, identity, marks):
            return None
        gone = [known for known in same_file or others if not await self._is_there(known)]
        # Of several that it may be nobody knows which it is.
        return gone[0] if len(gone) == 1 else None

    async def _move(self, known: Known, to: str) -> None:
        """Give a path what was another's. What it had itself goes where its file went, or waits for it."""
        displaced, before = self._known.get(to), known.notebook
        if displaced is None:
            self._rename(before, to)
        else:
            aside = f"{to} (gone {secrets.token_hex(2)})"
            self._rename(to, aside)
            self._known[aside] = replace(displaced, notebook=aside)
            self._rename(before, to)
            identity = self._identity(before)
            if identity and _is(displaced, identity, await self._marks(before)):
                self._rename(aside, before)
                self._note(Known(before, identity, displaced.marks))
                await self._executions.make_good(before)
        await self._executions.make_good(to)

    def _rename(self, before: str, to: str) -> None:
        self._sessions.renamed(before, to)
        self._executions.renamed(before, to)
        for path in (before, to):
            self._taken_over.pop(path, None)
        self._known.pop(before, None)
        self.tell(before, to)
        logger.info("%s was moved to %s", before, to)

    def _note(self, known: Known) -> None:
        before = self._known.pop(known.notebook, None)
        self._known[known.notebook] = known
        while len(self._known) > MOST_KNOWN:
            forgotten = next(iter(self._known))
            del self._known[forgotten]
            self._taken_over.pop(forgotten, None)
        # Every write gives a file another number: only what it is known by without that is worth one of ours.
        if before is None or before.marks != known.marks:
            self._journal.know(known)

    def remember(self) -> None:
        """Write down what files are, for the next server."""
        there = [(self._identity(path), known) for path, known in self._known.items()]
        try:
            self._journal.know(*(Known(known.notebook, identity, known.marks) for identity, known in there if identity))
        except JupyterMcpError as error:
            logger.warning("what notebooks are known by is not written down: %s", error)


def marks_of(notebook: NotebookNode) -> frozenset[str]:
    """What a notebook's cells are known by wherever the file is: their ids, or sources where the format has no ids."""
    has_ids = notebook.get("nbformat_minor", 5) >= 5
    return frozenset(str(cell["id"]) if has_ids else source_hash(cell) for cell in notebook.cells[:MOST_CELLS])


def _is(known: Known, identity: str, marks: Iterable[str]) -> bool:
    """Whether a file is a known one, as it was or changed since."""
    there = frozenset(marks)
    shared = len(known.marks & there)
    if known.identity == identity:
        return bool(shared) or not known.marks or not there
    return 2 * shared >= max(len(known.marks), len(there)) and shared > 0
