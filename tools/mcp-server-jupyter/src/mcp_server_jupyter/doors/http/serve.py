"""Serving the HTTP application: the listener, uvicorn, signals and an orderly end."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import anyio
import anyio.abc
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import Unavailable
from ...settings import Settings
from .accept import BACKLOG, TRIES, exhaustion_said_once, restore_backlog
from .waiting import Waiting


class Create(Protocol):
    """Makes the application of a server that listens on `port`."""

    def __call__(self, *, port: int) -> Starlette: ...


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


class _Doorway:
    """What uvicorn serves: an application that says why the server is not open, and once it is, the server's own."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.app: Starlette | None = None
        self._given = anyio.Event()
        self._live = anyio.Event()

    async def open(self, app: Starlette) -> None:
        """Serve this one from now on."""
        self.app = app
        self._given.set()
        await self._live.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self.app is not None and self._live.is_set():
            await self.app(scope, receive, send)
        else:
            await self.waiting(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_alive)
            await receive()
            tasks.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _keep_alive(self) -> None:
        await self._given.wait()
        try:
            assert self.app is not None
            async with self.app.router.lifespan_context(self.app):
                self._live.set()
                await anyio.sleep_forever()
        finally:
            self._live.set()


class HttpDoor:
    """Serves HTTP: why the server is not open yet, and then the server. Made by `http_door`."""

    def __init__(self, settings: Settings, tasks: anyio.abc.TaskGroup) -> None:
        self._settings = settings
        self._tasks = tasks
        self._listener: socket.socket | None = None
        self._doorway: _Doorway | None = None
        self._server: _Server | None = None
        self._ended = anyio.Event()
        self._why = ""

    @property
    def endpoint(self) -> str:
        """The MCP endpoint."""
        self.listen()
        assert self._listener is not None
        return endpoint(self._settings, self._listener)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or a stream is open."""
        return self._app is not None and bool(self._app.state.requests.count)

    @property
    def _app(self) -> Starlette | None:
        return None if self._doorway is None else self._doorway.app

    def listen(self) -> None:
        """Be reachable from now on, if it is not yet.

        Raises:
            Unavailable: the address cannot be had.
        """
        if self._listener is None:
            self._listener = listen(self._settings)
            self._doorway = _Doorway(Waiting(self._settings, self._port))
            self.waits(self._why)
            self._server = _Server(_config(self._doorway))
            self._tasks.start_soon(self._serve)

    def waits(self, why: str) -> None:
        """Say why the server is not open yet, in a sentence."""
        self._why = why
        if self._doorway is not None and why:
            self._doorway.waiting.why = why

    @asynccontextmanager
    async def serving(self, create: Create) -> AsyncIterator[None]:
        """Serve the application itself while the context lasts, and nothing after it.

        Its state holds the requests that are being answered (`requests`) and whether it is about to end (`stopping`).
        """
        self.listen()
        assert self._doorway is not None
        try:
            await self._doorway.open(create(port=self._port))
            yield
        finally:
            await self.close()

    @property
    def _port(self) -> int:
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    async def _serve(self) -> None:
        assert self._server is not None
        assert self._listener is not None
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._ended.set()

    @property
    def has_work(self) -> bool:
        """Whether a request is being answered, streams of events left out."""
        return self._app is not None and bool(self._app.state.requests.has_work)

    def stop_accepting(self) -> None:
        """Refuse what comes from now on; what is being answered goes on."""
        if self._app is not None:
            self._app.state.stopping = True
        for accepting in getattr(self._server, "servers", ()):
            accepting.close()
        if self._listener is not None:
            self._listener.close()

    def end(self) -> None:
        """End what is still being answered, and the server."""
        self.stop_accepting()
        if self._app is not None:
            self._app.state.requests.end()
        if self._server is not None:
            self._server.should_exit = True

    async def close(self) -> None:
        """`end`, and return once it has."""
        self.end()
        if self._server is not None:
            # Uvicorn ends by itself now; it logs an error when it is cancelled.
            with anyio.CancelScope(shield=True):
                await self._ended.wait()


@asynccontextmanager
async def http_door(settings: Settings) -> AsyncIterator[HttpDoor]:
    """A door at the address of the settings, which is opened by `listen` or `serving`."""
    async with anyio.create_task_group() as tasks:
        door = HttpDoor(settings, tasks)
        try:
            yield door
        finally:
            await door.close()


def endpoint(settings: Settings, listener: socket.socket) -> str:
    """The MCP endpoint of a listening socket."""
    return f"http://{_url_host(settings.host)}:{listener.getsockname()[1]}/mcp"


def _config(app: ASGIApp) -> uvicorn.Config:
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
