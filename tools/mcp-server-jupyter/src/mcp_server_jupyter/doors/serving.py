"""A root's server in its three shapes: detached for its clients, in the foreground, embedded in a client's process."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread
from mcp.server import MCPServer

from ..operations import Caller
from ..ownership import Held, owned, wait_until_free
from ..places import Places, open_places
from ..ports import Kernels
from ..services import open_kernels, open_services, open_services_over
from ..settings import Settings
from ..tasks import plain_errors
from ..tokens import load_token
from .http.readiness import unready
from .mcp.server import create_mcp
from .stdio.detach import bound_log
from .stdio.server import RootServer
from .stdio.session import Session
from .stdio.wire import Wire

if TYPE_CHECKING:
    from .http.serve import HttpDoor

logger = logging.getLogger(__name__)

_LOG_SECONDS = 600.0
_AT_ONCE_SECONDS = 1.0
_LET_GO_SECONDS = 30.0


async def serve_detached(settings: Settings, held: Held, listener: socket.socket) -> None:
    """Serve clients on the socket until nobody needs the server, or a signal; kernels stay for those still attached."""
    async with (
        open_services(settings) as services,
        open_places(services) as places,
        _root_server(places, held, is_detached=True) as server,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on_signal, server)
            tasks.start_soon(_bound_log, held)
            await server.serve(listener)
            tasks.cancel_scope.cancel()
        if server.reason == "stopped" and not services.leave_kernels:
            await places.drain(settings.grace_seconds)


def load_http() -> None:
    """Import what serving HTTP takes, ahead of a moment in which others wait."""
    from .http import serve as _  # noqa: F401, PLC0415


async def serve_foreground(
    settings: Settings,
    attach: Callable[[Held], socket.socket | None],
    say: Callable[[str, str | None], object],
) -> None:
    """Serve HTTP, and clients on the socket, until a signal or `down`: then let running cells finish and return.

    While another server has the kernels it is alive, not ready, and touches neither journal nor state. `attach` opens
    the socket for clients; `say` is given the endpoint and the token once the server is open.

    Raises:
        Unavailable: another process of this machine serves this root, or the address cannot be had.
    """
    from .http.serve import http_door  # noqa: PLC0415 - not for clients on a socket

    with plain_errors(), ExitStack() as lock:
        async with _ended_by_signal() as end, http_door(settings) as door:
            with end.opening:
                async with open_kernels(settings) as kernels:
                    waited = await _lead(kernels, door)
                    door.waits("The server is opening: it takes over what the last one left.")
                    # To be had until the kernels are closed.
                    held = lock.enter_context(await _owned(settings, patient=waited))
                    door.listen()
                    listener = attach(held)
                    if listener is not None:
                        lock.callback(listener.close)
                    async with open_services_over(kernels, settings) as services, open_places(services) as places:
                        end.asks_from_now_on()
                        await _serve_opened(places, held, listener, door, end.asked, say)


async def _serve_opened(
    places: Places,
    held: Held,
    listener: socket.socket | None,
    door: HttpDoor,
    asked_to_end: anyio.Event,
    say: Callable[[str, str | None], object],
) -> None:
    from .http.app import create_http  # noqa: PLC0415 - see `serve_foreground`

    settings = places.home.settings
    token = load_token(settings)
    await _tell_unready(settings)
    mcp = create_mcp(places)
    server = RootServer(places, mcp, held, is_detached=False)
    app = partial(create_http, places, mcp, token)
    async with door.serving(app), anyio.create_task_group() as tasks:
        held.announce(url=door.endpoint, token=token)
        if listener is not None:
            tasks.start_soon(server.serve, listener)
        say(door.endpoint, token)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(_when, asked_to_end.wait, waiting.cancel_scope)
            waiting.start_soon(_when, server.ended.wait, waiting.cancel_scope)
        held.retract()
        door.stop_accepting()
        if not server.ended.is_set() and not server.has_clients:
            await places.drain(settings.grace_seconds)
        server.end("stopped")


async def _lead(kernels: Kernels, door: HttpDoor) -> bool:
    """Wait until the kernels are ours, saying at the door what for; whether there was anything to wait for."""
    told = anyio.Event()

    def waiting(why: str) -> None:
        logger.warning("not ready: another server has the kernels, or may have them: %s", why)
        door.waits(f"This server waits for the kernels: {why}.")
        told.set()

    async def be_reachable_meanwhile() -> None:
        with anyio.move_on_after(_AT_ONCE_SECONDS):
            await told.wait()
        told.set()
        door.listen()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(be_reachable_meanwhile)
        await kernels.lead(waiting)
        tasks.cancel_scope.cancel()
    return told.is_set()


async def _owned(settings: Settings, *, patient: bool) -> AbstractContextManager[Held]:
    """The lock on the state, which whoever had the kernels before may be about to let go."""
    if patient:
        await anyio.to_thread.run_sync(wait_until_free, settings, _LET_GO_SECONDS)
    return owned(settings)


class _End:
    """Whether a signal has asked the server to end: at once while it opens, in order once it is open."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.opening = anyio.CancelScope()
        self._is_open = False

    def asks_from_now_on(self) -> None:
        self._is_open = True

    async def follow(self) -> None:
        from .http.serve import until_signal  # noqa: PLC0415 - see `serve_foreground`

        await until_signal()
        self.asked.set()
        if not self._is_open:
            self.opening.cancel()


@asynccontextmanager
async def _ended_by_signal() -> AsyncIterator[_End]:
    async with anyio.create_task_group() as tasks:
        end = _End()
        tasks.start_soon(end.follow)
        yield end
        tasks.cancel_scope.cancel()


async def serve_embedded(settings: Settings, held: Held, listener: socket.socket | None, wire: Wire) -> None:
    """Serve one client on standard input and output until it closes its end, and meanwhile others on the socket."""
    async with (
        open_services(settings) as services,
        open_places(services) as places,
        _root_server(places, held, is_detached=False) as server,
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
async def _root_server(places: Places, held: Held, *, is_detached: bool) -> AsyncIterator[RootServer]:
    """A root's server that opens its HTTP door when it is asked to, and closes it in order."""
    await _tell_unready(places.home.settings)
    mcp = create_mcp(places)
    async with anyio.create_task_group() as doors:
        server = RootServer(places, mcp, held, is_detached=is_detached)
        server.open_http = partial(doors.start, _serve_http, places, mcp, server)
        yield server


async def _serve_http(
    places: Places,
    mcp: MCPServer,
    server: RootServer,
    *,
    task_status: anyio.abc.TaskStatus[tuple[str, str | None]],
) -> None:
    def load() -> None:
        from .http import app, serve  # noqa: F401, PLC0415 - 0.1 s that most servers never need

    await anyio.to_thread.run_sync(load)
    from .http.app import create_http  # noqa: PLC0415
    from .http.serve import http_door  # noqa: PLC0415

    settings = dataclasses.replace(places.home.settings, host="127.0.0.1", port=0, no_auth=False)
    token = load_token(settings)
    async with http_door(settings) as door, door.serving(partial(create_http, places, mcp, token)):
        server.is_busy_elsewhere = lambda: door.is_busy
        server.has_work_elsewhere = lambda: door.has_work
        task_status.started((door.endpoint, token))
        await server.ended.wait()


async def _tell_unready(settings: Settings) -> None:
    """Say at the start what readiness would say, for those who only read the log."""
    for reason in await anyio.to_thread.run_sync(unready, settings.root_state):
        logger.error("not ready: %s", reason)


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
