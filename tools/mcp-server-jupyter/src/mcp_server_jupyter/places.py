"""The places a server works in: where it was started, and every other Jupyter that it was connected to meanwhile.

Each place is `Services` of its own, with its own state. One of them is the current one: the place of every call that
names nothing of another. Doors look it up for each call.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol

import anyio
import anyio.abc

from .addresses import Address
from .errors import InvalidRequest, Unavailable
from .events import Event, Events
from .ownership import owned
from .ports import Renewable
from .services import Services, open_services
from .settings import Settings

logger = logging.getLogger(__name__)

MOST = 16
"""Places besides the first; the one left longest ago in which nothing runs is closed for one more."""
_GROUP = "mcp_server_jupyter.verify"

Verify = Callable[[Address, Literal["contents", "kernels"]], Awaitable[None]]


class Here(Protocol):
    """Where the calls of one door work."""

    @property
    def events(self) -> Events:
        """What happens there."""

    @property
    def settings(self) -> Settings:
        """Of the place where calls go that name nothing of another."""

    def using(self, arguments: object = None) -> AbstractAsyncContextManager[Services]:
        """The place of a call with these arguments, which is open for as long as the context lasts.

        Raises:
            JupyterMcpError: it cannot be had.
        """


@dataclass(eq=False)
class _Opened:
    services: Services
    ended: anyio.Event = field(default_factory=anyio.Event)
    closed: anyio.Event = field(default_factory=anyio.Event)


class Places:
    """Made by `open_places`.

    Attributes:
        home: the place the server was started in, which editors' windows work in.
        current: where calls go that name nothing of another place.
        events: what happens in the current place, and `place.changed` when that is another one.
        everywhere: what happens in all of them.
    """

    def __init__(self, home: Services, tasks: anyio.abc.TaskGroup) -> None:
        self.home = self.current = home
        self.events, self.everywhere = Events(), Events()
        self._tasks = tasks
        self._others: dict[Path, _Opened] = {}
        self._opening = anyio.Lock()
        self._stop_hearing_home = self._hear(home)

    # ------------------------------------------------------------------ looking up

    def all(self) -> Sequence[Services]:
        """Every open place, the current one first."""
        known = [self.home, *(each.services for each in self._others.values())]
        return [self.current, *(each for each in known if each is not self.current)]

    async def of(self, arguments: object) -> Services:
        """The place of a call: the current one, unless an execution or a kernel that it names is another's."""
        if not isinstance(arguments, Mapping) or not self._others:
            return self.current
        execution_id, kernel_id = arguments.get("execution_id"), arguments.get("kernel_id")
        for services in self.all():
            if isinstance(kernel_id, str) and kernel_id and _has_kernel(services, kernel_id):
                return services
            if isinstance(execution_id, str) and await _has_execution(services, execution_id):
                return services
        return self.current

    @property
    def settings(self) -> Settings:
        """See `Here.settings`."""
        return self.current.settings

    @asynccontextmanager
    async def using(self, arguments: object = None) -> AsyncIterator[Services]:
        """See `Here.using`."""
        yield await self.of(arguments)

    @property
    def is_working(self) -> bool:
        """Whether a cell runs or waits in any of them."""
        return any(services.executions.active() for services in self.all())

    async def drain(self, seconds: float) -> None:
        """Let what runs anywhere finish within `seconds`."""
        async with anyio.create_task_group() as tasks:
            for services in self.all():
                tasks.start_soon(services.drain, seconds)

    # ------------------------------------------------------------------ opening and switching

    async def open(self, settings: Settings) -> Services:
        """The place of these settings, opened if it is not yet. One that is open takes their credentials.

        Raises:
            Unavailable: another process works there, or too much runs in too many places.
            InvalidRequest: no such backend, or its state cannot be written.
        """
        async with self._opening:
            if settings.root_state == self.home.settings.root_state:
                renew(self.home, settings)
                return self.home
            opened = self._others.get(settings.root_state)
            if opened is None:
                await self._make_room()
                return await self._tasks.start(self._keep, settings)  # type: ignore[no-any-return]
            renew(opened.services, settings)
            return opened.services

    def switch(self, services: Services) -> None:
        """Have calls go there from now on. What runs elsewhere goes on."""
        if services is self.current:
            return
        self.current = services
        state = services.settings.root_state
        if (opened := self._others.pop(state, None)) is not None:
            # The one left longest ago comes first.
            self._others[state] = opened
        where = ", ".join(address.url for address in services.settings.jupyters) or str(services.settings.root)
        logger.info("calls go to another place now", extra={"place": where})
        self.events.publish("place.changed", place=where)
        self.everywhere.publish("place.changed", place=where)

    async def _keep(self, settings: Settings, *, task_status: anyio.abc.TaskStatus[Services]) -> None:
        with owned(settings):
            async with open_services(settings) as services:
                opened = self._others[settings.root_state] = _Opened(services)
                stop = self._hear(services)
                try:
                    task_status.started(services)
                    await opened.ended.wait()
                finally:
                    stop()
                    del self._others[settings.root_state]
                services.leave_kernels = self.home.leave_kernels
        opened.closed.set()

    async def _make_room(self) -> None:
        if len(self._others) < MOST:
            return
        for opened in list(self._others.values()):
            if opened.services is not self.current and not opened.services.executions.active():
                opened.ended.set()
                await opened.closed.wait()
                return
        raise Unavailable(
            f"Cells run in {MOST} places already.", hint="Wait until they have ended, or interrupt some of them."
        )

    def _hear(self, services: Services) -> Callable[[], None]:
        def hear(event: Event) -> None:
            self.everywhere.pass_on(event)
            if services is self.current:
                self.events.pass_on(event)

        return services.events.listen(hear)

    def close(self) -> None:
        """Close them all but the first, which is somebody else's."""
        self._stop_hearing_home()
        for opened in list(self._others.values()):
            opened.ended.set()


@asynccontextmanager
async def open_places(home: Services) -> AsyncIterator[Places]:
    """The places of a server that was started in one; those opened meanwhile are closed in order."""
    async with anyio.create_task_group() as tasks:
        places = Places(home, tasks)
        try:
            yield places
        finally:
            places.close()


def providers() -> Sequence[str]:
    """Whom a server can be connected to, by name."""
    return sorted(point.name for point in entry_points(group=_GROUP))


async def verify(provider: str, address: Address, port: Literal["contents", "kernels"]) -> None:
    """Whether somebody answers there who takes the token, for notebooks or for kernels.

    Raises:
        InvalidRequest: no such provider.
        Unavailable, Unauthorized
    """
    for point in entry_points(group=_GROUP, name=provider):
        check: Verify = point.load()
        await check(address, port)
        return
    raise InvalidRequest(f"No provider {provider!r}.", hint=f"Known: {', '.join(providers())}.")


def renew(services: Services, settings: Settings) -> None:
    """Have a place that is open use the credentials of these settings."""
    for backend in (services.contents, services.kernels, services.terminals):
        if isinstance(backend, Renewable):
            backend.renew(settings)


def _has_kernel(services: Services, kernel_id: str) -> bool:
    sessions = services.sessions
    known = sessions.starts.kernel_id(kernel_id)
    return sessions.starts.get(kernel_id) is not None or any(each.id.startswith(known) for each in sessions.all())


async def _has_execution(services: Services, execution_id: str) -> bool:
    if services.executions.get(execution_id) is not None:
        return True
    return await services.journal.recall(execution_id) is not None
