"""The HTTP doors: MCP at /mcp, REST, health, metrics and events."""

from __future__ import annotations

import dataclasses
import json
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.abc
import uvicorn
from mcp.server import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import __version__
from ...errors import InvalidRequest, JupyterMcpError, Unavailable
from ...operations import Caller
from ...operations.bind import invoke
from ...ownership import announced, load_token
from ...services import Services, open_services
from ...settings import Settings
from ..mcp.sdk_compat import lowlevel
from ..mcp.server import create_mcp
from .bare_post import McpRoute
from .connect import connect
from .events import EventLog
from .metrics import Metrics
from .security import Guard, error_response, read_body

NAME = "mcp-server-jupyter"
_STOPPING = "The server is stopping; the call was not answered in time."
_STOPPING_HINT = "What a cell has put out so far is in its notebook; get_execution of the next server knows more."
_MAX_HEADER_BYTES = 64 * 2**10


def create_http(services: Services, mcp: MCPServer, token: str | None, *, port: int | None = None) -> Starlette:
    """The app of one server. `port` is the one it will listen on, None when it is not known."""
    settings = services.settings
    rest = _Rest(services, mcp, token, port or settings.port)
    open_transport = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    mcp.streamable_http_app(max_request_body_size=settings.max_body_bytes, transport_security=open_transport)
    plain = StreamableHTTPSessionManager(
        lowlevel(mcp), stateless=True, json_response=True, max_request_body_size=settings.max_body_bytes
    )
    mcp_route = McpRoute(mcp.session_manager, plain, settings.max_body_bytes)
    log, metrics, requests = EventLog(services.events), Metrics(services), InFlight()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with mcp.session_manager.run(), plain.run(), anyio.create_task_group() as tasks:
            tasks.start_soon(log.follow)
            tasks.start_soon(metrics.follow)
            yield
            tasks.cancel_scope.cancel()

    app = Starlette(
        routes=[
            Route("/mcp", mcp_route),
            Route("/mcp/", mcp_route),
            Route("/", mcp_route, methods=["POST"]),
            Route("/health", rest.health),
            Route("/api/healthz", rest.healthz),
            Route("/api/connect", rest.connect, methods=["PUT"]),
            Route("/api/operations", rest.operations),
            Route("/api/operations/{name}", rest.operate, methods=["POST"]),
            Route("/api/events", log.endpoint),
            Route("/metrics", metrics.endpoint),
        ],
        middleware=[
            Middleware(Guard, settings=settings, token=token, port=port),
            Middleware(_Tracked, requests=requests),
        ],
        exception_handlers={JupyterMcpError: _known, HTTPException: _http, Exception: _unknown},
        lifespan=lifespan,
    )
    app.state.requests = requests
    app.state.stopping = False
    return app


class InFlight:
    """The requests being answered, so that the end of the server need not wait for the longest of them."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noticing_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with anyio.CancelScope() as ending:
            self._scopes.add(ending)
            try:
                await app(scope, receive, noticing_send)
            finally:
                self._scopes.discard(ending)
        if ending.cancelled_caught:
            if started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await error_response(Unavailable(_STOPPING, hint=_STOPPING_HINT))(scope, receive, send)

    def end(self) -> None:
        """Answer what waits with 503, and close the streams."""
        for scope in list(self._scopes):
            scope.cancel()


class _Tracked:
    def __init__(self, app: ASGIApp, *, requests: InFlight) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._requests.run(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _Rest:
    def __init__(self, services: Services, mcp: MCPServer, token: str | None, port: int) -> None:
        self._services = services
        self._mcp = mcp
        self._token = token
        self._port = port

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": NAME, "version": __version__})

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy", "kernel_status": self._services.kernel_status()})

    async def connect(self, request: Request) -> Response:
        own = (self._services.settings.host, self._port)
        body = await self._object(request)
        return JSONResponse(await connect(self._services, body, own_address=own, token=self._token))

    async def operations(self, request: Request) -> Response:
        tools = await self._mcp.list_tools()
        fields = {"name", "title", "description", "input_schema", "annotations"}
        listed = [tool.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields) for tool in tools]
        return JSONResponse({"operations": listed})

    async def operate(self, request: Request) -> Response:
        arguments = await self._object(request)
        answer = await invoke(self._services, request.path_params["name"], arguments, caller=Caller("user"))
        return JSONResponse(
            {
                "text": answer.text,
                "data": answer.data,
                "is_error": answer.is_error,
                "links": [{"uri": link.uri, "name": link.name} for link in answer.links],
                "images": [{"data": image.data, "mime_type": image.mime_type} for image in answer.images],
            }
        )

    async def _object(self, request: Request) -> dict[str, Any]:
        body = await read_body(request.receive, self._services.settings.max_body_bytes)
        try:
            value = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("The body is not JSON, or nested too deep.", hint="Send a JSON object.") from error
        if not isinstance(value, dict):
            raise InvalidRequest("The body is not a JSON object.", hint="Send the arguments by name.")
        return value


def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, JupyterMcpError)
    return error_response(error)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
    content = {"error": code, "message": error.detail, "hint": None}
    return JSONResponse(content, status_code=error.status_code, headers=error.headers)


def _unknown(request: Request, error: Exception) -> Response:
    content = {"error": "internal", "message": "The server failed; its log says how.", "hint": None}
    return JSONResponse(content, status_code=500)


# --------------------------------------------------------------------------- serving


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the first signal drains, see `_until_signal`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_http(settings: Settings, say: Callable[[str, str | None], object]) -> None:
    """Serve until a signal: then stop accepting, let running cells finish within `grace_seconds`, and return.

    `say` is given the endpoint and the token once it can be reached.
    """
    token = load_token(settings)
    listener = _listen(settings)
    port = int(listener.getsockname()[1])
    url = f"http://{_url_host(settings.host)}:{port}/mcp"
    async with open_services(settings) as services:
        app = create_http(services, create_mcp(services), token, port=port)
        server = _Server(_config(app))
        async with anyio.create_task_group() as tasks:
            with announced(settings, url, token, __version__):
                tasks.start_soon(_serve, server, listener, tasks.cancel_scope)
                say(url, token)
                await _until_signal()
                for accepting in server.servers:
                    accepting.close()
                listener.close()
            app.state.stopping = True
            await services.drain(settings.grace_seconds)
            app.state.requests.end()
            server.should_exit = True


async def share_http(services: Services) -> None:
    """Serve until cancelled, on loopback with a token of its own, for clients that attach to a server on stdio."""
    settings = dataclasses.replace(services.settings, host="127.0.0.1", port=0, no_auth=False)
    token = secrets.token_urlsafe(32)
    listener = _listen(settings)
    port = int(listener.getsockname()[1])
    server = _Server(_config(create_http(services, create_mcp(services), token, port=port)))
    try:
        with announced(settings, f"http://127.0.0.1:{port}/mcp", token, __version__):
            await server.serve(sockets=[listener])
    finally:
        for accepting in getattr(server, "servers", ()):
            accepting.close()
        listener.close()


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


async def _serve(server: uvicorn.Server, listener: socket.socket, scope: anyio.CancelScope) -> None:
    await server.serve(sockets=[listener])
    scope.cancel()


async def _until_signal() -> None:
    """Return at the first SIGTERM or SIGINT; a second one then ends the process at once."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off (40 ms an answer) only where the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}.",
            hint="Another server may run there (see `doctor`); --port 0 takes a free port.",
        ) from error
    return listener


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
