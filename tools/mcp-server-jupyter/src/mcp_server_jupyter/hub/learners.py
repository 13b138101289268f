"""A place in each user's own server: opened when it is used, left when it is not, and never shared by two of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import anyio
import anyio.abc

from ..errors import JupyterMcpError, NotFound, ServerNotRunning, Unauthorized, Unavailable
from ..events import Events
from ..ownership import owned
from ..places import renew
from ..services import Services, open_services
from ..settings import Settings
from ..tasks import plain_errors
from .api import HubApi, Learner, Minted
from .extension import Extension, Sessions, open_extension
from .people import refused
from .starting import Report, start_server
from .user_settings import address_of

logger = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""So long after the last work in a user's server it is left, so that the hub may end it when its user is away."""
RENEW_SECONDS = 300.0
"""So long before a token ends another one is made."""
_AGAIN_SECONDS = 15.0
_REVOKE_SECONDS = 5.0
_FULL_SECONDS = 10
_KNOWN_SECONDS = 30.0
_MOST_KNOWN = 20_000
_AT_ONCE = 16
"""Places that are opened at the same moment; more wait for their turn, in order."""


@dataclass(eq=False)
class _Place:
    """One user's. `error` is why it could not be opened; `users` counts the calls in it.

    Calls go to the `extension` in the user's server where there is one; `services` are opened there only if somebody
    asks for them, and else with the place.
    """

    user: str
    users: int = 0
    used_at: float = field(default_factory=anyio.current_time)
    looked_at: float = field(default_factory=anyio.current_time)
    extension: Extension | None = None
    services: Services | None = None
    serving: anyio.abc.TaskGroup | None = None
    settings: Settings | None = None
    token: Minted | None = None
    error: JupyterMcpError | None = None
    opened: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    closed: anyio.Event = field(default_factory=anyio.Event)
    renewing: anyio.Lock = field(default_factory=anyio.Lock)
    opening: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def is_working(self) -> bool:
        return self.services is not None and bool(self.services.executions.active())

    @property
    def is_free(self) -> bool:
        """Whether it may be left: nobody is in it, and nothing of ours runs there."""
        return self.opened.is_set() and not self.ended.is_set() and not self.users and not self.is_working


class Learners:
    """Made by `open_learners`."""

    def __init__(self, hub: HubApi, settings: Settings, tasks: anyio.abc.TaskGroup, idle_seconds: float) -> None:
        self._hub = hub
        self.settings = settings
        self._tasks = tasks
        self._idle_seconds = idle_seconds
        self._places: dict[str, _Place] = {}
        self._events: WeakValueDictionary[str, Events] = WeakValueDictionary()
        self._sessions: dict[str, Sessions] = {}
        self._known: dict[str, float] = {}
        self._gate = anyio.Semaphore(_AT_ONCE)
        self._is_closed = False

    def __len__(self) -> int:
        """How many servers are being worked in."""
        return len(self._places)

    def events(self, user: str) -> Events:
        """What happens in a user's place, whenever it is open; the same for all who hold it."""
        events = self._events.get(user)
        if events is None:
            events = self._events[user] = Events()
        return events

    async def list(self, running: bool, offset: int, limit: int) -> tuple[Sequence[Learner], int]:
        """See `HubApi.users`."""
        return await self._hub.users(running=running, offset=offset, limit=limit)

    # ------------------------------------------------------------------ places

    async def require(self, user: str) -> None:
        """Whether there is such a user, as the hub has said within the last half minute; one worked for is known.

        Raises:
            NotAllowed: there is none, or the service's role does not cover them.
            Unavailable: the hub does not answer.
        """
        now = anyio.current_time()
        if user in self._places or now - self._known.get(user, -_KNOWN_SECONDS) < _KNOWN_SECONDS:
            return
        try:
            await self._hub.server(user)
        except NotFound as error:
            raise refused() from error
        self._known.pop(user, None)
        while len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[user] = now

    @asynccontextmanager
    async def using(self, user: str) -> AsyncIterator[Services]:
        """A user's place, which is open for as long as the context lasts, and a while longer.

        Raises:
            NotAllowed: there is no such user, or the service's role does not cover them.
            ServerNotRunning: their server is stopped.
            Unavailable: the hub or the server does not answer, or too many servers are in use.
        """
        async with self._in(user) as place:
            yield await self._services(place)

    @asynccontextmanager
    async def extension(self, user: str) -> AsyncIterator[Extension | None]:
        """Our extension in a user's server, open as a place of `using` is; None where there is none.

        Raises:
            NotAllowed, ServerNotRunning, Unavailable: as `using` does.
        """
        async with self._in(user) as place:
            yield place.extension

    @asynccontextmanager
    async def _in(self, user: str) -> AsyncIterator[_Place]:
        place = await self._enter(user)
        try:
            yield place
        except Unauthorized as error:
            # Taken back at the hub, perhaps with everything else it knew.
            await self._renew(place, unless=place.token)
            raise Unavailable(
                f"The server of {user} refuses a token that was made for it.", hint="Repeat the call: it has a new one."
            ) from error
        except ServerNotRunning:
            if place.extension is not None:
                # What comes up the next time may be without it.
                place.ended.set()
            raise
        finally:
            place.users -= 1
            place.used_at = anyio.current_time()

    async def _services(self, place: _Place) -> Services:
        async with place.opening:
            if place.services is None:
                assert place.serving is not None
                async with self._gate:
                    await place.serving.start(self._serve, place)
            assert place.services is not None
            return place.services

    async def _enter(self, user: str) -> _Place:
        while True:
            place = self._places.get(user)
            if place is None:
                await self._make_room()
                if user in self._places:
                    continue
                place = self._places[user] = _Place(user)
                self._tasks.start_soon(self._keep, place)
            if place.ended.is_set():
                await place.closed.wait()
                continue
            place.users += 1
            try:
                await place.opened.wait()
                if place.error is not None:
                    raise copy(place.error)
            except BaseException:
                place.users -= 1
                raise
            return place

    async def _make_room(self) -> None:
        while True:
            if self._is_closed:
                raise Unavailable("The service is ending.", hint="Try again soon.", retry_after=_FULL_SECONDS)
            if len(self._places) < self.settings.hub_places:
                return
            leaving = [place for place in self._places.values() if place.ended.is_set()]
            free = sorted((place for place in self._places.values() if place.is_free), key=lambda each: each.used_at)
            if not leaving and not free:
                raise Unavailable(
                    f"{len(self._places)} servers are in use, as many as --hub-places allows.",
                    hint=f"Try again in {_FULL_SECONDS} s.",
                    retry_after=_FULL_SECONDS,
                )
            chosen = (leaving or free)[0]
            chosen.ended.set()
            await chosen.closed.wait()

    # ------------------------------------------------------------------ one place's life

    async def _keep(self, place: _Place) -> None:
        try:
            with plain_errors():
                await self._live(place)
        except JupyterMcpError as error:
            place.error = error
        except Exception:
            logger.exception("the place of a user failed", extra={"user": place.user})
            place.error = Unavailable(f"The server of {place.user} cannot be used; the service's log says why.")
        finally:
            if not place.opened.is_set() and place.error is None:
                place.error = Unavailable("The service is ending.", hint="Try again soon.", retry_after=_FULL_SECONDS)
            del self._places[place.user]
            place.opened.set()
            place.closed.set()

    async def _live(self, place: _Place) -> None:
        async with AsyncExitStack() as stack:
            async with self._gate:
                settings = place.settings = await self._reach(place)
                stack.push_async_callback(self._revoke, place)
                place.extension = await stack.enter_async_context(self._open_extension(place, settings))
            place.serving = await stack.enter_async_context(anyio.create_task_group())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_token, place)
                if place.extension is None:
                    await self._services(place)
                place.used_at = anyio.current_time()
                place.opened.set()
                await place.ended.wait()
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _open_extension(self, place: _Place, settings: Settings) -> AsyncIterator[Extension | None]:
        assert settings.jupyter_url is not None
        assert place.token is not None
        sessions = self._sessions.pop(place.user, None) or Sessions()
        # The user worked for longest ago comes first.
        self._sessions[place.user] = sessions
        while len(self._sessions) > _MOST_KNOWN:
            del self._sessions[next(iter(self._sessions))]
        async with open_extension(settings.jupyter_url, place.token.token, sessions) as extension:
            yield extension

    async def _serve(self, place: _Place, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """The services over a user's server, until its place is left."""
        assert place.settings is not None
        with owned(place.settings):
            async with open_services(place.settings) as services:
                stop = services.events.listen(self.events(place.user).pass_on)
                place.services = services
                try:
                    task_status.started()
                    await place.ended.wait()
                finally:
                    stop()
                    place.services = None

    async def _reach(self, place: _Place) -> Settings:
        """Where a user's server is, with a token for it."""
        try:
            server = await self._hub.server(place.user)
        except NotFound as error:
            raise refused() from error
        if not server.is_ready:
            raise ServerNotRunning(
                f"The server of {place.user} {'is starting' if server.is_pending else 'is not running'}.",
                hint="start_server starts it, and waits for it.",
            )
        url = address_of(self.settings.hub_url, server.path, server.url)
        place.token = await self._hub.mint(place.user)
        return dataclasses.replace(self.settings, jupyter_url=url, jupyter_token=place.token.token)

    async def _keep_token(self, place: _Place) -> None:
        assert place.token is not None
        while True:
            await anyio.sleep(max(0.0, place.token.ends_in - RENEW_SECONDS))
            try:
                await self._renew(place, unless=None)
            except Unavailable as error:
                logger.warning("the token for a user's server is not renewed yet: %s", error)
                await anyio.sleep(_AGAIN_SECONDS)
            except JupyterMcpError as error:
                logger.warning("a user's server is left: %s", error, extra={"user": place.user})
                place.ended.set()
                return

    async def _renew(self, place: _Place, *, unless: Minted | None) -> None:
        """Have the place use another token. One that is as new as can be is not replaced for a server that takes none.

        Args:
            unless: the token that was refused; somebody else may have replaced it meanwhile.
        """
        async with place.renewing:
            assert place.token is not None
            assert place.settings is not None
            if unless is not None and (unless is not place.token or place.token.age < _AGAIN_SECONDS):
                return
            place.token = await self._hub.mint(place.user)
            place.settings = dataclasses.replace(place.settings, jupyter_token=place.token.token)
            if place.extension is not None:
                place.extension.renew(place.token.token)
            if place.services is not None:
                renew(place.services, place.settings)

    async def _revoke(self, place: _Place) -> None:
        """Leave no token behind that still opens something; the hub ends it by itself where it is away now."""
        assert place.token is not None
        with anyio.move_on_after(_REVOKE_SECONDS, shield=True):
            try:
                await self._hub.revoke(place.user, place.token)
            except JupyterMcpError as error:
                logger.debug("a token ends by itself: %s", error)

    async def close_idle(self) -> None:
        """Leave the servers nobody works in, until cancelled; and those that stopped while a cell ran."""
        async with anyio.create_task_group() as looking:
            while True:
                await anyio.sleep(self._idle_seconds / 12)
                now = anyio.current_time()
                for place in self._places.values():
                    if place.users or place.is_working:
                        place.used_at = now
                        if not place.users and now - place.looked_at >= self._idle_seconds:
                            place.looked_at = now
                            looking.start_soon(self._look, place)
                    elif place.is_free and now - place.used_at >= self._idle_seconds:
                        place.ended.set()

    async def _look(self, place: _Place) -> None:
        """Leave a server that runs no more: what ran in it does not either, and nothing else would say so."""
        try:
            server = await self._hub.server(place.user)
            runs = server.is_ready or server.is_pending
        except NotFound:
            runs = False
        except JupyterMcpError as error:
            logger.debug("whether a server still runs is not known: %s", error)
            return
        if not runs:
            place.ended.set()

    async def drain(self, seconds: float) -> None:
        """Let what runs anywhere finish within `seconds`; the rest goes on in the users' kernels."""
        async with anyio.create_task_group() as tasks:
            for place in self._places.values():
                if place.services is not None and place.is_working:
                    tasks.start_soon(place.services.drain, seconds)

    def close(self) -> None:
        """Leave them all."""
        self._is_closed = True
        for place in self._places.values():
            place.ended.set()

    async def start(self, user: str, report: Report, seconds: float) -> bool:
        """See `starting.start_server`."""
        return await start_server(self._hub, user, report, seconds)


@asynccontextmanager
async def open_learners(
    hub: HubApi, settings: Settings, *, idle_seconds: float = IDLE_SECONDS
) -> AsyncIterator[Learners]:
    """The users' places; those that are open at the end are closed in order, and what runs in them goes on.

    Args:
        settings: of `hub_settings`.
        idle_seconds: how long a place stays open without work.
    """
    async with anyio.create_task_group() as tasks:
        learners = Learners(hub, settings, tasks, idle_seconds)
        async with anyio.create_task_group() as beside:
            beside.start_soon(learners.close_idle)
            try:
                yield learners
            finally:
                learners.close()
                beside.cancel_scope.cancel()
