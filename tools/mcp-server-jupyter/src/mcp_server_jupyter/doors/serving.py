"""A root's server in its three shapes: detached for its clients, in the foreground, embedded in a client's process."""

from __future__ import annotations

import dataclasses
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread
from mcp.server import MCPServer

from ..operations import Caller
from ..ownership import Held, load_token
from ..services import Services, open_services
from ..settings import Settings
from .mcp.server import create_mcp
from .stdio.detach import bound_log
from .stdio.server import RootServer
from .stdio.session import Session
from .stdio.wire import Wire

_LOG_SECONDS = 600.0


async def serve_detached(settings: Settings, held: Held, listener: socket.socket) -> None:
    """Serve clients on the socket until nobody needs the server, or a signal; kernels stay for those still attached."""
    async with open_services(settings) as services, _root_server(services, held, is_detached=True) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on_signal, server)
            tasks.start_soon(_bound_log, held)
            await server.serve(listener)
            tasks.cancel_scope.cancel()
        if server.reason == "stopped" and not services.leave_kernels:
            await services.drain(settings.grace_seconds)


async def serve_foreground(
    settings: Settings, held: Held, listener: socket.socket | None, say: Callable[[str, str | None], object]
) -> None:
    """Serve HTTP, and clients on the socket, until a signal or `down`: then let running cells finish and return.

    `say` is given the endpoint and the token once it can be reached.
    """
    from .http.serve import endpoint, http_door, listen, until_signal  # noqa: PLC0415 - not for clients on a socket

    token, web = load_token(settings), listen(settings)
    url = endpoint(settings, web)
    async with open_services(settings) as services:
        mcp = create_mcp(services)
        server = RootServer(services, mcp, held, is_detached=False)
        async with http_door(services, mcp, token, web) as door, anyio.create_task_group() as tasks:
            held.announce(url=url, token=token)
            if listener is not None:
                tasks.start_soon(server.serve, listener)
            say(url, token)
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(_when, until_signal, waiting.cancel_scope)
                waiting.start_soon(_when, server.ended.wait, waiting.cancel_scope)
            held.retract()
            door.stop_accepting()
            if not server.ended.is_set() and not server.has_clients:
                await services.drain(settings.grace_seconds)
            server.end("stopped")


async def serve_embedded(settings: Settings, held: Held, listener: socket.socket | None, wire: Wire) -> None:
    """Serve one client on standard input and output until it closes its end, and meanwhile others on the socket."""
    async with (
        open_services(settings) as services,
        _root_server(services, held, is_detached=False) as server,
        anyio.create_task_group() as tasks,
    ):
        if listener is not None:
            tasks.start_soon(server.serve, listener)
        async with anyio.create_task_group() as client:
            client.start_soon(_end_on_signal, server)
            client.start_soon(_when, server.ended.wait, client.cancel_scope)
            await Session(wire, server.mcp, Caller(f"#{secrets.token_hex(3)}")).run()
            client.cancel_scope.cancel()
        server.end("stopped")


@asynccontextmanager
async def _root_server(services: Services, held: Held, *, is_detached: bool) -> AsyncIterator[RootServer]:
    """A root's server that opens its HTTP door when it is asked to, and closes it in order."""
    mcp = create_mcp(services)
    async with anyio.create_task_group() as doors:
        server = RootServer(services, mcp, held, is_detached=is_detached)
        server.open_http = partial(doors.start, _serve_http, services, mcp, server)
        yield server


async def _serve_http(
    services: Services,
    mcp: MCPServer,
    server: RootServer,
    *,
    task_status: anyio.abc.TaskStatus[tuple[str, str | None]],
) -> None:
    def load() -> None:
        from .http import serve  # noqa: F401, PLC0415 - 0.1 s that most servers never need

    await anyio.to_thread.run_sync(load)
    from .http.serve import endpoint, http_door, listen  # noqa: PLC0415

    settings = dataclasses.replace(services.settings, host="127.0.0.1", port=0, no_auth=False)
    token, web = load_token(settings), listen(settings)
    async with http_door(services, mcp, token, web) as door:
        server.is_busy_elsewhere = lambda: door.is_busy
        server.has_work_elsewhere = lambda: door.has_work
        task_status.started((endpoint(settings, web), token))
        await server.ended.wait()


async def _when(waiting: Callable[[], object], scope: anyio.CancelScope) -> None:
    await waiting()  # type: ignore[misc]
    scope.cancel()


async def _end_on_signal(server: RootServer) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            server.end("stopped")


async def _bound_log(held: Held) -> None:
    while True:
        await anyio.sleep(_LOG_SECONDS)
        bound_log(held.folder)
