"""Pods reached through the API server, from where their own addresses cannot be: `--kernel-access port-forward`.

Each kernel gets a port of this machine's loopback; each connection to it is one WebSocket to the API server.
Source: kubernetes.io, `portforward` subresource; `v4.channel.k8s.io`: each message begins with its channel, 0 for data
and 1 for errors, and the first on each channel is the port's number.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import anyio

from ...errors import JupyterMcpError, Unavailable
from .api import Api
from .host import AGENT_PORT

logger = logging.getLogger(__name__)

_PIECE = 64 << 10


class Forwards:
    """The listening ports of one server. An async context manager."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._servers: dict[str, asyncio.Server] = {}
        self._live: dict[str, set[asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Forwards:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._servers):
            await self.close(name)

    async def open(self, pod: str) -> tuple[str, int]:
        """Address and port that lead to a pod's agent.

        Raises:
            Unavailable: no port of this machine can be listened on.
        """
        if pod not in self._servers:

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                live = self._live.setdefault(pod, set())
                live.add(task)
                try:
                    await self._carry(pod, reader, writer)
                finally:
                    live.discard(task)
                    writer.close()

            try:
                self._servers[pod] = await asyncio.start_server(connected, "127.0.0.1", 0)
            except OSError as error:
                raise Unavailable(f"No port can be opened for the pod {pod}: {error.strerror}.") from error
        host, port = self._servers[pod].sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def close(self, pod: str) -> None:
        """Stop leading to a pod."""
        server = self._servers.pop(pod, None)
        if server is not None:
            server.close()
        for task in self._live.pop(pod, set()):
            task.cancel()

    async def _carry(self, pod: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import aiohttp  # noqa: PLC0415 - part of the extra

        try:
            async with self._api.port_forward(pod, AGENT_PORT) as socket, anyio.create_task_group() as both:

                async def up() -> None:
                    while data := await reader.read(_PIECE):
                        await socket.send_bytes(b"\x00" + data)
                    both.cancel_scope.cancel()

                async def down() -> None:
                    begun: set[int] = set()
                    async for message in socket:
                        if message.type is not aiohttp.WSMsgType.BINARY or len(message.data) < 1:
                            continue
                        channel, data = message.data[0], message.data[1:]
                        if channel not in begun:
                            # The first of each channel is the port's number, and not the pod's.
                            begun.add(channel)
                            data = data[2:]
                        if channel == 0 and data:
                            writer.write(data)
                            await writer.drain()
                        elif channel == 1 and data:
                            logger.warning("port-forward to %s: %s", pod, data.decode("utf-8", "replace"))
                    both.cancel_scope.cancel()

                both.start_soon(up)
                both.start_soon(down)
        except* (JupyterMcpError, OSError) as errors:
            # ZMQ connects again.
            with suppress(IndexError):
                logger.debug("port-forward to %s ended: %s", pod, errors.exceptions[0])
