"""The HTTP application of one server: MCP at /mcp, REST, health, metrics and events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from mcp.server import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ExceptionHandler, Lifespan

from ...errors import JupyterMcpError
from ...places import Places
from ..editor.routes import EditorRoutes
from ..mcp.sdk_compat import lowlevel
from .bare_post import McpRoute
from .events import EventLog
from .in_flight import InFlight, Tracked
from .json_text import Json
from .metrics import Metrics
from .rest import Rest
from .security import Guard, error_response


def create_http(places: Places, mcp: MCPServer, token: str | None, *, port: int | None = None) -> Starlette:
    """The app of one server. `port` is the one it will listen on, None when it is not known."""
    settings = places.home.settings
    editor = EditorRoutes(places.home)
    rest = Rest(places, mcp, token, port or settings.port)
    served = _Served(places, mcp, rest)
    return served.application(
        [
            Route("/", served.mcp, methods=["POST"]),
            Route("/health", rest.health),
            Route("/api/connect", rest.connect, methods=["PUT"]),
            *editor.routes(),
        ],
        [Middleware(Guard, settings=settings, token=token, port=port)],
        editor.following,
    )


def create_mounted(places: Places, mcp: MCPServer) -> Starlette:
    """The app inside another server, which lets callers in: without a token, editors' windows and other places."""
    rest = Rest(places, mcp, None, places.home.settings.port)
    return _Served(places, mcp, rest).application([], [], nullcontext)


class _Served:
    """What every application of ours serves."""

    def __init__(self, places: Places, mcp: MCPServer, rest: Rest) -> None:
        limit = places.home.settings.max_body_bytes
        open_transport = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        mcp.streamable_http_app(max_request_body_size=limit, transport_security=open_transport)
        self._sessions = mcp.session_manager
        self._plain = StreamableHTTPSessionManager(
            lowlevel(mcp), stateless=True, json_response=True, max_request_body_size=limit
        )
        self.mcp = McpRoute(self._sessions, self._plain, limit)
        self._rest = rest
        self._log, self._metrics = EventLog(places.events), Metrics(places)

    def application(
        self,
        routes: Sequence[Route],
        guards: Sequence[Middleware],
        following: Callable[[], AbstractContextManager[None]],
    ) -> Starlette:
        """It with more routes, and what keeps callers out."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            with self._log.following(), self._metrics.following(), following():
                async with self._sessions.run(), self._plain.run():
                    yield

        return assembled(
            [
                Route("/mcp", self.mcp),
                Route("/mcp/", self.mcp),
                Route("/api/healthz", self._rest.healthz),
                Route("/api/readyz", self._rest.readyz),
                Route("/api/operations", self._rest.operations),
                Route("/api/operations/{name}", self._rest.operate, methods=["POST"]),
                Route("/api/events", self._log.endpoint),
                Route("/metrics", self._metrics.endpoint),
                *routes,
            ],
            guards,
            lifespan=lifespan,
        )


def assembled(
    routes: Sequence[BaseRoute],
    guards: Sequence[Middleware],
    *,
    handlers: Mapping[Any, ExceptionHandler] = MappingProxyType({}),
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """An application that `serve.http_door` can serve: its errors are told in words, and its requests are counted.

    Args:
        guards: what keeps callers out.
        handlers: of errors of its own.
    """
    requests = InFlight()
    known = {JupyterMcpError: known_error, HTTPException: http_error, Exception: unknown_error}
    app = Starlette(
        routes=list(routes),
        middleware=[*guards, Middleware(Tracked, requests=requests)],
        exception_handlers={**known, **handlers},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.requests = requests
    app.state.stopping = False
    return app


def known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, JupyterMcpError)
    return error_response(error)


def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
    content = {"error": code, "message": error.detail, "hint": None}
    return Json(content, status_code=error.status_code, headers=error.headers)


def unknown_error(request: Request, error: Exception) -> Response:
    content = {"error": "internal", "message": "The server failed; its log says how.", "hint": None}
    return Json(content, status_code=500)
