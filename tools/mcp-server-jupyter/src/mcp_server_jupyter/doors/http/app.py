"""The HTTP application of one server: MCP at /mcp, REST, health, metrics and events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
    rest = Rest(places, mcp, token, port or settings.port)
    open_transport = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    mcp.streamable_http_app(max_request_body_size=settings.max_body_bytes, transport_security=open_transport)
    plain = StreamableHTTPSessionManager(
        lowlevel(mcp), stateless=True, json_response=True, max_request_body_size=settings.max_body_bytes
    )
    mcp_route = McpRoute(mcp.session_manager, plain, settings.max_body_bytes)
    log, metrics, requests = EventLog(places.events), Metrics(places), InFlight()
    editor = EditorRoutes(places.home)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with log.following(), metrics.following(), editor.following():
            async with mcp.session_manager.run(), plain.run():
                yield

    app = Starlette(
        routes=[
            Route("/mcp", mcp_route),
            Route("/mcp/", mcp_route),
            Route("/", mcp_route, methods=["POST"]),
            Route("/health", rest.health),
            Route("/api/healthz", rest.healthz),
            Route("/api/readyz", rest.readyz),
            Route("/api/connect", rest.connect, methods=["PUT"]),
            Route("/api/operations", rest.operations),
            Route("/api/operations/{name}", rest.operate, methods=["POST"]),
            Route("/api/events", log.endpoint),
            Route("/metrics", metrics.endpoint),
            *editor.routes(),
        ],
        middleware=[
            Middleware(Guard, settings=settings, token=token, port=port),
            Middleware(Tracked, requests=requests),
        ],
        exception_handlers={JupyterMcpError: known_error, HTTPException: http_error, Exception: unknown_error},
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
