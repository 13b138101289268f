"""MCP on standard input and output, both protocol eras; attached to this user's running server when there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from ...ownership import RunningServer, attached
from .relay import Handshake, relay
from .wire import Wire

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from mcp.shared.message import SessionMessage

_LAST_ANSWERS_SECONDS = 0.1
_SUCCESSION_SECONDS = 5.0

OpenServer = Callable[[], AbstractAsyncContextManager["MCPServer"]]


async def serve_stdio(
    wire: Wire, find: Callable[[], RunningServer | None], is_free: Callable[[], bool], open_server: OpenServer
) -> None:
    """Serve one client until it closes its end.

    While `find` names a running server, the client is relayed to it; when that server stops and `is_free` says that
    its state directory can be had, the next request is served by a server of our own, on the same kernels.
    """
    handshake = Handshake()
    left: set[RunningServer] = set()
    while (server := await _successor(find, is_free, left)) is not None:
        with attached(server):
            if await relay(wire, server, handshake):
                return
        left.add(server)
    async with open_server() as mcp:
        await _serve_embedded(wire, mcp, handshake)


async def _successor(
    find: Callable[[], RunningServer | None], is_free: Callable[[], bool], left: set[RunningServer]
) -> RunningServer | None:
    """The running server to attach to, None when there is none.

    When one has just stopped, its kernels are to be had as soon as it lets go of its state directory: by us, or by
    another of its clients, which is then the server.
    """
    with anyio.move_on_after(_SUCCESSION_SECONDS):
        while True:
            server = find()
            if server is not None and server not in left:
                return server
            if not left or is_free():
                return None
            # Neither a lock nor another process's record can be waited for.
            await anyio.sleep(0.02)
    return None


async def _serve_embedded(wire: Wire, mcp: MCPServer, handshake: Handshake) -> None:
    from ..mcp.sdk_compat import lowlevel  # noqa: PLC0415 - the SDK takes half a second, a relayed client never needs it

    server = lowlevel(mcp)
    incoming, received = anyio.create_memory_object_stream["SessionMessage | Exception"](64)
    answers = _Answers(wire, silent=handshake.id)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, wire, mcp, handshake, incoming, answers)
        await server.run(received, answers, server.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _read(
    wire: Wire,
    mcp: MCPServer,
    handshake: Handshake,
    incoming: anyio.abc.ObjectSendStream[SessionMessage | Exception],
    answers: _Answers,
) -> None:
    """Hand every message on; answer a leading `server/discover` here.

    The SDK takes the protocol era of the connection from its first request, but clients probe with `server/discover`
    and then fall back to `initialize` on the same pipe.
    """
    from mcp.shared.message import SessionMessage  # noqa: PLC0415 - loaded with the SDK, see `_serve_embedded`
    from mcp.types import JSONRPCRequest, jsonrpc_message_adapter  # noqa: PLC0415

    decided = False
    async with incoming:
        for line in handshake.lines:
            decided = True
            await incoming.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
        async for line in wire.lines():
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError as error:
                await incoming.send(error)
                continue
            if not decided and isinstance(message, JSONRPCRequest):
                if _is_discover(message):
                    await _answer_discover(wire, mcp, message.id)
                    continue
                decided = True
            answers.expect(message)
            await incoming.send(SessionMessage(message))
        await answers.settle()


def _is_discover(request: Any) -> bool:
    from mcp.types import PROTOCOL_VERSION_META_KEY  # noqa: PLC0415 - loaded with the SDK, see `_serve_embedded`
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415

    meta = (request.params or {}).get("_meta") or {}
    return request.method == "server/discover" and meta.get(PROTOCOL_VERSION_META_KEY) in MODERN_PROTOCOL_VERSIONS


async def _answer_discover(wire: Wire, mcp: MCPServer, request_id: Any) -> None:
    from ..mcp.sdk_compat import discover_result  # noqa: PLC0415 - loaded with the SDK, see `_serve_embedded`

    answer = {"jsonrpc": "2.0", "id": request_id, "result": discover_result(mcp)}
    await wire.send(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


class _Answers:
    """The SDK's write stream, straight onto the wire. The answer to a replayed handshake is not sent again."""

    def __init__(self, wire: Wire, silent: Any) -> None:
        self._wire = wire
        self._silent = silent
        self._due: set[Any] = set()
        self._settled = anyio.Event()

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        request_id = getattr(message, "id", None)
        if self._silent is not None and request_id == self._silent:
            self._silent = None
            return
        await self._wire.send(message.model_dump_json(by_alias=True, exclude_unset=True).encode())
        self._due.discard(request_id)
        if not self._due:
            self._settled.set()

    def expect(self, message: Any) -> None:
        """Remember what is to be answered."""
        if getattr(message, "method", None) and (request_id := getattr(message, "id", None)) is not None:
            self._due.add(request_id)

    async def settle(self) -> None:
        """After the client closed its end: a moment for the answers that are about to come (`echo ... | server`)."""
        self._settled = anyio.Event()
        if self._due:
            with anyio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._settled.wait()

    async def aclose(self) -> None:
        """The wire outlives the connection; whoever claimed it gives it back."""

    async def __aenter__(self) -> _Answers:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
