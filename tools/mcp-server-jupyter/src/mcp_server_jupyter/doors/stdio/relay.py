"""A client on standard input and output, relayed to a running server over streamable HTTP, byte for byte.

Both protocol eras pass: a request with the 2026-07-28 envelope is sent with that era's routing headers, everything
else in the session of its `initialize` (MCP specification, "Transports", Streamable HTTP, of either revision).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from ...ownership import RunningServer
from .wire import Wire

if TYPE_CHECKING:
    import httpx2

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_STOPPED = "The server this client was attached to stopped before it answered; the outcome of the call is unknown."
_GONE_CODE = -32000
_INTERNAL = -32603


@dataclass(slots=True)
class Handshake:
    """The answered `initialize` of a 2025-era client, kept so that another server can be told of it."""

    lines: list[bytes] = field(default_factory=list)
    id: Any = None


async def relay(wire: Wire, server: RunningServer, handshake: Handshake) -> bool:
    """Relay until the client closes its end (True) or the server is gone (False; unanswered lines are put back)."""
    import httpx2  # noqa: PLC0415 - only a relayed client needs it

    headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
    timeout = httpx2.Timeout(None, connect=5.0)
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=False) as client,
        anyio.create_task_group() as tasks,
    ):
        attached = _Attached(wire, server, handshake, client, tasks)
        try:
            closed = await attached.run()
        except httpx2.TransportError:
            closed = False
        tasks.cancel_scope.cancel()
    await attached.settle(closed)
    return closed


class _Attached:
    def __init__(
        self,
        wire: Wire,
        server: RunningServer,
        handshake: Handshake,
        client: httpx2.AsyncClient,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._wire = wire
        self._url = server.url
        self._handshake = handshake
        self._client = client
        self._tasks = tasks
        self._session: dict[str, str] = {}
        self._running: dict[str, tuple[anyio.CancelScope, bool]] = {}
        self._unsent: list[bytes] = []
        self._broken: list[Any] = []
        self._gone = anyio.Event()

    async def run(self) -> bool:
        if self._handshake.lines:
            await self._replay_handshake()
        closed = False
        accepting: bytes | None = None

        async def watch(scope: anyio.CancelScope) -> None:
            await self._gone.wait()
            scope.cancel()

        with anyio.CancelScope() as reading:
            self._tasks.start_soon(watch, reading)
            async for line in self._wire.lines():
                accepting = line
                await self._accept(line)
                accepting = None
            closed = True
        if accepting is not None and accepting not in self._unsent:
            self._unsent.append(accepting)
        if closed and self._session:
            with anyio.move_on_after(0.1):
                await self._client.delete(self._url, headers=self._session)
        return closed

    async def settle(self, closed: bool) -> None:
        """Answer what was cut off, put back what was never sent."""
        if closed:
            return
        for request_id in self._broken:
            await self._wire.send(_error(request_id, _GONE_CODE, _STOPPED))
        for line in reversed(self._unsent):
            self._wire.push_back(line)

    async def _replay_handshake(self) -> None:
        await self._initialize(self._handshake.lines[0], answer=False)
        for line in self._handshake.lines[1:]:
            await self._client.post(self._url, content=line, headers=self._headers({}))
        self._tasks.start_soon(self._listen)

    async def _accept(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            await self._wire.send(_error(None, -32700, "Parse error"))
            return
        if not isinstance(message, dict):
            await self._wire.send(_error(None, -32600, "One JSON-RPC message a line."))
            return
        method, request_id = message.get("method"), message.get("id")
        if method == "initialize":
            await self._attempt(self._initialize(line, answer=True), line, request_id)
        elif method == "notifications/cancelled" and self._cancel(message):
            return
        elif request_id is None or method is None:
            await self._attempt(self._notify(line, message), line, None)
            if method == "notifications/initialized":
                self._handshake.lines[1:] = [line]
                self._tasks.start_soon(self._listen)
        else:
            scope = anyio.CancelScope()
            self._running[repr(request_id)] = (scope, VERSION_KEY in _meta(message))
            self._tasks.start_soon(self._request, line, message, scope)

    async def _attempt(self, sending: Awaitable[None], line: bytes, request_id: Any) -> None:
        import httpx2  # noqa: PLC0415 - see `relay`

        try:
            await sending
        except (httpx2.ConnectError, httpx2.ConnectTimeout, _SessionLost):
            self._unsent.append(line)
            self._gone.set()
        except httpx2.TransportError:
            if request_id is not None:
                self._broken.append(request_id)
            self._gone.set()

    async def _request(self, line: bytes, message: dict[str, Any], scope: anyio.CancelScope) -> None:
        key = repr(message["id"])
        try:
            with scope:
                await self._attempt(self._exchange(line, message), line, message["id"])
        finally:
            if self._running.get(key, (None,))[0] is scope:
                del self._running[key]

    def _cancel(self, message: dict[str, Any]) -> bool:
        """In the 2026 era closing the response is the cancellation; earlier it is a message like any other."""
        params = message.get("params")
        request_id = params.get("requestId") if isinstance(params, dict) else None
        scope, modern = self._running.get(repr(request_id), (None, False))
        if scope is None or not modern:
            return False
        scope.cancel()
        return True

    async def _initialize(self, line: bytes, *, answer: bool) -> None:
        self._session = {}
        request_id = json.loads(line).get("id")
        async with self._client.stream("POST", self._url, content=line, headers=self._headers({})) as response:
            session = response.headers.get(SESSION_HEADER)
            async for text in _messages(response, request_id):
                result = json.loads(text).get("result") or {}
                if session and "protocolVersion" in result:
                    self._session = {SESSION_HEADER: session, VERSION_HEADER: result["protocolVersion"]}
                if answer:
                    await self._wire.send(text)
                    self._handshake.lines, self._handshake.id = [line], request_id

    async def _notify(self, line: bytes, message: dict[str, Any]) -> None:
        await self._client.post(self._url, content=line, headers=self._headers(message))

    async def _exchange(self, line: bytes, message: dict[str, Any]) -> None:
        headers = self._headers(message)
        async with self._client.stream("POST", self._url, content=line, headers=headers) as response:
            if response.status_code == 404 and SESSION_HEADER in headers:
                raise _SessionLost
            async for text in _messages(response, message["id"]):
                await self._wire.send(text)

    async def _listen(self) -> None:
        """The session's own stream: notifications that belong to no request."""
        import httpx2  # noqa: PLC0415 - see `relay`

        headers = {**self._headers({}), "accept": "text/event-stream"}
        try:
            async with self._client.stream("GET", self._url, headers=headers) as response:
                if response.status_code == 200:
                    async for text in _messages(response, None):
                        await self._wire.send(text)
        except httpx2.TransportError:
            # The next request meets the same end and deals with it.
            return

    def _headers(self, message: dict[str, Any]) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        version = _meta(message).get(VERSION_KEY)
        if not isinstance(version, str):
            return headers | self._session
        method = str(message["method"])
        headers |= {VERSION_HEADER: version, "mcp-method": method}
        name = message["params"].get(_NAMED.get(method, ""))
        if isinstance(name, str):
            headers["mcp-name"] = _header_value(name)
        return headers


class _SessionLost(Exception):
    """The server at this address does not know our session: it was restarted."""


def _meta(message: Mapping[str, Any]) -> Mapping[str, Any]:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else {}


def _header_value(value: str) -> str:
    """A header value as MCP 2026-07-28 ("Streamable HTTP", Custom Headers) encodes it."""
    plain = value == value.strip() and all(" " <= character <= "~" for character in value)
    if plain and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


async def _messages(response: httpx2.Response, request_id: Any) -> AsyncIterator[bytes]:
    """The JSON-RPC messages of a response, each on one line."""
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        data: list[bytes] = []
        async for line in _event_lines(response):
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line:
                if text := b" ".join(data).strip():
                    yield text
                data = []
        return
    body = (await response.aread()).replace(b"\n", b" ").strip()
    if response.status_code < 400 or request_id is None:
        if body and kind.startswith("application/json"):
            yield body
        return
    yield _refusal(body, response.status_code, request_id)


async def _event_lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Lines as server-sent events end them; `aiter_lines` also splits at U+2028, which JSON may hold."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def _refusal(body: bytes, status: int, request_id: Any) -> bytes:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict) and "code" in answer["error"]:
        return json.dumps({**answer, "id": request_id}, ensure_ascii=False).encode()
    text = answer.get("message") if isinstance(answer, dict) else None
    return _error(request_id, _INTERNAL, text or f"The running server refused the request (HTTP {status}).")


def _error(request_id: Any, code: int, text: str) -> bytes:
    answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
    return json.dumps(answer, ensure_ascii=False).encode()
