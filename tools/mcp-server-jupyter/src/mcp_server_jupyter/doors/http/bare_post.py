"""The MCP route: streamable HTTP of both eras, and single JSON-RPC calls of plain HTTP clients.

A plain client posts one call with nothing but a Content-Type, never having said `initialize`, and reads JSON. It is
served without a session; whoever names a session or a protocol version, or initializes, gets the full transport.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.types import Message, Receive, Scope, Send

from ...errors import JupyterMcpError
from ..protocol import SESSION_HEADER, VERSION_HEADER, VERSION_KEY
from .json_text import Json, read_json
from .security import error_response, read_body

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

_PROTOCOL = frozenset({SESSION_HEADER.encode(), VERSION_HEADER.encode()})


class McpRoute:
    """An ASGI endpoint over two managers of the same server: `sessions` for MCP clients, `plain` for single calls."""

    def __init__(
        self, sessions: StreamableHTTPSessionManager, plain: StreamableHTTPSessionManager, max_body: int
    ) -> None:
        self._sessions = sessions
        self._plain = plain
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            # Streams are not resumed: the SDK would not answer one that asks for it.
            headers = [pair for pair in scope["headers"] if pair[0] != b"last-event-id"]
            await self._sessions.handle_request({**scope, "headers": headers}, receive, send)
            return
        try:
            body = await read_body(receive, self._max_body)
            of_a_client = any(name in _PROTOCOL for name, _ in scope["headers"])
            call: Any = None if of_a_client else read_json(body)
        except JupyterMcpError as error:
            await error_response(error)(scope, receive, send)
            return
        except ValueError:
            await _parse_error()(scope, receive, send)
            return
        if _is_plain(call):
            call = {"jsonrpc": "2.0", "id": 0, **call}
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"accept", b"content-length")]
            scope = {**scope, "headers": [*headers, (b"accept", b"application/json")]}
            body = json.dumps(call).encode()
            await self._plain.handle_request(scope, _replay(body, receive), send)
        else:
            await self._sessions.handle_request(scope, _replay(body, receive), send)


def _is_plain(call: Any) -> bool:
    """One call, not the start of a session and not of the era that carries its version in every call."""
    if not isinstance(call, dict) or not isinstance(call.get("method"), str) or call["method"] == "initialize":
        return False
    params = call.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return not (isinstance(meta, dict) and VERSION_KEY in meta) and not call["method"].startswith("notifications/")


def _parse_error() -> Json:
    error = {"code": -32700, "message": "The body is not JSON, or nested too deep."}
    return Json({"jsonrpc": "2.0", "id": None, "error": error}, status_code=400)


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
