"""Our extension in a user's own server, to which calls are passed on: an MCP session there for each caller here.

The sessions are of the handshake era of the protocol, in which a cell runs on when the connection ends, and only
`notifications/cancelled` stops it: so nothing that happens to this service interrupts a user's cell. No stream is held
open between calls, which would count as activity of the user's.

Specs: modelcontextprotocol.io, 2025-11-25, "Transports" and "Cancellation".
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from .. import __version__
from ..addresses import is_stopped
from ..errors import InvalidRequest, NotFound, ServerNotRunning, TooLarge, Unauthorized, Unavailable

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

SERVICE = "mcp-server-jupyter"
"""What the extension's health check calls itself."""
_PATH = "api/mcp"
_VERSION = "2025-11-25"
_SESSION_HEADER, _VERSION_HEADER = "mcp-session-id", "mcp-protocol-version"
_CONNECT_SECONDS, _HEALTH_SECONDS = 5.0, 10.0
# The extension opens behind Jupyter's start.
_READY_SECONDS = 60.0
# A stream that has nothing to tell pings every fifteen.
_SILENCE_SECONDS = 90.0
_CANCEL_SECONDS = 5.0
_MOST_SESSIONS = 64
_CANCELLED = "notifications/cancelled"

Json = dict[str, Any]
Progress = Callable[[float, str], Awaitable[None]]


class Refused(Exception):
    """The extension's answer to a request is a protocol error: JSON-RPC's code, message and data."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class Sessions:
    """The ids of the sessions at one user's extension, by caller. They outlive the connections."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, str] = OrderedDict()

    def get(self, author: str) -> str | None:
        return self._ids.get(author)

    def put(self, author: str, session_id: str) -> None:
        self._ids[author] = session_id
        self._ids.move_to_end(author)
        while len(self._ids) > _MOST_SESSIONS:
            self._ids.popitem(last=False)

    def drop(self, author: str, session_id: str) -> None:
        """It is not known there any more; somebody else may have begun another meanwhile."""
        if self._ids.get(author) == session_id:
            del self._ids[author]


class Extension:
    """The extension in one user's server. Made by `open_extension`.

    Args:
        url: of the server, with its base URL.
        http: sends no credentials of its own.
    """

    def __init__(self, url: str, token: str, http: httpx2.AsyncClient, sessions: Sessions) -> None:
        self.url = url.rstrip("/") + "/"
        self._token = token
        self._http = http
        self._sessions = sessions
        self._numbers = itertools.count(1)
        self._beginning: MutableMapping[str, anyio.Lock] = {}

    def renew(self, token: str) -> None:
        """Use this token from now on."""
        self._token = token
        # A Jupyter that was given a token once sets a cookie that stands for it.
        self._http.cookies.clear()

    async def is_ready(self) -> bool:
        """Whether our extension serves there, and is of this very version: its tools are those that are listed here."""
        import httpx2  # noqa: PLC0415 - an extra, and 0.1 s

        try:
            health = await self._http.get(f"{self.url}{_PATH}/health", timeout=_HEALTH_SECONDS)
            told = json.loads(health.content) if health.status_code == 200 else None
            if not isinstance(told, dict) or (told.get("service"), told.get("version")) != (SERVICE, __version__):
                return False
            ready = await self._http.get(
                f"{self.url}{_PATH}/api/readyz", headers=self._headers(), timeout=_READY_SECONDS
            )
        except (httpx2.HTTPError, ValueError) as error:
            logger.debug("no extension at %s: %s", self.url, error)
            return False
        return ready.status_code == 200

    async def request(
        self,
        author: str,
        method: str,
        params: Json,
        *,
        progress: Progress | None = None,
        cancelled_by_caller: Callable[[], bool] = lambda: False,
    ) -> Json:
        """Pass a request on, and its progress back while it comes; its result.

        Cancelled by its caller, it is cancelled there; cancelled otherwise, what it began goes on.

        Args:
            author: who calls. Its first part, up to "#", is the name of the client there.

        Raises:
            Refused: the extension answers an error of the protocol.
            ServerNotRunning: the hub has stopped the server.
            Unauthorized: the server refuses the token.
            Unavailable: it does not answer; what was begun there may go on.
        """
        number = next(self._numbers)
        if progress is not None:
            params = {**params, "_meta": {**params.get("_meta", {}), "progressToken": number}}
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        session_id = await self._session(author)
        try:
            try:
                return await self._exchange(message, session_id, progress)
            except NotFound:
                # It was forgotten there, or the server was started anew; nothing was done.
                self._sessions.drop(author, session_id)
                session_id = await self._session(author)
                return await self._exchange(message, session_id, progress)
        except anyio.get_cancelled_exc_class():
            if cancelled_by_caller():
                with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
                    await self._cancel(number, session_id)
            raise

    async def _cancel(self, number: int, session_id: str) -> None:
        params = {"requestId": number, "reason": "Cancelled by the caller."}
        try:
            await self._exchange({"jsonrpc": "2.0", "method": _CANCELLED, "params": params}, session_id, None)
        except (Unavailable, Unauthorized, NotFound, InvalidRequest) as error:
            logger.warning("a call that its caller has cancelled may go on: %s", error)

    async def _session(self, author: str) -> str:
        async with self._beginning.setdefault(author, anyio.Lock()):
            known = self._sessions.get(author)
            if known is not None:
                return known
            client = {"name": author.partition("#")[0], "version": __version__}
            params = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": client}
            began = {"jsonrpc": "2.0", "id": next(self._numbers), "method": "initialize", "params": params}
            async with self._posted(began, None) as response:
                await _result(response, began["id"], None)
                session_id = response.headers.get(_SESSION_HEADER)
            if not session_id:
                raise Unavailable(f"What answers at {self.url}{_PATH} begins no session.", hint="Look at its log.")
            await self._exchange({"jsonrpc": "2.0", "method": "notifications/initialized"}, session_id, None)
            self._sessions.put(author, session_id)
            return session_id

    async def _exchange(self, message: Json, session_id: str, progress: Progress | None) -> Json:
        async with self._posted(message, session_id) as response:
            return await _result(response, message.get("id"), progress) if "id" in message else {}

    @asynccontextmanager
    async def _posted(self, message: Json, session_id: str | None) -> AsyncIterator[httpx2.Response]:
        import httpx2  # noqa: PLC0415 - see above

        headers = self._headers() | {"accept": "application/json, text/event-stream"}
        if session_id is not None:
            headers |= {_SESSION_HEADER: session_id, _VERSION_HEADER: _VERSION}
        timeout = httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        url = f"{self.url}{_PATH}"
        try:
            async with self._http.stream("POST", url, json=message, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    self._refuse(response)
                yield response
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"The server at {self.url} does not answer: {str(error) or type(error).__name__}.",
                hint="What was begun there may go on: look before you repeat it.",
            ) from error

    def _refuse(self, response: httpx2.Response) -> None:
        status = response.status_code
        if is_stopped(status, response.headers.get("location", "")):
            raise ServerNotRunning(
                f"The server at {self.url} is not running: its hub has stopped it.",
                hint="start_server starts it, and waits for it.",
            )
        if status in (401, 403):
            raise Unauthorized(f"The server at {self.url} refuses the token.")
        what = f"The server at {self.url} answers {status}."
        if status == 404:
            raise NotFound(what)
        if status == 413:
            raise TooLarge(what)
        raise InvalidRequest(what) if 400 <= status < 500 else Unavailable(what, hint="Try again soon.")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self._token}"}


async def _result(response: httpx2.Response, number: Any, progress: Progress | None) -> Json:
    """The result of a request, out of a stream of events or alone.

    Raises:
        Refused: it is an error.
        Unavailable: the stream ends without one.
    """
    from httpx2 import EventSource, SSEError  # noqa: PLC0415 - see above

    try:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return _answered(json.loads(await response.aread()))
        async for event in EventSource(response, max_event_size=None):
            message = json.loads(event.data) if event.data else {}
            if message.get("method") == "notifications/progress" and progress is not None:
                told = message.get("params", {})
                await progress(float(told.get("progress", 0)), str(told.get("message") or ""))
            elif message.get("id") == number and "method" not in message:
                return _answered(message)
    except (SSEError, ValueError) as error:
        raise Unavailable(f"What answers at {response.url} is no MCP server.", hint="Look at its log.") from error
    raise Unavailable(
        f"The answer of {response.url.host} broke off.",
        hint="What was begun there may go on: look before you repeat it.",
    )


def _answered(message: Any) -> Json:
    if not isinstance(message, dict):
        raise ValueError("no JSON-RPC message")
    if isinstance(error := message.get("error"), dict):
        raise Refused(int(error.get("code", 0)), str(error.get("message", "")), error.get("data"))
    result = message.get("result")
    return result if isinstance(result, dict) else {}


@asynccontextmanager
async def open_extension(url: str, token: str, sessions: Sessions) -> AsyncIterator[Extension | None]:
    """The extension in the server at `url`; None where there is none that can be used."""
    import httpx2  # noqa: PLC0415 - see above

    async with httpx2.AsyncClient() as http:
        extension = Extension(url, token, http, sessions)
        yield extension if await extension.is_ready() else None
