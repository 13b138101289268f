"""The requests being answered, so that the end of the server need not wait for the longest of them."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import Unavailable
from .security import error_response

_STOPPING = "The server is stopping; the call was not answered in time."
_STOPPING_HINT = "What a cell has put out so far is in its notebook; get_execution of the next server knows more."


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
        started = False

        async def noticing_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with anyio.CancelScope() as ending:
            self._scopes[ending] = _is_idle(scope)
            try:
                await app(scope, receive, noticing_send)
            finally:
                self._scopes.pop(ending, None)
        if ending.cancelled_caught:
            if started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await error_response(Unavailable(_STOPPING, hint=_STOPPING_HINT))(scope, receive, send)

    def end(self) -> None:
        """Answer what waits with 503, and close the streams."""
        for scope in list(self._scopes):
            scope.cancel()


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
