"""An MCP endpoint for each user who is worked for: made at the first request, gone with the last session."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from ...errors import Unavailable
from ...hub import Learners
from ...settings import Settings
from ..http.bare_post import McpRoute
from ..mcp.sdk_compat import lowlevel
from .learner_mcp import create_learner_mcp

logger = logging.getLogger(__name__)

SESSION_SECONDS = 1_800.0
"""A session without a request for so long ends; its client begins another one."""
_MOST_SESSIONS = 64
_LOOK_SECONDS = 30.0
_FULL_SECONDS = 30


@dataclass(eq=False)
class _Endpoint:
    user: str
    requests: int = 0
    used_at: float = field(default_factory=anyio.current_time)
    route: McpRoute | None = None
    opened: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    closed: anyio.Event = field(default_factory=anyio.Event)


class Endpoints:
    """Made by `open_endpoints`."""

    def __init__(self, learners: Learners, settings: Settings, tasks: anyio.abc.TaskGroup) -> None:
        self._learners = learners
        self._settings = settings
        self._tasks = tasks
        self._known: dict[str, _Endpoint] = {}

    async def serve(self, user: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a user's server.

        Raises:
            Unavailable: too many users are worked for.
        """
        endpoint = await self._of(user)
        endpoint.requests += 1
        try:
            await endpoint.opened.wait()
            if endpoint.route is None:
                raise Unavailable("The endpoint could not be opened; the service's log says why.")
            await endpoint.route(scope, receive, send)
        finally:
            endpoint.requests -= 1
            endpoint.used_at = anyio.current_time()

    async def _of(self, user: str) -> _Endpoint:
        while True:
            endpoint = self._known.get(user)
            if endpoint is None:
                if await self._made_room():
                    continue
                endpoint = self._known[user] = _Endpoint(user)
                self._tasks.start_soon(self._keep, endpoint)
            if not endpoint.ended.is_set():
                return endpoint
            await endpoint.closed.wait()

    async def _made_room(self) -> bool:
        """Whether one had to go first, the one used longest ago. Its clients find no session, and begin another."""
        # They are small beside a place, and outlive it by half an hour.
        if len(self._known) < 4 * self._settings.hub_places:
            return False
        unused = sorted((each for each in self._known.values() if not each.requests), key=lambda each: each.used_at)
        if not unused:
            raise Unavailable("Too many users are worked for.", hint="Try again later.", retry_after=_FULL_SECONDS)
        unused[0].ended.set()
        await unused[0].closed.wait()
        return True

    async def _keep(self, endpoint: _Endpoint) -> None:
        try:
            most = self._settings.max_body_bytes
            server = lowlevel(create_learner_mcp(self._learners, endpoint.user, self._settings.wait_seconds))
            sessions = StreamableHTTPSessionManager(
                server,
                max_request_body_size=most,
                session_idle_timeout=SESSION_SECONDS,
                max_sessions=_MOST_SESSIONS,
            )
            plain = StreamableHTTPSessionManager(server, stateless=True, json_response=True, max_request_body_size=most)
            async with sessions.run(), plain.run():
                endpoint.route = McpRoute(sessions, plain, most)
                endpoint.opened.set()
                await endpoint.ended.wait()
        except Exception:
            logger.exception("an endpoint failed", extra={"user": endpoint.user})
        finally:
            endpoint.ended.set()
            del self._known[endpoint.user]
            endpoint.opened.set()
            endpoint.closed.set()

    async def close_unused(self) -> None:
        """Forget those whose sessions have all ended, until cancelled."""
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            now = anyio.current_time()
            for endpoint in self._known.values():
                if not endpoint.requests and now - endpoint.used_at > SESSION_SECONDS + _LOOK_SECONDS:
                    endpoint.ended.set()

    def close(self) -> None:
        """End them all."""
        for endpoint in self._known.values():
            endpoint.ended.set()


@asynccontextmanager
async def open_endpoints(learners: Learners, settings: Settings) -> AsyncIterator[Endpoints]:
    """The endpoints of the users; all sessions end with the context."""
    async with anyio.create_task_group() as tasks:
        endpoints = Endpoints(learners, settings, tasks)
        async with anyio.create_task_group() as beside:
            beside.start_soon(endpoints.close_unused)
            try:
                yield endpoints
            finally:
                endpoints.close()
                beside.cancel_scope.cancel()
