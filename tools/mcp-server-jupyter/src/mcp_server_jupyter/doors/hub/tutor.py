"""The tutor within a hub's service: for staff, and for learners in their own work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from ...errors import JupyterMcpError, NotAllowed
from ...hub import Learners, People, Person
from ...settings import Settings
from ...tutor.service import open_tutor
from ..http.app import http_error, known_error, unknown_error
from ..http.bare_post import McpRoute
from ..mcp.sdk_compat import lowlevel
from ..tutor.mcp import create_tutor_mcp
from ..tutor.routes import tutor_routes
from .endpoints import SESSION_SECONDS
from .learner_mcp import PERSON


class Authority:
    """Who may have the tutor do what: see `doors.tutor.operations.Allow`."""

    def __init__(self, people: People, learners: Learners) -> None:
        self._people = people
        self._learners = learners

    async def __call__(self, request: Request, learner: str | None) -> None:
        person: Person = request.scope[PERSON]
        if learner is not None:
            self._people.require(person, learner)
            await self._learners.require(learner)
        elif not self._people.is_staff(person):
            raise NotAllowed("That is for staff.", hint="Name yourself as the learner.")


@asynccontextmanager
async def open_tutor_apps(
    settings: Settings, people: People, learners: Learners
) -> AsyncIterator[Mapping[str, ASGIApp]]:
    """The tutor's applications by their path below the service's prefix; none where no folder of tasks is named."""
    if settings.tasks is None:
        yield {}
        return
    allow = Authority(people, learners)
    async with open_tutor(settings, learners.using, roster=learners.list) as tutor:
        server = lowlevel(create_tutor_mcp(tutor, allow))
        most = settings.max_body_bytes
        sessions = StreamableHTTPSessionManager(
            server, max_request_body_size=most, session_idle_timeout=SESSION_SECONDS
        )
        plain = StreamableHTTPSessionManager(server, stateless=True, json_response=True, max_request_body_size=most)
        api = Starlette(
            routes=tutor_routes(tutor, allow),
            exception_handlers={JupyterMcpError: known_error, HTTPException: http_error, Exception: unknown_error},
        )
        async with sessions.run(), plain.run():
            yield {"/tutor/mcp": McpRoute(sessions, plain, most), "/tutor/api": api}
