"""Serving the HTTP application: the listener, uvicorn, signals and an orderly end."""

from __future__ import annotations

import dataclasses
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import uvicorn
from starlette.applications import Starlette

from ... import __version__
from ...errors import Unavailable
from ...ownership import announced, load_token
from ...services import Services, open_services
from ...settings import Settings
from ..mcp.server import create_mcp
from .accept import BACKLOG, TRIES, exhaustion_said_once, restore_backlog
from .app import create_http

_MAX_HEADER_BYTES = 64 * 2**10


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the first signal drains, see `_until_signal`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with exhaustion_said_once():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        restore_backlog(sockets or ())


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
        backlog=TRIES,
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
        listener.listen(BACKLOG)
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
