"""Notebooks of a Jupyter server: live documents where it has them, else its files over its REST API."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio
import anyio.abc

from ... import notebooks
from ...errors import AlreadyExists, InvalidNotebook, InvalidRequest, JupyterMcpError, NotFound
from ...ports import Entry, Unless
from ...settings import Settings
from ..shared.changes import Changes
from ..shared.paths import notebook_within, within
from .connect import open_room_client
from .contents_api import ContentsApi
from .contents_file import FileNotebook, Folder
from .contents_format import require_whole
from .contents_listing import list_entries
from .rooms.notebook import RoomNotebook
from .rooms.outputs import Shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

OpenNotebook = FileNotebook | RoomNotebook
logger = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20
_CACHE_NOTEBOOKS = 128
_LOOK_SECONDS = 2.0
# Who asks for nothing lets a Jupyter count as idle: what nobody has used for so long is not looked at.
_FOLLOWED_SECONDS = 60.0


def open_contents(settings: Settings) -> JupyterContents:
    """The backend `jupyter`: the notebooks of the Jupyter that `settings.room` names."""
    return JupyterContents(settings)


class JupyterContents:
    """`Contents` of one Jupyter server. A path that is absolute is one below `settings.root`.

    Args:
        api: what that Jupyter is asked through; absent, its REST API at the address of the settings.
    """

    def __init__(self, settings: Settings, api: ContentsApi | None = None) -> None:
        self.root = Path(settings.root)
        self._api = api or ContentsApi(open_room_client(settings), settings.max_notebook_bytes)
        self.client = self._api.client
        self._open: OrderedDict[str, OpenNotebook] = OrderedDict()
        self._opening: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._changes = Changes()
        self._stack = contextlib.AsyncExitStack()
        self._is_followed = False
        self._tasks: anyio.abc.TaskGroup
        self._folder: Folder

    async def __aenter__(self) -> JupyterContents:
        await self._stack.enter_async_context(self._api)
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._folder = Folder(self._api, self._tasks, self._changes.tell)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with anyio.CancelScope(shield=True), contextlib.suppress(*((JupyterMcpError,) if error else ())):
                await self.flush()
        finally:
            self._changes.close()
            self._tasks.cancel_scope.cancel()
            await self._stack.aclose()

    def renew(self, settings: Settings) -> None:
        """See `ports.Renewable.renew`."""
        self.client.renew(None if settings.room is None else settings.room.token)

    # ----------------------------------------------------------------- the port

    def resolve(self, path: str) -> str:
        """See `ports.Contents.resolve`. Links are Jupyter's own business."""
        return notebook_within(self.root, path)

    async def list(self, path: str = "", *, recursive: bool = False) -> Sequence[Entry]:
        """See `ports.Contents.list`. Folders are asked one by one: a big tree is cut after 500 of them, or 5 s.

        Raises:
            InvalidRequest, NotFound, OutsideRoot, Unavailable, Unauthorized
        """
        folder = within(self.root, path)
        return await list_entries(self._api, "" if folder == "." else folder, recursive=recursive)

    async def read(self, path: str) -> NotebookNode:
        """See `ports.Contents.read`."""
        async with self.using(path) as state:
            return await state.read()

    @contextlib.asynccontextmanager
    async def edit(self, path: str, *, durable: bool = True, author: str = "") -> AsyncIterator[NotebookNode]:
        """See `ports.Contents.edit`. It is durable once Jupyter has written it."""
        async with self.using(path) as state, state.edit(durable=durable, author=author) as notebook:
            yield notebook
        self._changes.tell(state.name)

    def outputs(self, path: str, cell_id: str) -> JupyterOutputs:
        """See `ports.Contents.outputs`."""
        return JupyterOutputs(self, path, cell_id)

    async def flush(self, path: str | None = None, *, urgent: bool = True) -> None:
        """See `ports.Contents.flush`.

        Raises:
            Conflict: a pending source change was given up for a person's.
            NotFound: the file was deleted; pending outputs are gone with it.
            JupyterMcpError: it cannot be written now; the change stays pending.
        """
        problems: list[JupyterMcpError] = []
        if path is None:
            states = list(self._open.values())
        else:
            name = self.resolve(path)
            states = [self._open[name]] if name in self._open else []
        for state in states:
            try:
                await (state.flush() if urgent else state.flushed())
            except JupyterMcpError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]

    async def check(self, path: str) -> None:
        """See `ports.Contents.check`."""
        name = self.resolve(path)
        if not (await self._api.state(name)).is_writable:
            raise InvalidRequest(f"{name!r} is read-only.", hint="Make it writable where Jupyter runs.")

    async def create(self, path: str, notebook: NotebookNode) -> None:
        """See `ports.Contents.create`."""
        settled = notebooks.settle(notebook, ())
        require_whole(notebooks.new_notebook(""), settled)
        async with self.using(path) as state, state.editing:
            name = state.name
            if await self._api.is_there(name):
                raise AlreadyExists(f"{name!r} exists already.", hint="Open it, or choose another name.")
            with anyio.CancelScope(shield=True):
                async with self._api.folders(name):
                    await state.create(settled)
            # From now on it may be a live document.
            self._open.pop(name, None)
        self._changes.tell(name)

    def changes(self) -> AsyncIterator[str]:
        """See `ports.Contents.changes`. Jupyter tells nobody: what was used within the last minute is looked at."""
        if not self._is_followed:
            self._is_followed = True
            self._tasks.start_soon(self._follow)
        return self._changes.subscribe()

    def tell(self, path: str) -> None:
        """Say that a notebook has changed, by us."""
        self._changes.tell(self.resolve(path))

    async def _follow(self) -> None:
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            now = anyio.current_time()
            for state in [each for each in self._open.values() if now - each.used_at < _FOLLOWED_SECONDS]:
                try:
                    await state.look()
                except JupyterMcpError as error:
                    logger.debug("whoever uses %s next is told: %s", state.name, error)
                self._let_go(state)

    # ----------------------------------------------------------------- what is open

    @contextlib.asynccontextmanager
    async def using(self, path: str) -> AsyncIterator[OpenNotebook]:
        state = await self._state(self.resolve(path))
        try:
            yield state
        finally:
            self._let_go(state)

    async def _state(self, name: str) -> OpenNotebook:
        async with self._opening.setdefault(name, anyio.Lock()):
            state = self._open.get(name)
            if state is None or not state.is_known or self._is_old(state):
                state = self._open[name] = await self._opened(name, state)
                self._make_room(state)
            self._open.move_to_end(name)
            return state

    def _is_old(self, state: OpenNotebook) -> bool:
        """Whether it was long ago that Jupyter had no live documents."""
        if isinstance(state, RoomNotebook) or state.is_busy:
            return False
        return anyio.current_time() - state.opened_at > _FOLLOWED_SECONDS

    async def _opened(self, name: str, former: OpenNotebook | None) -> OpenNotebook:
        address = None
        with contextlib.suppress(NotFound, InvalidNotebook):
            await self._api.state(name)
            address = await self._api.find_room(name)
        if address is not None:
            return RoomNotebook(self._folder, name, address, self._moved)
        if isinstance(former, FileNotebook):
            former.opened_at = anyio.current_time()
            return former
        return FileNotebook(self._folder, name)

    def _moved(self, state: RoomNotebook, name: str) -> None:
        """Jupyter has another path for a notebook that is open."""
        former = state.name
        if self._open.get(former) is state:
            del self._open[former]
        if (other := self._open.get(name)) is not None:
            other.leave()
        state.name = name
        self._open[name] = state
        self._changes.tell(former)
        self._changes.tell(name)

    def _let_go(self, state: OpenNotebook) -> None:
        """Forget what turned out to be no notebook, or is none any more."""
        if not state.is_known and not state.is_busy and self._open.get(state.name) is state:
            del self._open[state.name]

    def _make_room(self, latest: OpenNotebook) -> None:
        """Drop the notebooks used longest ago once they are too many, or too big together."""
        total, count = sum(state.size for state in self._open.values()), len(self._open)
        for state in list(self._open.values()):
            if total <= _CACHE_BYTES and count <= _CACHE_NOTEBOOKS:
                return
            if state is latest or state.is_busy:
                continue
            total, count = total - state.size, count - 1
            state.leave()
            del self._open[state.name]


class JupyterOutputs(Shown):
    """See `ports.OutputSink`. What shows them, a live document or a file, may be another one by the next time."""

    def __init__(self, contents: JupyterContents, path: str, cell_id: str) -> None:
        super().__init__()
        self._contents = contents
        self._path = path
        self._cell_id = cell_id

    async def show(
        self, execution_count: int | None, *, unless: Unless | None = None, is_running: bool = False
    ) -> NotebookNode | None:
        """See `ports.OutputSink.show`."""
        async with self._contents.using(self._path) as state:
            cell = await self.put_into(state, self._cell_id, execution_count, unless, is_running=is_running)
        self._contents.tell(self._path)
        return cell
