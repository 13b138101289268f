"""The requests being answered, so that the end of the server need not wait for the longest of them."""

from __future__ import annotations

import json

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import Unavailable
from .security import error_response

_STOPPING = "The server is stopping; the call was not answered in time."
_STOPPING_HINT = "What a cell has put out so far is in its notebook; get_execution of the next server knows more."
_SERVER_ERROR = -32000
# Whose answer has begun is answered by the id that it asked with. What is bigger is hardly a call that runs long.
_REMEMBERED_BYTES = 1 << 16


class InFlight:
    """The scopes of the requests being answered."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, bool] = {}

    @property
    def count(self) -> int:
        return len(self._scopes)

    @property
    def has_work(self) -> bool:
        """Whether something is being answered that is neither a stream nor the question for the end."""
        return any(not is_idle for is_idle in self._scopes.values())

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        started = is_stream = False
        body = bytearray()

        async def noticing_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request" and len(body) <= _REMEMBERED_BYTES:
                body.extend(message.get("body", b"")[: _REMEMBERED_BYTES + 1])
            return message

        async def noticing_send(message: Message) -> None:
            nonlocal started, is_stream
            if message["type"] == "http.response.start":
                started = True
                is_stream = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            await send(message)

        with anyio.CancelScope() as ending:
            self._scopes[ending] = _is_idle(scope)
            try:
                await app(scope, noticing_receive, noticing_send)
            finally:
                self._scopes.pop(ending, None)
        if ending.cancelled_caught:
            if started:
                last = _last_event(bytes(body)) if is_stream else b""
                await send({"type": "http.response.body", "body": last, "more_body": False})
            else:
                await error_response(Unavailable(_STOPPING, hint=_STOPPING_HINT))(scope, receive, send)

    def end(self) -> None:
        """Answer what waits with 503, and close the streams."""
        for scope in list(self._scopes):
            scope.cancel()


def _last_event(asked: bytes) -> bytes:
    """What ends the stream that a call of JSON-RPC is answered by, so that its caller knows what to do."""
    try:
        call = json.loads(asked)
    except ValueError:
        return b""
    if not isinstance(call, dict) or not isinstance(call.get("id"), str | int):
        return b""
    error = {"code": _SERVER_ERROR, "message": f"{_STOPPING} {_STOPPING_HINT}"}
    answer = json.dumps({"jsonrpc": "2.0", "id": call["id"], "error": error})
    return f"event: message\r\ndata: {answer}\r\n\r\n".encode()


def _is_idle(scope: Scope) -> bool:
    path = scope["path"]
    return path in ("/api/events", "/api/shutdown") or (scope["method"] == "GET" and path.startswith("/api/editor/"))


class Tracked:
    def __init__(self, app: ASGIApp, *, requests: InFlight) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._requests.run(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)
