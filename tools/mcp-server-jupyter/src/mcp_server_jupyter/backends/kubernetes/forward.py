"""Pods reached through the API server, from where their own addresses cannot be: `--kernel-access port-forward`.

Each port of a pod gets one of this machine's loopback; each connection to it is one WebSocket to the API server.
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


class _Way:
    """The ports of this machine that lead to one pod's, and what goes through them now."""

    def __init__(self, pod: str) -> None:
        self.pod = pod
        self.servers: dict[int, asyncio.Server] = {}
        self.live: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """End the connections there are."""
        for task in self.live:
            task.cancel()


class Forwards:
    """The listening ports of one server. An async context manager."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ways: dict[str, _Way] = {}

    async def __aenter__(self) -> Forwards:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._ways):
            await self.close(name)

    async def open(self, pod: str, port: int = AGENT_PORT) -> tuple[str, int]:
        """Address and port of this machine that lead to a pod's.

        Raises:
            Unavailable: no port of this machine can be listened on.
        """
        way = self._ways.setdefault(pod, _Way(pod))
        if port not in way.servers:

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                way.live.add(task)
                try:
                    await self._carry(way.pod, port, reader, writer)
                finally:
                    way.live.discard(task)
                    writer.close()

            try:
                way.servers[port] = await asyncio.start_server(connected, "127.0.0.1", 0)
            except OSError as error:
                raise Unavailable(f"No port can be opened for the pod {pod}: {error.strerror}.") from error
        host, own_port = way.servers[port].sockets[0].getsockname()[:2]
        return str(host), int(own_port)

    def move(self, pod: str, to: str) -> None:
        """Have what leads to a pod lead to its successor: clients that know these ports connect again."""
        way = self._ways.pop(pod, None)
        if way is not None:
            way.cut()
            way.pod = to
            self._ways[to] = way

    async def close(self, pod: str) -> None:
        """Stop leading to a pod."""
        way = self._ways.pop(pod, None)
        if way is not None:
            way.cut()
            for server in way.servers.values():
                server.close()

    async def _carry(self, pod: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import aiohttp  # noqa: PLC0415 - part of the extra

        try:
            async with self._api.port_forward(pod, port) as socket, anyio.create_task_group() as both:

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
