"""The WebSocket of one kernel, connected again and again until it is closed or its kernel is gone."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from ...errors import JupyterMcpError, NotFound
from ...ports import Channel
from .client import Client, quoted
from .frames import PROTOCOL, pack, unpack

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# Until the server has asked the kernel whether it is there.
_OPEN_SECONDS = 20.0
# Without it every second message waits 40 ms: the server's Nagle for our delayed acknowledgement.
_QUICK = getattr(socket, "TCP_QUICKACK", None)


class Listener(Protocol):
    """Who hears a socket. Called in the event loop; must not block."""

    def opened(self) -> None:
        """It is connected, for the first time or again: what is sent from now on arrives, or it is lost again."""

    def received(self, channel: Channel, frames: list[bytes]) -> None:
        """One message: its header and what follows."""

    def lost(self) -> None:
        """It is not connected any more."""

    def gone(self, why: str) -> None:
        """There is no such kernel any more; the socket has ended."""

    def revived(self) -> None:
        """Its process had died, and Jupyter starts another one."""

    def given_up(self) -> None:
        """Its process has died, and Jupyter could not start another one."""


class KernelSocket:
    """One kernel's channels. `run` it in a task; cancelled, it closes.

    Args:
        identity: the `session_id`: a later connection with the same one is given what was kept for it.
    """

    def __init__(self, client: Client, kernel_id: str, identity: str, listener: Listener) -> None:
        self.unreachable_since: float | None = None
        self.used_at = time.monotonic()
        self._client = client
        self._kernel_id = kernel_id
        self._identity = identity
        self._listener = listener
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._connection: ClientConnection | None = None
        self._is_resting = False
        self._wanted = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def send(self, channel: Channel, frames: list[bytes]) -> None:
        """Send a message, now or once it is connected."""
        self.used_at = time.monotonic()
        self._outgoing.append(pack(channel, frames))
        self._more.set()
        self.wake()

    def rest(self) -> None:
        """Leave the server alone until there is something to send, or `wake`."""
        self._is_resting = True
        self._wanted.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.transport.abort()

    def wake(self) -> None:
        """Be connected again, if it rests."""
        self._is_resting = False
        self._wanted.set()

    def reset(self) -> None:
        """End this connection and make another one."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def run(self) -> None:
        """Be connected until the kernel is gone."""
        pause = _SHORTEST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._once()
            except NotFound:
                self._listener.gone("is not there any more: it was shut down, or its Jupyter was started anew")
                return
            except JupyterMcpError as error:
                if self.unreachable_since is None and not self._is_resting:
                    self.unreachable_since = time.time()
                    logger.warning("kernel %s cannot be reached: %s", self._kernel_id, error)
            if self._is_resting:
                await self._wanted.wait()
                pause = _SHORTEST_PAUSE
                continue
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _SHORTEST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(self) -> None:
        """Be connected once.

        Raises:
            NotFound: there is no such kernel.
            Unavailable, Unauthorized
        """
        from websockets.asyncio.client import connect  # noqa: PLC0415  (an extra)
        from websockets.exceptions import WebSocketException  # noqa: PLC0415

        # A refused handshake does not say whether the kernel is gone or only its server is not well.
        await self._client.get(f"api/kernels/{quoted(self._kernel_id)}")
        url = self._client.socket_url(f"api/kernels/{quoted(self._kernel_id)}/channels", f"session_id={self._identity}")
        try:
            async with connect(
                url,
                subprotocols=[PROTOCOL],  # type: ignore[list-item]
                compression=None,
                additional_headers=self._client.headers,
                max_size=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=1.0,
            ) as connection:
                await self._use(connection)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise self._client.away(error) from error

    async def _use(self, connection: ClientConnection) -> None:
        self.unreachable_since = None
        self._connection = connection
        self.used_at = time.monotonic()
        self._listener.opened()
        sending = asyncio.create_task(self._send_all(connection))
        acknowledge = _quickly(connection.transport)
        try:
            while True:
                data = await connection.recv(decode=False)
                acknowledge()
                self.used_at = time.monotonic()
                message = unpack(data)
                if message is not None:
                    self._listener.received(*message)
        finally:
            self._connection = None
            sending.cancel()
            self.unreachable_since = None if self._is_resting else time.time()
            self._listener.lost()
            # Cancelled, a connection would not be closed: its own end waits for the other side.
            with anyio.CancelScope(shield=True):
                await connection.close()

    async def _send_all(self, connection: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        # The reader notices as well, and tells.
        with suppress(ConnectionClosed):
            while True:
                # One that has been left takes nothing more with it.
                while self._outgoing and self._connection is connection:
                    await connection.send(self._outgoing.popleft())
                self._more.clear()
                await self._more.wait()


def _quickly(transport: Any) -> Callable[[], None]:
    """What has the next message acknowledged at once, where the system can."""
    raw = transport.get_extra_info("socket")
    if _QUICK is None or raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return lambda: None

    def acknowledge() -> None:
        # Closed meanwhile: the next read says so.
        with suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)

    acknowledge()
    return acknowledge
