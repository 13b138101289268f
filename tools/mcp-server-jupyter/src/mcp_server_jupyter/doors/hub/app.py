"""The HTTP application of a hub's service. A caller's token is looked at here, and goes to the hub alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import __version__
from ...errors import JupyterMcpError, Unauthorized
from ...hub import Learners, People, Person
from ...settings import Settings
from ..http.app import assembled
from ..http.json_text import Json
from ..http.security import Guard, RateLimit, TooManyRequests, error_response
from .endpoints import Endpoints
from .learner_mcp import PERSON

NAME = "mcp-server-jupyter-hub"
MOST_AT_ONCE = 64
"""Requests of one caller that are answered at the same moment, streams among them."""


def create_hub(
    settings: Settings,
    people: People,
    learners: Learners,
    endpoints: Endpoints,
    apps: Mapping[str, ASGIApp],
    *,
    port: int | None = None,
) -> Starlette:
    """The app of the service.

    Args:
        apps: what else is served to whoever the hub knows, by path below the prefix; each says itself who may do what.
        port: the one it listens on, None when it is not known.
    """
    routes = _Routes(learners)
    prefix = "/" + settings.hub_service_prefix.strip("/")
    prefix = prefix.rstrip("/")
    desk = Desk(people, learners, settings.rate_limit)
    own, of_user = Own(desk, endpoints), OfUser(desk, endpoints)
    return assembled(
        [
            # A probe of the pod knows no prefix.
            *(Route(f"{each}/health", routes.health, methods=["GET"]) for each in dict.fromkeys(("", prefix))),
            *(Route(f"{prefix}/mcp{end}", own) for end in ("", "/")),
            *(Route(f"{prefix}/user/{{name}}/mcp{end}", of_user) for end in ("", "/")),
            *(Route(f"{prefix}{path}", Known(desk, app)) for path, app in apps.items()),
            *(Mount(f"{prefix}{path}", Known(desk, app)) for path, app in apps.items()),
        ],
        [Middleware(Guard, settings=settings, token=None, port=port, is_proxied=True)],
    )


class _Routes:
    def __init__(self, learners: Learners) -> None:
        self._learners = learners

    async def health(self, request: Request) -> Response:
        """That it is alive, and in how many servers it works."""
        return Json({"status": "ok", "service": NAME, "version": __version__, "servers": len(self._learners)})


class Desk:
    """Who sends a request, and whether it is their turn: one caller's many requests are not to be another's wait."""

    def __init__(self, people: People, learners: Learners, per_minute: int) -> None:
        self.people = people
        self.learners = learners
        self._rate = RateLimit(per_minute)
        self._at_once: Counter[str] = Counter()

    async def person(self, scope: Scope) -> Person:
        """Whose the request's token is.

        Raises:
            Unauthorized, Unavailable
        """
        sent = Headers(scope=scope).getlist("authorization")
        scheme, _, token = (sent[0] if len(sent) == 1 else "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token.strip():
            raise Unauthorized("No token.", hint="Send `Authorization: token TOKEN`, with a token of the hub.")
        return await self.people.of(token.strip())

    async def serve(self, person: Person, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a person's request when it is within their share.

        Raises:
            TooManyRequests
        """
        who = person.shown
        if wait := self._rate.wait(who):
            raise TooManyRequests("Too many requests.", hint=f"Wait {wait:.1f} s.")
        if self._at_once[who] >= MOST_AT_ONCE:
            raise TooManyRequests(
                f"{MOST_AT_ONCE} requests of yours are being answered.", hint="Wait until one of them is."
            )
        self._at_once[who] += 1
        try:
            await app(_signed(scope, person), receive, send)
        finally:
            self._at_once[who] -= 1
            if not self._at_once[who]:
                del self._at_once[who]


class _Guarded:
    """An ASGI endpoint for whoever the hub knows; refuses the others in words."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            person = await self._desk.person(scope)
            await self._desk.serve(person, await self._app(person, scope), scope, receive, send)
        except JupyterMcpError as error:
            await error_response(error, _headers(error))(scope, receive, send)

    async def _app(self, person: Person, scope: Scope) -> ASGIApp:
        raise NotImplementedError


class Known(_Guarded):
    """An application that says itself who may do what."""

    def __init__(self, desk: Desk, app: ASGIApp) -> None:
        super().__init__(desk)
        self._known = app

    async def _app(self, person: Person, scope: Scope) -> ASGIApp:
        return self._known


class _Endpoint(_Guarded):
    """The MCP endpoint of a user's server."""

    def __init__(self, desk: Desk, endpoints: Endpoints) -> None:
        super().__init__(desk)
        self._endpoints = endpoints

    async def _app(self, person: Person, scope: Scope) -> ASGIApp:
        user = self._user(person, scope)
        await self._desk.learners.require(user)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await self._endpoints.serve(user, scope, receive, send)

        return serve

    def _user(self, person: Person, scope: Scope) -> str:
        raise NotImplementedError


class Own(_Endpoint):
    """`/mcp`: the caller's own server."""

    def _user(self, person: Person, scope: Scope) -> str:
        return self._desk.people.own(person)


class OfUser(_Endpoint):
    """`/user/NAME/mcp`: one user's server."""

    def _user(self, person: Person, scope: Scope) -> str:
        name: str = scope["path_params"]["name"]
        self._desk.people.require(person, name)
        return name


def _signed(scope: Scope, person: Person) -> Scope:
    """The request with who sent it, for the SDK as well: a session is its owner's alone; and without their token."""
    owner = AccessToken(token="", client_id=person.shown, subject=None if person.name is None else "user", scopes=[])
    headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    return {**scope, "headers": headers, PERSON: person, "user": AuthenticatedUser(owner)}


def _headers(error: JupyterMcpError) -> dict[str, str] | None:
    if isinstance(error, Unauthorized):
        return {"www-authenticate": 'Bearer realm="mcp-server-jupyter"'}
    return {"retry-after": "1"} if isinstance(error, TooManyRequests) else None
