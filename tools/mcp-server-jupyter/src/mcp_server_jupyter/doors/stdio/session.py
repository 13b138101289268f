"""One client's MCP session over lines, both protocol eras, whatever carries the lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.types import JSONRPCRequest, jsonrpc_message_adapter
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic_core import PydanticSerializationError

from ...operations import Caller
from ..mcp.sdk_compat import discover_result, lowlevel
from ..protocol import VERSION_KEY
from .lines import INVALID_REQUEST, Malformed, parse

if TYPE_CHECKING:
    from mcp.server import MCPServer

_LAST_ANSWERS_SECONDS = 0.1
_ENDLESS = "subscriptions/listen"


class Connection(Protocol):
    """A client's end: lines in, lines out."""

    def lines(self) -> AsyncIterator[bytes]: ...
    async def send(self, line: bytes) -> None: ...


class Session:
    """One client's session.

    Args:
        caller: what travels with the connection; its author is only what follows the name the client gives itself.
        on_idle: called whenever every request has its answer.
    """

    def __init__(
        self, connection: Connection, mcp: MCPServer, caller: Caller, on_idle: Callable[[], object] = lambda: None
    ) -> None:
        self._connection = connection
        self._mcp = mcp
        self._metadata = ServerMessageMetadata(request_context=caller)
        self._answers = _Answers(connection, on_idle)

    @property
    def is_idle(self) -> bool:
        """Whether every request has its answer."""
        return not self._answers.due

    async def run(self) -> None:
        """Serve until the client closes its end. What it runs then goes on: its end is no cancellation."""
        server = lowlevel(self._mcp)
        incoming, received = anyio.create_memory_object_stream["SessionMessage | Exception"](64)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, incoming)
            await server.run(received, self._answers, server.create_initialization_options())
            tasks.cancel_scope.cancel()

    async def _read(self, incoming: anyio.abc.ObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand every message on; answer a leading `server/discover` here.

        The SDK takes the protocol era of the connection from its first request, but clients probe with
        `server/discover` and then fall back to `initialize` on the same pipe.
        """
        decided = False
        async with incoming:
            async for line in self._connection.lines():
                try:
                    message = _message(line)
                except Malformed as error:
                    await self._connection.send(error.answer)
                    continue
                if not decided and isinstance(message, JSONRPCRequest):
                    if _is_discover(message):
                        await self._answer_discover(message.id)
                        continue
                    decided = True
                self._answers.expect(message)
                await incoming.send(SessionMessage(message, self._metadata))
            await self._answers.settle()

    async def _answer_discover(self, request_id: Any) -> None:
        answer = {"jsonrpc": "2.0", "id": request_id, "result": discover_result(self._mcp)}
        await self._connection.send(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


def _message(line: bytes) -> Any:
    """A line as the SDK's message.

    Raises:
        Malformed: it is none.
    """
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        key = parse(line).key or "null"
    try:
        # JSON that pydantic's own parser refuses: escaped lone surrogates, for one.
        return jsonrpc_message_adapter.validate_python(json.loads(line), by_name=False)
    except ValueError:
        raise Malformed(INVALID_REQUEST, "The line is no JSON-RPC message.", key) from None


def _is_discover(request: JSONRPCRequest) -> bool:
    meta = (request.params or {}).get("_meta")
    version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
    return request.method == "server/discover" and isinstance(version, str) and version in MODERN_PROTOCOL_VERSIONS


class _Answers:
    """The SDK's write stream, straight onto the connection."""

    def __init__(self, connection: Connection, on_idle: Callable[[], object]) -> None:
        self._connection = connection
        self._on_idle = on_idle
        self._settled = anyio.Event()
        self.due: set[Any] = set()

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        try:
            line = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        except PydanticSerializationError:
            line = json.dumps(message.model_dump(by_alias=True, exclude_unset=True), separators=(",", ":")).encode()
        await self._connection.send(line)
        if not hasattr(message, "method"):
            self.due.discard(getattr(message, "id", None))
            if not self.due:
                self._settled.set()
                self._on_idle()

    def expect(self, message: Any) -> None:
        """Remember what is to be answered; a cancelled call may never be."""
        if isinstance(message, JSONRPCRequest):
            if message.method != _ENDLESS:
                self.due.add(message.id)
        elif getattr(message, "method", None) == "notifications/cancelled":
            cancelled = (message.params or {}).get("requestId")
            if isinstance(cancelled, str | int):
                self.due.discard(cancelled)

    async def settle(self) -> None:
        """After the client closed its end: a moment for the answers that are about to come (`echo ... | server`)."""
        self._settled = anyio.Event()
        if self.due:
            with anyio.move_on_after(_LAST_ANSWERS_SECONDS):
                await self._settled.wait()

    async def aclose(self) -> None:
        """The connection outlives the session; whoever opened it closes it."""

    async def __aenter__(self) -> _Answers:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
