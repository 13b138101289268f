"""Our side of an agent's port: commands that are done once, and a stream that loses and doubles nothing.

Connections come and go. Each is made anew, to the address the host gives then; it begins with `hello`, goes on
reading at the byte where the last one ended, and says again whatever was not answered, in its order. What is said
twice is done once: by the agent's memory of message ids, of epochs, of marks.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import JupyterMcpError, Unavailable, Unsupported
from .agent.protocol import FROM_AGENT, TO_AGENT, WINDOW, seal, unseal
from .host import Keys
from .pieces import Pieces

if TYPE_CHECKING:
    import zmq

logger = logging.getLogger(__name__)

Answer = asyncio.Future[tuple[dict[str, Any], list[bytes]]]

_BURST = 64
# After it the address is asked for again.
_HELLO_SECONDS = 3.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_KEEPALIVE_SECONDS = 30.0
_ACKNOWLEDGE_SECONDS = 0.2
_HEARTBEAT_MS, _SILENCE_MS = 5_000, 15_000
_COMMAND_SECONDS = 10.0


class Refused(Unavailable):
    """The agent does not do what it was told; `answer` says why."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"The kernel's agent refused: {answer.get('text') or answer['error']}.")
        self.answer = answer


class Listener(Protocol):
    """Who is told what an agent says. Called in the event loop; must not block."""

    def greeted(self, hello: dict[str, Any]) -> None:
        """The agent has answered for the first time; the stream follows."""

    def record(self, kind: str, frames: list[bytes]) -> None:
        """One record of the stream: `kind` is a channel's name, or "event"."""

    def gap(self, size: int) -> None:
        """So many bytes of the stream were dropped before they could be read."""

    def superseded(self, lease: int) -> None:
        """Another server has taken the kernels, under this higher number of the Lease."""


@dataclass(slots=True)
class _Command:
    header: dict[str, Any]
    payload: Sequence[bytes]
    answer: Answer | None


class Link:
    """One agent, reached or not. `open` it, then use it; `close` it, and the agent goes on.

    Args:
        context: of ZMQ.
        keys: the agent's.
        address: where its port is now; see `Host.address`.
        lease: the Lease's number now.
        listener: who hears the stream.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        keys: Keys,
        address: Callable[[], Awaitable[tuple[str, int]]],
        lease: Callable[[], int],
        listener: Listener,
    ) -> None:
        self.unreachable_since: float | None = time.time()
        self.hello: dict[str, Any] = {}
        self.met = asyncio.Event()
        """Set once the first `hello` has been answered."""
        self.is_closed = False
        self.began = 0
        """The place in the stream at which listening began; known once `met` is set."""
        self._context, self._keys, self._address, self._lease = context, keys, address, lease
        self._listener = listener
        self._key = keys.key.encode()
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._lost = asyncio.Event()
        self._ready = False
        self._numbers = 0
        self._unanswered: dict[int, _Command] = {}
        self._stream = 0
        self._pieces = Pieces()
        self._acknowledged = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._why = "it has not been reached yet"

    @property
    def at(self) -> int:
        """The place in the stream up to which the listener has been told everything."""
        return self._pieces.at

    # ------------------------------------------------------------------ life

    def open(self, *, from_end: bool) -> None:
        """Begin to connect. The stream is read from its beginning, or from what is its end at the first `hello`."""
        self._from_end = from_end
        self._task = asyncio.create_task(self._stay_connected(), name="link to a kernel's agent")
        self._task.add_done_callback(report)

    def close(self) -> None:
        """Stop listening; the agent goes on. What waits for an answer is told that none will come."""
        self.is_closed = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._disconnect()
        unanswered, self._unanswered = self._unanswered, {}
        for command in unanswered.values():
            if command.answer is not None and not command.answer.done():
                command.answer.set_exception(Unavailable("The connection to the kernel's agent was closed."))
                # Who asked may have been cancelled in this same moment.
                command.answer.exception()

    async def _stay_connected(self) -> None:
        pause = _SHORTEST_PAUSE
        while True:
            try:
                ip, port = await self._address()
                self._connect(ip, port)
                async with asyncio.timeout(_HELLO_SECONDS):
                    await self._greet()
            except TimeoutError:
                self._why = "it does not answer"
            except JupyterMcpError as error:
                self._why = str(error)
            else:
                pause = _SHORTEST_PAUSE
                await self._until_lost()
                self._why = "the connection was cut"
            self._disconnect()
            self.unreachable_since = self.unreachable_since or time.time()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _greet(self) -> None:
        answered: Answer = self._loop.create_future()
        self._numbers += 1
        number = self._numbers
        self._unanswered[number] = command = _Command({"do": "hello"}, (), answered)
        try:
            self._say(number, command)
            lost = asyncio.create_task(self._lost.wait())
            try:
                await asyncio.wait((answered, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
            if not answered.done():
                raise Unavailable("The connection to the kernel's agent could not be made.")
            hello = answered.result()[0]
        finally:
            self._unanswered.pop(number, None)
        if hello["instance"] != self.hello.get("instance", hello["instance"]):
            raise Unavailable("Another agent answers there.")
        self._begin(hello)

    def _begin(self, hello: dict[str, Any]) -> None:
        self.hello = hello
        if not self.met.is_set() and self._from_end:
            self.began = int(hello["end"])
            self._pieces.begin(self.began)
        self._ready = True
        self.unreachable_since = None
        self._stream += 1
        if not self.met.is_set():
            self.met.set()
            self._listener.greeted(hello)
        self._acknowledge()
        for number, command in tuple(self._unanswered.items()):
            self._say(number, command)

    async def _until_lost(self) -> None:
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(_KEEPALIVE_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                # The agent ends an idle kernel that no server asks for.
                self._acknowledge()

    # ------------------------------------------------------------------ the connection

    def _connect(self, ip: str, port: int) -> None:
        import zmq  # noqa: PLC0415  (0.1 s: only where a kernel is opened)

        self._again, self._noblock = zmq.Again, int(zmq.NOBLOCK)
        self._lost.clear()
        try:
            socket = self._socket = self._context.socket(zmq.DEALER)
            socket.linger = 0
            socket.rcvhwm = socket.sndhwm = 0
            socket.identity = uuid.uuid4().bytes
            socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 1000
            # A network that swallows everything is noticed by that.
            socket.heartbeat_ivl, socket.heartbeat_timeout = _HEARTBEAT_MS, _SILENCE_MS
            socket.curve_serverkey = self._keys.public.encode()
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.ipv6 = ":" in ip
            lost = (
                zmq.EVENT_DISCONNECTED
                | zmq.EVENT_HANDSHAKE_FAILED_AUTH
                | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
                | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            )
            self._monitor = socket.get_monitor_socket(lost)
            socket.connect(f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}")
        except zmq.ZMQError as error:
            self._disconnect()
            raise Unavailable(
                f"The kernel's agent at {ip} cannot be connected to: {error.strerror}.",
                hint="Shut a kernel down, or start the server with a higher limit of open files (ulimit -n).",
            ) from error
        self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self._drain)
        self._loop.add_reader(int(self._monitor.getsockopt(zmq.FD)), self._watch)
        self._watch()

    def _disconnect(self) -> None:
        self._ready = False
        self._stop_timer()
        socket, monitor = self._socket, self._monitor
        self._socket = self._monitor = None
        if socket is None:
            return
        import zmq  # noqa: PLC0415

        self._loop.remove_reader(int(socket.getsockopt(zmq.FD)))
        if monitor is not None:
            self._loop.remove_reader(int(monitor.getsockopt(zmq.FD)))
            socket.disable_monitor()
            monitor.close()
        socket.close()

    def _watch(self) -> None:
        while self._monitor is not None:
            try:
                self._monitor.recv_multipart(self._noblock)
            except self._again:
                return
            # What had arrived before is still to be had.
            while self._read():
                pass
            self._lost.set()

    # ------------------------------------------------------------------ commands

    def post(self, do: str, payload: Sequence[bytes] = (), **fields: Any) -> None:
        """Have something done, sooner or later; once. Nobody hears of it."""
        self._put(_Command({"do": do, **fields}, payload, None))

    async def ask(
        self, do: str, payload: Sequence[bytes] = (), *, seconds: float = _COMMAND_SECONDS, **fields: Any
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Have something done and return the answer.

        Raises:
            Unavailable: the agent did not answer in `seconds`, or the link was closed; it may do it yet.
            Refused: it does not do it.
        """
        if self.is_closed:
            raise Unavailable("The connection to the kernel's agent was closed.")
        command = _Command({"do": do, **fields}, payload, self._loop.create_future())
        assert command.answer is not None
        number = self._put(command)
        try:
            async with asyncio.timeout(seconds):
                return await command.answer
        except TimeoutError:
            raise Unavailable(
                f"The kernel's agent did not answer in {seconds:.0f} s: {self._why}.",
                hint="The kernel may well go on; try again.",
            ) from None
        finally:
            self._unanswered.pop(number, None)

    def _put(self, command: _Command) -> int:
        self._numbers += 1
        self._unanswered[self._numbers] = command
        if self._ready:
            self._say(self._numbers, command)
        return self._numbers

    def _say(self, number: int, command: _Command) -> None:
        if self._socket is None:
            return
        header = {**command.header, "id": number, "lease": self._lease()}
        self._socket.send_multipart(seal(self._key, TO_AGENT, header, command.payload), self._noblock)
        # A send may use up the wake-up that was for a message (see `zmq.wire`).
        self._loop.call_soon(self._drain)

    # ------------------------------------------------------------------ what comes

    def _drain(self) -> None:
        for _ in range(_BURST):
            if not self._read():
                return
        self._loop.call_soon(self._drain)

    def _read(self) -> bool:
        if self._socket is None:
            return False
        try:
            frames = self._socket.recv_multipart(self._noblock)
        except self._again:
            return False
        said = unseal(self._key, FROM_AGENT, frames)
        if said is None:
            return True
        header, payload = said
        if "piece" in header:
            if header["piece"] == self._stream and self._ready:
                self._take(int(header["from"]), payload[0])
        else:
            self._answered(header, payload)
        return True

    def _answered(self, header: dict[str, Any], payload: list[bytes]) -> None:
        if header.get("error") == "lease":
            self._listener.superseded(int(header["lease"]))
        command = self._unanswered.pop(header.get("id", -1), None)
        if command is None or command.answer is None or command.answer.done():
            return
        if "error" not in header:
            command.answer.set_result((header, payload))
        elif header["error"] == "unknown":
            command.answer.set_exception(
                Unsupported(
                    f"The kernel's agent is older than this server and cannot {command.header['do']!r}.",
                    hint="Restart the kernel.",
                )
            )
        else:
            command.answer.set_exception(Refused(header))

    def _take(self, start: int, data: bytes) -> None:
        have = self._pieces.have
        if start > have:
            lost = start - self.at
            self._pieces.begin(start)
            self._listener.gap(lost)
        elif start < have:
            return
        for kind, frames in self._pieces.add(data):
            self._listener.record(kind, frames)
        if self._pieces.have - self._acknowledged >= WINDOW // 4:
            self._acknowledge()
        elif self._timer is None:
            self._timer = self._loop.call_later(_ACKNOWLEDGE_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._stop_timer()
        if not self._ready or self._socket is None:
            return
        self._acknowledged = self._pieces.have
        header = {"do": "read", "id": 0, "lease": self._lease(), "from": self._acknowledged, "stream": self._stream}
        self._socket.send_multipart(seal(self._key, TO_AGENT, header), self._noblock)
        self._loop.call_soon(self._drain)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def report(task: asyncio.Task[None]) -> None:
    """A defect in what works for a kernel unseen must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed", task.get_name(), exc_info=error)
