"""The server of a root: its socket, its clients, and when it ends.

The first line on a connection says what is wanted (`ownership.greeting`). `attach` makes it a client's, with MCP lines
after it; every other question is answered with one line, and the connection closed:

- `attach`: answered by `{"jupyter": 1, "version", "warnings", "executions"}`, or by `{"jupyter": 1, "refused": why}`
  where notebooks or kernels are elsewhere than the client asked for. The last line before the server closes
  the connection is `{"jupyter": 1, "bye": why, "taken": lines that were read, "heir": who starts the next server}`.
- `record`: the server's record, and whether the next one has its HTTP port; with `http`, once that door is open too.
- `call`: one operation, as the REST door answers it.
- `down`: the end of the server and its kernels.
- `hand over`: the end of an idle server that was started by its clients; its kernels are left to whoever asks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.abc

from ... import __version__
from ...errors import JupyterMcpError
from ...operations import Answers, Caller
from ...operations.bind import invoke
from ...ownership import PROTOCOL, Held
from ...places import Places
from .lines import private_line
from .session import Session

if TYPE_CHECKING:
    from mcp.server import MCPServer

logger = logging.getLogger(__name__)

Reason = Literal["stopped", "down", "linger", "handed over"]
OpenHttp = Callable[[], Awaitable[tuple[str, str | None]]]
_FULL = 16 << 20
_GREETING_SECONDS = 10.0
_FIRST_CLIENT_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 60.0
_PLACE = frozenset({"contents", "kernels", "jupyter_url", "room_url", "runtime_url"})
"""What makes a server another one, which nobody may take for the one that was asked for."""
_END = "`mcp-server-jupyter down`"
# Whoever has read the last answer may ask for the end before we know that it was sent.
_SETTLE_SECONDS = 3.0
_OF_NOTE = frozenset({"execution.finished", "operation.finished", "window.opened", "window.closed"})


class SocketConnection(asyncio.Protocol):
    """Lines over one accepted connection. `taken` counts the client's lines that were handed on."""

    def __init__(self, accepted: Callable[[SocketConnection], object]) -> None:
        self._accepted = accepted
        self._buffer = bytearray()
        self._searched = 0
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._ended = False
        self._paused = False
        self.taken = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._writable.set()
        self._accepted(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > _FULL and b"\n" in self._buffer:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        self._arrived.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._arrived.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def line(self) -> bytes | None:
        """The next line, None once the client has closed its end."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return line
            if self._ended:
                return None
            self._searched = len(self._buffer)
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self._arrived.clear()
            await self._arrived.wait()

    async def lines(self) -> AsyncIterator[bytes]:
        """See `session.Connection`."""
        while (line := await self.line()) is not None:
            self.taken += 1
            yield line

    async def send(self, line: bytes) -> None:
        """See `session.Connection`."""
        self.transport.write(line + b"\n")
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self, last: bytes) -> None:
        """Say one more thing, read nothing more, and close."""
        if not self.transport.is_closing():
            self.transport.write(last + b"\n")
            self.transport.close()


class RootServer:
    """Serves the clients of one root until `ended`; `reason` says why then.

    Args:
        is_detached: nobody's process: it ends once nobody needs it, and hands over when it is asked to.

    `open_http` opens the HTTP door when somebody asks for it, and says its address and token; `is_busy_elsewhere` says
    whether clients of that door need the server, `has_work_elsewhere` whether they wait for an answer.
    """

    def __init__(self, places: Places, mcp: MCPServer, held: Held, *, is_detached: bool) -> None:
        self.mcp = mcp
        self.ended = anyio.Event()
        self.reason: Reason = "stopped"
        self.open_http: OpenHttp | None = None
        self.is_busy_elsewhere: Callable[[], bool] = lambda: False
        self.has_work_elsewhere: Callable[[], bool] = lambda: False
        if is_detached:
            places.home.retire = self._retire
        self._places = places
        self._held = held
        self._is_detached = is_detached
        self._opening = anyio.Lock()
        self._clients: dict[SocketConnection, Session] = {}
        self._heir: str | None = None
        self._retiring = False
        self._leaving = False
        self._changed = anyio.Event()
        self._since = time.monotonic()
        self._patience = places.home.settings.linger_minutes * 60

    # ------------------------------------------------------------------ life

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients until `ended` is set, then say goodbye to them."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            create: Any = loop.create_unix_server if isinstance(listener.getsockname(), str) else loop.create_server
            accepting = await create(
                lambda: SocketConnection(lambda one: tasks.start_soon(self._met, one)), sock=listener
            )
            try:
                self._held.announce(version=__version__)
                tasks.start_soon(self._follow)
                if self._is_detached:
                    tasks.start_soon(self._linger)
                await self.ended.wait()
            finally:
                self._held.retract()
                accepting.close()
                self._goodbye()
            tasks.cancel_scope.cancel()

    def end(self, reason: Reason) -> None:
        """End now. While clients are attached, kernels are left to the server that they start next."""
        if self.ended.is_set():
            return
        self.reason = reason
        self._places.home.leave_kernels = reason == "handed over" or (reason == "stopped" and bool(self._clients))
        self.ended.set()

    @property
    def has_clients(self) -> bool:
        return bool(self._clients)

    def _goodbye(self) -> None:
        for connection in list(self._clients):
            connection.close(self._bye(connection))

    def _bye(self, connection: SocketConnection) -> bytes:
        return private_line(bye=self.reason, taken=connection.taken, heir=self._heir)

    async def _follow(self) -> None:
        """Whatever happens may be what lingering or retiring waits for."""
        with self._places.everywhere.subscribe() as subscription:
            async for event in subscription:
                if event.kind in _OF_NOTE:
                    self._touch()

    def _touch(self) -> None:
        self._since = time.monotonic()
        self._changed.set()
        self._changed = anyio.Event()
        if (self._retiring and self._is_idle) or (self._leaving and self._is_at_rest):
            self.end("handed over")

    async def _retire(self, now: bool) -> None:
        """See `Services.retire`."""
        if now:
            self.end("handed over")
        self._leaving = True
        self._touch()

    @property
    def _is_at_rest(self) -> bool:
        """Whether nothing runs and nobody waits for an answer; windows may watch."""
        answered = all(session.is_idle for session in self._clients.values())
        return answered and not self._places.is_working and not self.has_work_elsewhere()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing runs and every request is answered."""
        answered = all(session.is_idle for session in self._clients.values())
        return answered and not self._places.is_working and not self.is_busy_elsewhere()

    async def _linger(self) -> None:
        """End once there was no client for the configured time, and nothing ran."""
        patience = max(self._patience, _FIRST_CLIENT_SECONDS)
        while True:
            changed = self._changed
            if self._clients:
                patience = self._patience
                await changed.wait()
                continue
            left = self._since + patience - time.monotonic()
            if left <= 0 and self._is_idle:
                self.end("linger")
                return
            # What HTTP clients do is not always told: look again after a while.
            with anyio.move_on_after(left if left > 0 else _LOOK_AGAIN_SECONDS):
                await changed.wait()

    # ------------------------------------------------------------------ connections

    async def _met(self, connection: SocketConnection) -> None:
        try:
            with anyio.move_on_after(_GREETING_SECONDS):
                line = await connection.line()
            greeting = json.loads(line or b"null")
            if not isinstance(greeting, dict) or not self._opens(greeting.get("key")):
                return
            if greeting.get("ask") == "attach":
                await self._attach(connection, greeting)
            else:
                connection.close(json.dumps(await self._reply(greeting)).encode())
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("a connection began with something else than a greeting")
        finally:
            if self.ended.is_set():
                connection.close(self._bye(connection))
            connection.transport.close()
            self._touch()

    def _opens(self, key: object) -> bool:
        wanted = self._held.record.key
        return wanted is None or (isinstance(key, str) and hmac.compare_digest(key.encode(), wanted.encode()))

    async def _attach(self, connection: SocketConnection, greeting: Mapping[str, Any]) -> None:
        client = greeting["client"]
        if others := self._differs(client, _PLACE):
            connection.close(private_line(refused=f"{others[0]}; end it by {_END}, or ask for what it has."))
            return
        caller = Caller(
            author=f"#{client['id']}",
            answers=Answers(*client["answers"]),
            notebook=client["notebook"],
            environment=client["environment"],
        )
        session = Session(connection, self.mcp, caller, self._touch)
        if self.ended.is_set():
            return
        self._clients[connection] = session
        try:
            if _newer(client["version"], __version__) and self._is_detached and not self._retiring:
                self._retiring, self._heir = True, client["id"]
            facts: dict[str, Any] = {"version": __version__, "warnings": self._warnings(client)}
            if greeting.get("since") is not None:
                facts["executions"] = self._executions(client["id"], greeting["since"])
            await connection.send(private_line(**facts))
            self._touch()
            if not self.ended.is_set():
                await session.run()
        finally:
            self._clients.pop(connection, None)

    def _executions(self, client: str, since: float) -> list[str]:
        """One line for each of a client's executions that runs, or that began since."""
        everywhere = self._places.all()
        rows = [row for each in everywhere for row in each.journal.executions_of(f"#{client}", since)]
        return [f"{row.id} ({row.status}{f', {row.notebook}' if row.notebook else ''})" for row in rows]

    def _warnings(self, client: Mapping[str, Any]) -> list[str]:
        """What a client asked for and does not get, since it concerns all clients of the server."""
        found = [f"{each}; end it by {_END} to change that" for each in self._differs(client)]
        if _newer(client["version"], __version__) and not self._is_detached:
            found.append(f"the running server is older ({__version__}) than this client; restart it")
        return found

    def _differs(self, client: Mapping[str, Any], names: frozenset[str] | None = None) -> list[str]:
        """What a client asked for otherwise, one clause each; of these settings, or of all."""
        own = dataclasses.asdict(self._places.home.settings)
        return [
            f"the running server of this root has {_said(name, own[name])}, not {_said(name, value)}"
            for name, value in client["asked"].items()
            if name in (own if names is None else names) and name in own and str(own[name]) != str(value)
        ]

    # ------------------------------------------------------------------ questions

    async def _reply(self, greeting: Mapping[str, Any]) -> dict[str, Any]:
        ask = greeting.get("ask")
        if ask == "record":
            if greeting.get("http"):
                await self._http()
            return {"record": dataclasses.asdict(self._held.record), "keeps_port": self._keeps_port}
        if ask == "call":
            return await self._call(greeting["operation"], greeting["arguments"])
        if ask == "down":
            self.end("down")
            return {"ok": True, "pid": self._held.record.pid}
        if ask == "hand over":
            if not self._is_detached or not await self._comes_to_rest():
                return {"ok": False, "detached": self._is_detached}
            self.end("handed over")
            return {"ok": True}
        return {"message": f"This server does not know {ask!r}; it speaks protocol {PROTOCOL}.", "hint": None}

    async def _comes_to_rest(self) -> bool:
        """Whether it is idle, or is as soon as what has just been answered is put away."""
        with anyio.move_on_after(_SETTLE_SECONDS):
            while not self._is_idle:
                await self._changed.wait()
        return self._is_idle

    @property
    def _keeps_port(self) -> bool:
        """Whether HTTP is served at a port that somebody chose, not at whatever is free when it is first asked for."""
        return self.open_http is None and self._places.home.settings.port != 0

    async def _http(self) -> None:
        async with self._opening:
            if self.open_http is not None and self._held.record.url is None:
                url, token = await self.open_http()
                self._held.announce(url=url, token=token)

    async def _call(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = await invoke(await self._places.of(arguments), operation, arguments, caller=Caller("user"))
        except JupyterMcpError as error:
            return {"message": error.message, "hint": error.hint}
        return {"text": answer.text, "data": answer.data, "is_error": answer.is_error}


def _newer(one: str, other: str) -> bool:
    """Whether a version is the newer one; by the numbers it begins with."""
    return _numbers(one) > _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    found = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _said(name: str, value: Any) -> str:
    """A setting for people; a token is never shown."""
    return "another token" if name.endswith("token") else f"{name}={value!r}"
