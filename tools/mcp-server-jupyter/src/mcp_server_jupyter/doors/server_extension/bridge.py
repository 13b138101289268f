"""ASGI over Tornado: a request of a Tornado handler is one call of an application, and its answer is not buffered.

Spec: asgi.readthedocs.io, "HTTP & WebSocket ASGI Message Format" (the part about HTTP).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tornado import web
from tornado.iostream import StreamClosedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

# Tornado writes its own.
_HOP_BY_HOP = frozenset({b"content-length", b"transfer-encoding", b"connection"})
# Who serves the handler has looked at them; nobody behind it is to see them.
_CREDENTIALS = frozenset({"authorization", "cookie", "x-xsrftoken"})


class AsgiHandler(web.RequestHandler):
    """A handler that lets an application answer. Subclasses are decorated with `tornado.web.stream_request_body`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gone = asyncio.Event()
        self._body = bytearray()
        self._is_too_big = False
        self._is_read = False
        super().__init__(*args, **kwargs)

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """Of the body of one request."""

    def refuse_big(self) -> None:
        """Call it in `prepare`: nothing is read of a body that says that it is too big."""
        length = self.request.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self.most_bytes:
            raise self._too_big()

    def data_received(self, chunk: bytes) -> None:
        """See `tornado.web.RequestHandler.data_received`."""
        if self._is_too_big or len(self._body) + len(chunk) > self.most_bytes:
            self._is_too_big = True
            self._body.clear()
        else:
            self._body += chunk

    def on_connection_close(self) -> None:
        """See `tornado.web.RequestHandler.on_connection_close`."""
        super().on_connection_close()
        self._gone.set()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """See `tornado.web.RequestHandler.write_error`. After one whose body was not read the connection is closed:
        said so, no client sends its next request on it (RFC 9112, section 9.6)."""
        if not self._is_read:
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    def compute_etag(self) -> str | None:
        """See `tornado.web.RequestHandler.compute_etag`. Answers are not to be kept."""
        return None

    async def answer(self, app: ASGIApp, path: str) -> None:
        """Have `app` answer this request, as one for `path`.

        Raises:
            tornado.web.HTTPError: 413, the body was too big.
        """
        self._is_read = True
        if self._is_too_big:
            raise self._too_big()
        body = [bytes(self._body)]
        self._body.clear()

        async def receive() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        try:
            await app(self._scope(path), receive, self._send)
        finally:
            # Whoever still listens for the client's end is released.
            self._gone.set()
        if not self._finished:
            with suppress(StreamClosedError):
                await self.finish()

    def _scope(self, path: str) -> Scope:
        request = self.request
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.protocol,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": (request.query or "").encode(),
            "headers": [
                (key.lower().encode("latin-1"), value.encode("latin-1", "replace"))
                for key, value in request.headers.get_all()
                if key.lower() not in _CREDENTIALS
            ],
            "client": (request.remote_ip, 0),
            "server": None,
            "state": {},
        }

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.set_status(message["status"])
            # Tornado's default says that everything is HTML.
            self.clear_header("Content-Type")
            for key, value in message.get("headers", ()):
                if key.lower() not in _HOP_BY_HOP:
                    self.set_header(key.decode("latin-1"), value.decode("latin-1"))
            return
        data: Any = message.get("body", b"")
        if data:
            self.write(data)
        if message.get("more_body"):
            try:
                await self.flush()
            except StreamClosedError:
                self._gone.set()

    def _too_big(self) -> web.HTTPError:
        return web.HTTPError(413, f"The request is over {self.most_bytes} bytes.")
