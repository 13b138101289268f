"""One notebook that is a live document: what `contents_file.FileNotebook` is for a file.

The room is the authority. An edit is one transaction in our replica; it is durable once the room has it. The file is
written by the room, at our `save` message; until it is seen to hold our edits, these are kept as intents: a room that
was built anew, or overwritten with the file, gets them again, cell by cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio

from ....errors import InvalidNotebook, JupyterMcpError, NotFound, Unavailable
from ..contents_file import Folder
from ..contents_format import edited_copy, settled
from ..edited import EditedNotebook
from .connection import Address, Connection, path_of, user_of
from .intents import Intent, Intents, is_lost
from .pace import Pace
from .replica import Replica, changed_place
from .saving import have_saved

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 15.0
_SAVE_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_FLUSH_SECONDS = 20.0
_LOOK_SECONDS = 2.0
# A file that is nowhere so long was deleted; what its room has and no file has is not given up sooner.
_GONE_SECONDS, _UNSAVED_GONE_SECONDS = 2.0, 15.0
IDLE_SECONDS = 60.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

Moved = Callable[["RoomNotebook", str], None]
"""Called with a notebook and the path that its file has now."""


class RoomNotebook(EditedNotebook):
    """One notebook in its room."""

    def __init__(self, folder: Folder, name: str, address: Address, moved: Moved) -> None:
        self.name = self._told_path = name
        self.editing = anyio.Lock()
        self.used_at = anyio.current_time()
        self._is_gone = False
        self._folder = folder
        self._address = address
        self._moved = moved
        self._connection: Connection | None = None
        self._scope = anyio.CancelScope()
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self.intents = Intents()
        self._missed_at: float | None = None
        self._refused_at: float | None = None
        self._is_saving = False
        self._looked_at = self.used_at
        self._pace = Pace()
        self._problem: JupyterMcpError | None = None
        self._clashes: list[JupyterMcpError] = []
        folder.tasks.start_soon(self._live)

    @property
    def is_live(self) -> bool:
        return True

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it now, or the file lacks something of ours."""
        return self.editing.locked() or bool(self.intents)

    @property
    def is_known(self) -> bool:
        """Whether it is still in its room."""
        return not self._is_gone

    @property
    def size(self) -> int:
        return 0

    def leave(self) -> None:
        """Leave the room; nobody uses this any more."""
        self._is_gone = True
        self._scope.cancel()
        self._tell()

    # ------------------------------------------------------------------ being in the room

    async def _live(self) -> None:
        """Be in the room until it is left: each time with a new replica, which gets what the file lacks."""
        pause = _SHORTEST_PAUSE
        former: Replica | None = None
        with self._scope:
            while not self._is_gone:
                connection = Connection(self._folder.api.client, self._address, self._changed)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.run)
                    if await connection.comes_up():
                        pause = _SHORTEST_PAUSE
                        self._enter(connection, former)
                        former = connection.replica
                        tasks.start_soon(self._leave_when_idle)
                    await connection.closed.wait()
                    tasks.cancel_scope.cancel()
                self._connection, self._problem = None, connection.problem
                self._is_gone = self._is_gone or await self._has_gone(connection.problem)
                self._tell()
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                # A Jupyter that was started anew may have given the file another id.
                with contextlib.suppress(JupyterMcpError):
                    self._address = await self._folder.api.find_room(self.name) or self._address

    async def _has_gone(self, problem: JupyterMcpError | None) -> bool:
        """Whether there is nothing to come back to: a file that is being moved is nowhere for a moment."""
        if not isinstance(problem, NotFound) or not self.intents:
            return isinstance(problem, NotFound | InvalidNotebook)
        now = anyio.current_time()
        if self._refused_at is None:
            self._refused_at = now
        await self._look_after(problem)
        return now - self._refused_at >= _UNSAVED_GONE_SECONDS

    async def _look_after(self, problem: JupyterMcpError) -> None:
        """A file that is not found may have another path by now, which nobody has told yet."""
        if isinstance(problem, NotFound):
            with contextlib.suppress(JupyterMcpError):
                await self.look()

    async def _leave_when_idle(self) -> None:
        """Rooms that somebody is in are kept, and their servers count as used."""
        while True:
            left = self.used_at + IDLE_SECONDS - anyio.current_time()
            if left <= 0 and not self.is_busy:
                self.leave()
            await anyio.sleep(max(_RETRY_SECONDS, left))

    def _enter(self, connection: Connection, former: Replica | None) -> None:
        self._refused_at = None
        connection.replica.begin()
        if self.intents and former is not None:
            connection.replica.catch_up(former)
        for intent in self.intents:
            self._clashes += connection.replica.apply_again(intent.before, intent.after)
        self._connection, self._problem = connection, None
        if self.intents:
            self._save_soon()
        self._folder.tell(self.name)
        self._tell()

    def _changed(self) -> None:
        connection = self._connection
        path = None if connection is None else connection.replica.state.get("path")
        # A room may tell the former path long after a move: only what it tells anew counts.
        if isinstance(path, str) and path and path != self._told_path:
            self._told_path = path
            if path != self.name:
                self._moved(self, path)
        self._folder.tell(self.name)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _joined(self) -> Connection:
        """The connection, once it has what the room has.

        Raises:
            Unavailable, NotFound, InvalidNotebook
        """
        with anyio.move_on_after(_JOIN_SECONDS):
            while not self._is_gone:
                if self._connection is not None and self._connection.is_open:
                    return self._connection
                await self._news.wait()
            raise self._problem or NotFound(f"There is no notebook {self.name!r} any more.", hint="List the notebooks.")
        raise self._problem or Unavailable(
            f"The live document of {self.name!r} does not answer.", hint="Look at Jupyter, then try again."
        )

    # ------------------------------------------------------------------ reading and editing

    async def read(self) -> NotebookNode:
        """See `ports.Contents.read`."""
        return (await self._used()).replica.snapshot()

    async def _used(self) -> Connection:
        self.used_at = anyio.current_time()
        if self.used_at - self._looked_at > _LOOK_SECONDS:
            await self.look()
        return await self._joined()

    async def look(self) -> None:
        """See whether the file is still where it was.

        Raises:
            Unavailable, Unauthorized
        """
        self._looked_at = now = anyio.current_time()
        try:
            await self._folder.api.state(self.name)
            self._missed_at = None
        except NotFound:
            path = await path_of(self._folder.api.client, self._address)
            if path is not None and path != self.name:
                self._missed_at = None
                self._moved(self, path)
            elif self._missed_at is None:
                # Jupyter moves a file first, and then says so.
                self._missed_at = now
            elif now - self._missed_at >= (_UNSAVED_GONE_SECONDS if self.intents else _GONE_SECONDS):
                self._problem = None
                self.leave()
                self._folder.tell(self.name)

    @contextlib.asynccontextmanager
    async def edit(self, *, durable: bool, author: str) -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`."""
        if not durable:
            await self._pace.wait()
        async with self.editing:
            connection = await self._used()
            before = connection.replica.snapshot()
            copy = edited_copy(before)
            yield copy
            after = settled(before, copy)
            if author:
                connection.present(user=user_of(author))
            with anyio.CancelScope(shield=durable):
                await self._apply(before, after, durable=durable)
            if author and (place := changed_place(before, after)) and self._connection is not None:
                self._connection.present(cursors=self._connection.replica.cursors(*place))

    def _mark(self, cell_id: str, *, is_running: bool) -> None:
        """See `EditedNotebook`."""
        if self._connection is not None:
            self._connection.replica.mark(cell_id, is_running=is_running)

    async def _apply(self, before: NotebookNode, after: NotebookNode, *, durable: bool) -> None:
        connection = await self._joined()
        now = connection.replica.snapshot()
        sent = connection.replica.sent
        connection.replica.apply(before, after)
        self._pace.spend(connection.replica.sent - sent)
        wanted = connection.replica.snapshot()
        if wanted is now:
            return
        intent = self._intend(connection, Intent(now, wanted, is_answered=not durable))
        if not durable:
            return
        try:
            try:
                await connection.confirmed()
            except Unavailable:
                # It is an intent: the next connection brings it to the room.
                connection = await self._rejoined(connection)
                await connection.confirmed()
        except JupyterMcpError:
            self.intents.withdraw(intent)
            connection.reset()
            raise
        intent.is_answered = True

    async def _rejoined(self, former: Connection) -> Connection:
        with anyio.move_on_after(_JOIN_SECONDS):
            while self._connection in (former, None) and not self._is_gone:
                await self._news.wait()
            return await self._joined()
        raise Unavailable(
            f"Jupyter went away while {self.name!r} was changed: nobody knows whether it was.",
            hint="Read the notebook again before you repeat the change.",
        )

    def _intend(self, connection: Connection, intent: Intent) -> Intent:
        if "hash" not in connection.replica.state:
            # Nobody could tell from the room whether it was overwritten.
            connection.replica.was_overwritten = True
        kept = self.intents.add(intent)
        self._save_soon()
        return kept

    async def create(self, notebook: NotebookNode) -> None:
        """Rooms are of notebooks that are there."""
        raise NotFound(f"{self.name!r} was deleted meanwhile.", hint="Try again.")

    # ------------------------------------------------------------------ the file

    def _save_soon(self) -> None:
        if not self._is_saving:
            self._is_saving = True
            self._folder.tasks.start_soon(self._keep_saving)

    async def _keep_saving(self) -> None:
        pause = _SAVE_SECONDS
        try:
            while self.intents and not self._is_gone:
                with anyio.move_on_after(pause):
                    await self._hurry.wait()
                self._hurry.clear()
                pause = _SAVE_SECONDS
                try:
                    await self._save()
                except JupyterMcpError as error:
                    self._problem = error
                    pause = _RETRY_SECONDS
                    logger.debug("the room of %s was not saved: %s", self.name, error)
                    await self._look_after(error)
                self._tell()
        finally:
            self._is_saving = False

    async def _save(self) -> None:
        """Have the room write the file, and see whether it holds what we have done.

        Raises:
            Unavailable, NotFound
        """
        made = self.intents.begin_save()
        connection = await self._joined()
        await have_saved(self._folder.api, self.name, connection)
        intents = self.intents.end_save()
        self._problem = None
        if connection.replica.was_overwritten:
            connection.replica.was_overwritten = False
            self._bring_again(connection, intents)
        self.intents.saved = made

    def _bring_again(self, connection: Connection, intents: list[Intent]) -> None:
        """The room was overwritten with a file that somebody else had changed."""
        for intent in intents:
            now = connection.replica.snapshot()
            if is_lost(intent, now):
                self._clashes += connection.replica.apply_again(intent.before, intent.after)
                brought = connection.replica.snapshot()
                if brought is not now:
                    self._intend(connection, Intent(now, brought, is_answered=True))

    async def flush(self) -> None:
        """Return once the file holds what was changed before, and say what went wrong.

        Raises:
            Unavailable, Conflict, NotFound
        """
        self._hurry.set()
        await self.flushed()

    async def flushed(self) -> None:
        """The same, in its own time."""
        wanted = self.intents.made
        with anyio.move_on_after(_FLUSH_SECONDS) as scope:
            while self.intents.saved < wanted and not self._is_gone:
                await self._news.wait()
        if self.intents.saved < wanted:
            if self._is_gone:
                self.intents.saved = self.intents.made
                raise NotFound(
                    f"{self.name!r} was deleted; what had not been saved yet is gone with it.",
                    hint="Create the notebook again, or go on with another.",
                )
            assert scope.cancelled_caught
            raise self._problem or Unavailable(f"{self.name!r} was not saved in time.", hint="It is tried again.")
        problems, self._clashes = self._clashes, []
        if problems:
            raise problems[0]
