"""Serving the HTTP application: the listener, uvicorn, signals and an orderly end."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import uvicorn
from starlette.applications import Starlette

from ...errors import Unavailable
from ...services import Services
from ...settings import Settings
from .accept import BACKLOG, TRIES, exhaustion_said_once, restore_backlog
from .app import create_http

if TYPE_CHECKING:
    from mcp.server import MCPServer

_MAX_HEADER_BYTES = 64 * 2**10


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the first signal drains, see `until_signal`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with exhaustion_said_once():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        restore_backlog(sockets or ())


class HttpDoor:
    """An HTTP application that is being served. Made by `http_door`."""

    def __init__(self, services: Services, mcp: MCPServer, token: str | None, listener: socket.socket) -> None:
        self._app = create_http(services, mcp, token, port=int(listener.getsockname()[1]))
        self._listener = listener
        self.server = _Server(_config(self._app))

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or a stream is open."""
        return bool(self._app.state.requests.count)

    @property
    def has_work(self) -> bool:
        """Whether a request is being answered, streams of events left out."""
        return bool(self._app.state.requests.has_work)

    def stop_accepting(self) -> None:
        """Refuse what comes from now on; what is being answered goes on."""
        self._app.state.stopping = True
        for accepting in getattr(self.server, "servers", ()):
            accepting.close()
        self._listener.close()

    def end(self) -> None:
        """End what is still being answered, and the server."""
        self.stop_accepting()
        self._app.state.requests.end()
        self.server.should_exit = True


@asynccontextmanager
async def http_door(
    services: Services, mcp: MCPServer, token: str | None, listener: socket.socket
) -> AsyncIterator[HttpDoor]:
    """Serve HTTP on a listening socket while the context lasts."""
    door = HttpDoor(services, mcp, token, listener)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: door.server.serve(sockets=[listener]))
        try:
            yield door
        finally:
            # Uvicorn ends by itself now; it logs an error when it is cancelled.
            door.end()


def endpoint(settings: Settings, listener: socket.socket) -> str:
    """The MCP endpoint of a listening socket."""
    return f"http://{_url_host(settings.host)}:{listener.getsockname()[1]}/mcp"


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


async def until_signal() -> None:
    """Return at the first SIGTERM or SIGINT; a second one then ends the process at once."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def listen(settings: Settings) -> socket.socket:
    """A socket at the address of the settings.

    Raises:
        Unavailable: the address cannot be had.
    """
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
