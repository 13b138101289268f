"""A client on standard input and output, relayed line by line to the server of its root.

The relay imports the standard library only and waits for nothing but its two ends. It keeps what is unanswered: when
the server dies it finds or starts the next one, repeats the handshake there without the client's knowing, sends again
what only reads the state of the protocol, and answers the calls whose outcome nobody knows.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ... import __version__
from ...errors import JupyterMcpError, Unavailable
from ...ownership import greeting, has_unix_sockets
from ...settings import Settings
from .detach import Serve, log_tail
from .lines import PRIVATE, SERVER_ERROR, Line, Malformed, answered, error_line, parse, result_line
from .reach import reach

_CHUNK = 1 << 16
_FULL = 8 << 20
_WRITE = min(select.PIPE_BUF, 4096) if hasattr(select, "PIPE_BUF") else 4096
_DEATHS, _DEATH_SECONDS = 5, 30.0
_HANG_UPS = 20
_HAND_OVER_SECONDS = 5.0
_LAST_ANSWERS_SECONDS = 10.0


@dataclass(slots=True)
class _Pending:
    """A request that has no answer yet. `number` counts the lines of this connection."""

    line: Line
    number: int
    at: float


@dataclass(slots=True)
class _Handshake:
    """What the next server must be told that this one was told already."""

    initialize: Line | None = None
    initialized: Line | None = None
    subscriptions: dict[str, Line] = field(default_factory=dict)


class Relay:
    """One client and the server of its root. `serve` runs a server in a process forked off."""

    def __init__(self, settings: Settings, serve: Serve, asked: Mapping[str, Any]) -> None:
        self._settings = settings
        self._serve = serve
        self._asked = asked
        self._id = secrets.token_hex(3)
        self._server: socket.socket | None = None
        self._source, self._sink = 0, 1
        self._open = True
        self._from_client, self._from_server = bytearray(), bytearray()
        self._to_client, self._to_server = bytearray(), bytearray()
        self._sent = self._unread = 0
        self._greeted = self._is_ours = False
        self._hang_ups = 0
        self._pending: dict[str, _Pending] = {}
        self._unknown: list[_Pending] = []
        self._handshake = _Handshake()
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._bye: dict[str, Any] | None = None
        self._closing_at: float | None = None

    def run(self) -> int:
        """Relay until the client closes its end; the exit code.

        Raises:
            SocketsForbidden, InvalidRequest: before anything was read.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        self._connect(0.0)
        while self._open:
            self._turn()
        return 0

    # ------------------------------------------------------------------ one turn

    def _turn(self) -> None:
        reading = [self._source] if self._closing_at is None and len(self._to_server) < _FULL else []
        writing = [self._sink] if self._to_client else []
        server = self._server
        if server is not None:
            if len(self._to_client) < _FULL:
                reading.append(server.fileno())
            if self._to_server:
                writing.append(server.fileno())
        readable, writable, _ = select.select(reading, writing, [], self._patience())
        if self._sink in writable:
            self._flush_client()
        if server is not None and server.fileno() in writable:
            self._flush_server()
        if server is not None and self._server is server and server.fileno() in readable:
            self._read_server(server)
        if self._source in readable:
            self._read_client()
        if self._closing_at is not None and (self._server is None or self._patience() == 0) and not self._to_client:
            self._open = False

    def _patience(self) -> float | None:
        if self._closing_at is None:
            return None
        return max(0.0, self._closing_at - time.monotonic()) if self._server is not None else 0.0

    # ------------------------------------------------------------------ the client

    def _read_client(self) -> None:
        chunk = os.read(self._source, _CHUNK)
        if not chunk:
            # What is on its way is still handed over, and the answers that are about to come.
            self._closing_at = time.monotonic() + _LAST_ANSWERS_SECONDS
            self._flush_server()
            return
        for text in _lines(self._from_client, chunk):
            self._accept(text)
        if self._to_server:
            self._flush_server()

    def _accept(self, text: bytes) -> None:
        try:
            line = parse(text)
        except Malformed as error:
            self._answer(error.answer)
            return
        if line.method == "initialize":
            self._handshake = _Handshake()
        if self._server is None and (failure := self._attach()) is not None:
            if line.key is not None:
                self._answer(error_line(line.key, SERVER_ERROR, failure))
            return
        self._remember(line)
        self._send(line)

    def _remember(self, line: Line) -> None:
        if line.method == "initialize":
            self._handshake.initialize = line
        elif line.method == "notifications/initialized":
            self._handshake.initialized = line
        elif line.method == "resources/subscribe":
            self._handshake.subscriptions[str(line.params.get("uri"))] = line
        elif line.method == "resources/unsubscribe":
            self._handshake.subscriptions.pop(str(line.params.get("uri")), None)
        elif line.method == "notifications/cancelled":
            # Nobody waits for its answer any more, and no server may run it a second time.
            self._pending.pop(json.dumps(line.params.get("requestId")), None)

    def _answer(self, text: bytes) -> None:
        self._to_client += text + b"\n"
        self._flush_client()

    def _flush_client(self) -> None:
        """Write what standard output takes without waiting; it may be another's too, so its mode is left alone."""
        try:
            while self._to_client and select.select([], [self._sink], [], 0)[1]:
                written = os.write(self._sink, memoryview(self._to_client)[:_WRITE].tobytes())
                del self._to_client[:written]
        except BrokenPipeError:
            self._open = False

    # ------------------------------------------------------------------ the server

    def _send(self, line: Line) -> None:
        self._sent += 1
        if line.key is not None:
            self._pending[line.key] = _Pending(line, self._sent, time.time())
        self._to_server += line.text + b"\n"

    def _flush_server(self) -> None:
        if self._server is None:
            return
        try:
            while self._to_server:
                with memoryview(self._to_server) as view:
                    written = self._server.send(view[: 4 * _CHUNK])
                del self._to_server[:written]
            if self._closing_at is not None:
                self._server.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            # What it said before it went is still to be read.
            self._discard_unsent()

    def _read_server(self, server: socket.socket) -> None:
        try:
            chunk = server.recv(4 * _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            # A Unix socket whose other end is closed says so when something was left unread there.
            self._unread += isinstance(error, ConnectionResetError) and _is_unix(server)
            chunk = b""
        if not chunk:
            self._lost()
            return
        for text in _lines(self._from_server, chunk):
            if text.startswith(PRIVATE):
                self._told(json.loads(text))
                continue
            key = answered(text)
            if key is not None:
                if key.startswith(f'"{self._id}:'):
                    continue
                self._pending.pop(key, None)
            self._to_client += text + b"\n"
        self._flush_client()

    def _told(self, facts: dict[str, Any]) -> None:
        if "version" in facts:
            self._greeted, self._hang_ups = True, 0
        if "refused" in facts:
            self._refused(facts["refused"])
        if "bye" in facts:
            self._bye = facts
        for warning in facts.get("warnings", ()):
            print(f"mcp-server-jupyter: {warning}", file=sys.stderr, flush=True)  # noqa: T201 - the client's log
        if "executions" in facts:
            for pending in self._unknown:
                self._answer(_unknown_outcome(pending, facts["executions"]))
            self._unknown = []

    def _refused(self, why: str) -> None:
        """The root's server works elsewhere than we were asked to.

        Raises:
            Unavailable
        """
        error = Unavailable(f"This client was not attached: {why}.")
        for key in self._pending:
            self._answer(error_line(key, SERVER_ERROR, str(error)))
        raise error

    def _lost(self) -> None:
        """The connection has ended: sort what was unanswered, and find the next server if anybody needs one."""
        bye, self._bye = self._bye or {}, None
        taken = bye.get("taken", self._most_taken())
        if not bye:
            self._count_death()
        self._drop()
        if self._closing_at is not None:
            return
        again = [p.line for p in self._pending.values() if p.number > taken or p.line.method != "tools/call"]
        self._unknown += [p for p in self._pending.values() if p.line not in again]
        self._pending = {}
        if bye.get("bye") in ("down", "linger") and not again and not self._unknown:
            return
        others_first = bye.get("bye") == "handed over" and bye.get("heir") != self._id
        self._attach(again, time.monotonic() + (_HAND_OVER_SECONDS if others_first else 0))

    def _most_taken(self) -> int:
        """How many of the lines that were sent a server that died may have read: they may not be sent again."""
        assert self._server is not None
        self._discard_unsent()
        if not self._greeted and _is_unix(self._server):
            return 0
        return max(0, self._sent - self._unread)

    def _discard_unsent(self) -> None:
        self._unread += self._to_server.count(b"\n")
        self._to_server.clear()

    def _count_death(self) -> None:
        """A connection that waited at a server of others' while it died tells of a death that was counted already.

        Unless it goes on like that: then there is a server that hangs up on us.
        """
        self._hang_ups += not self._greeted
        if self._greeted or self._is_ours or self._hang_ups > _HANG_UPS:
            self._deaths.append(time.monotonic())

    def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None
        self._from_server.clear()
        self._to_server.clear()
        self._sent = self._unread = 0
        self._greeted = self._is_ours = False

    # ------------------------------------------------------------------ finding a server

    def _attach(self, again: Iterable[Line] = (), start_from: float = 0.0) -> str | None:
        """Connect to a server and bring it to where the last one was; else why there is none.

        Args:
            again: what the last one left unanswered and can be asked twice.
            start_from: when to start one, if nobody else has by then; on the monotonic clock.
        """
        failure = self._failing()
        if failure is None:
            try:
                self._connect(start_from)
            except JupyterMcpError as error:
                failure = str(error)
        if failure is None:
            self._resume(list(again))
            return None
        for line in (*again, *(pending.line for pending in self._unknown)):
            if line.key is not None:
                self._answer(error_line(line.key, SERVER_ERROR, failure))
        self._unknown = []
        return failure

    def _connect(self, start_from: float) -> None:
        """Connect, and say who we are."""
        self._server, self._is_ours = reach(self._settings, self._serve, self._asked, start_from)
        self._server.setblocking(False)
        settings = self._settings
        client = {
            "id": self._id,
            "version": __version__,
            "notebook": settings.notebook,
            "answers": [settings.max_chars, settings.max_images, settings.max_image_bytes, settings.wait_seconds],
            "environment": dict(os.environ),
            "asked": self._asked,
        }
        since = min((pending.at for pending in self._unknown), default=None)
        self._to_server += greeting(settings, "attach", client=client, since=since)
        self._flush_server()

    def _resume(self, again: list[Line]) -> None:
        shake = self._handshake
        if shake.initialize is not None:
            waiting = next((line for line in again if line is shake.initialize), None)
            self._send(waiting or self._silenced(shake.initialize, 0))
        if shake.initialized is not None:
            self._send(shake.initialized)
        for number, line in enumerate(shake.subscriptions.values(), 1):
            if line not in again:
                self._send(self._silenced(line, number))
        for line in again:
            if line is not shake.initialize:
                self._send(line)
        self._flush_server()

    def _silenced(self, line: Line, number: int) -> Line:
        """The same request under an id of ours, whose answer the client does not see."""
        message = {**json.loads(line.text), "id": f"{self._id}:{number}"}
        return Line(json.dumps(message).encode(), line.method, None, line.params)

    def _failing(self) -> str | None:
        """Why no other server is started just now: the last ones all died at once."""
        if len(self._deaths) < _DEATHS or self._deaths[0] < time.monotonic() - _DEATH_SECONDS:
            return None
        return (
            f"The server died {_DEATHS} times within {_DEATH_SECONDS:.0f} s and is not started again for a while. "
            f"Try later, or run `mcp-server-jupyter doctor`. The end of its log:\n"
            + log_tail(self._settings.root_state)
        )


def _is_unix(connection: socket.socket) -> bool:
    return has_unix_sockets() and connection.family == socket.AF_UNIX


def _lines(buffer: bytearray, chunk: bytes) -> Iterator[bytes]:
    """The whole lines that a buffer holds once a chunk is added, without those that are blank."""
    searched = len(buffer)
    buffer += chunk
    begun = 0
    while (end := buffer.find(b"\n", max(searched, begun))) >= 0:
        text = bytes(buffer[begun:end]).strip()
        begun = end + 1
        if text:
            yield text
    del buffer[:begun]


def _unknown_outcome(pending: _Pending, executions: list[str]) -> bytes:
    """What a call is answered that was with a server when it died."""
    known = "; ".join(executions) or "none is in the journal, so it had probably not begun"
    text = (
        "The server stopped before it answered: the outcome of this call is unknown. Your executions since: "
        f"{known}. get_execution tells how they went; kernels and variables were kept."
    )
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if pending.line.is_modern:
        result["resultType"] = "complete"
    return result_line(pending.line.key or "null", result)
