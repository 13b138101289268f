"""The WebSocket of one room: the sync protocol of Yjs, Jupyter's `save` message, and awareness."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from ....errors import InvalidNotebook, InvalidRequest, JupyterMcpError, NotFound, Unavailable, Unsupported
from ..client import Client, quoted
from .replica import Replica

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SYNC, AWARENESS, RAW = 0, 1, 2
STEP1, STEP2, UPDATE = 0, 1, 2
# Jupyter gives a client five seconds for the handshake.
_OPEN_SECONDS, SYNC_SECONDS = 10.0, 20.0
AWARE_SECONDS = 15.0
_PRODUCT = "mcp-server-jupyter"
_NAMELESS = ("", "user", "agent")
"""Authors whose client has not said its name: by REST or a bare POST. In a room "user" would be anybody."""
_BODY = {"format": "json", "type": "notebook"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a notebook's room is. `can_save`: it writes the file when it is asked to; else in its own time."""

    file_id: str
    query: str
    can_save: bool

    @property
    def path(self) -> str:
        return f"api/collaboration/room/json:notebook:{self.file_id}"


async def find_room(client: Client, name: str) -> Address | None:
    """The room of a notebook that is there; None where Jupyter has no live documents.

    Raises:
        Unavailable, Unauthorized
    """
    try:
        session = await client.call("PUT", f"api/collaboration/session/{quoted(name)}", _BODY)
        return Address(session["fileId"], f"sessionId={session['sessionId']}", can_save=True)
    except (NotFound, InvalidRequest, Unsupported):
        pass
    try:
        # jupyter-server-documents has no sessions.
        index = await client.call("POST", "api/fileid/index", params={"path": name})
        return Address(index["id"], "", can_save=False)
    except (NotFound, InvalidRequest, Unsupported):
        return None


async def path_of(client: Client, address: Address) -> str | None:
    """Where the file of a room is now; None if it is gone.

    Raises:
        Unavailable, Unauthorized
    """
    try:
        found = await client.get("api/fileid/path", id=address.file_id)
    except (NotFound, InvalidRequest, Unsupported):
        return None
    return str(found["path"]) if isinstance(found, dict) and found.get("path") else None


class Connection:
    """One connection to a room, with a replica of its own. `run` it in a task.

    Attributes:
        joined: set once the replica has what the room has.
        closed: set when it has ended; `problem` then says how.
    """

    def __init__(self, client: Client, address: Address, changed: Callable[[], None]) -> None:
        self.address = address
        self.joined = asyncio.Event()
        self.closed = asyncio.Event()
        self.problem: JupyterMcpError | None = None
        self.replica = Replica(self._send_update, changed)
        self._client = client
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._rounds: list[asyncio.Future[None]] = []
        self._saves: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)
        self._presence: dict[str, Any] = {"autosave": False}
        self._clock = 0
        self._others: set[int] = set()
        self._connection: ClientConnection | None = None

    @property
    def is_open(self) -> bool:
        return self.joined.is_set() and not self.closed.is_set()

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Be connected, once; `problem` says how it ended."""
        from websockets.asyncio.client import connect  # noqa: PLC0415  (an extra)
        from websockets.exceptions import ConnectionClosed, WebSocketException  # noqa: PLC0415

        try:
            async with connect(
                self._client.socket_url(self.address.path, self.address.query),
                compression=None,
                additional_headers=self._client.headers,
                max_size=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=1.0,
            ) as connection:
                await self._use(connection)
        except ConnectionClosed as error:
            self.problem = _closed(self._client, error)
        except (OSError, TimeoutError, WebSocketException) as error:
            self.problem = self._client.away(error)
        finally:
            self.closed.set()
            gone = self.problem or Unavailable("The room was left.")
            waiting: list[asyncio.Future[Any]] = [*self._rounds, *self._saves.values()]
            for future in waiting:
                if not future.done():
                    future.set_exception(gone)
                    # Nobody may wait for it any more.
                    future.exception()

    def reset(self) -> None:
        """End: what the replica holds is not to get to the room any more."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _use(self, connection: ClientConnection) -> None:
        self._connection = connection
        sending = asyncio.create_task(self._send_all(connection))
        aware = asyncio.create_task(self._stay_aware())
        self._ask()
        try:
            while True:
                self._received(await connection.recv(decode=False))
        finally:
            sending.cancel()
            aware.cancel()
            with anyio.CancelScope(shield=True), suppress(OSError):
                # Others would see us for half a minute more.
                with suppress(Exception), anyio.move_on_after(1.0):
                    await connection.send(self._awareness(None))
                await connection.close()

    async def _send_all(self, connection: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        # The reader notices as well, and tells.
        with suppress(ConnectionClosed):
            while True:
                await connection.send(await self._outgoing.get())

    # ------------------------------------------------------------------ the protocol

    def _ask(self) -> None:
        from pycrdt import create_sync_message  # noqa: PLC0415

        self._outgoing.put_nowait(create_sync_message(self.replica.doc))

    def _send_update(self, update: bytes) -> None:
        from pycrdt import create_update_message  # noqa: PLC0415

        self._outgoing.put_nowait(create_update_message(update))

    def _received(self, message: bytes) -> None:
        if message[0] == SYNC:
            answer = self.replica.receive(message[1:])
            if answer is not None:
                self._outgoing.put_nowait(answer)
            if message[1] == STEP2:
                self._synced()
        elif message[0] == RAW:
            self._told(message)
        elif message[0] == AWARENESS:
            self._met(message)

    def _synced(self) -> None:
        if not self.joined.is_set():
            self.joined.set()
            self._outgoing.put_nowait(self._awareness(self._presence))
            return
        if self._rounds:
            waiting = self._rounds.pop(0)
            if not waiting.done():
                waiting.set_result(None)

    def _told(self, message: bytes) -> None:
        from pycrdt import Decoder  # noqa: PLC0415

        decoder = Decoder(message)
        decoder.read_var_uint()
        try:
            told = json.loads(decoder.read_var_string())
        except ValueError:
            return
        waiting = self._saves.pop(told.get("responseTo", 0), None) if isinstance(told, dict) else None
        if waiting is not None and not waiting.done():
            waiting.set_result(str(told.get("status")))

    async def confirmed(self) -> None:
        """Return once the room has everything that was sent before.

        Raises:
            Unavailable: it may have, or not.
        """
        if self.closed.is_set():
            raise self.problem or Unavailable("The room was left.")
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rounds.append(waiting)
        # It answers in order.
        self._ask()
        await _within(waiting)

    async def save(self) -> str:
        """Have the room write its file; "success", "skipped" or "failed".

        Raises:
            Unavailable
        """
        from pycrdt import Encoder  # noqa: PLC0415

        if self.closed.is_set():
            raise self.problem or Unavailable("The room was left.")
        number = next(self._numbers)
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._saves[number] = waiting
        encoder = Encoder()
        encoder.write_var_uint(RAW)
        encoder.write_var_string("save")
        encoder.write_var_uint(number)
        self._outgoing.put_nowait(encoder.to_bytes())
        return str(await _within(waiting))

    # ------------------------------------------------------------------ awareness

    async def comes_up(self) -> bool:
        """Whether it is joined, before it ends."""
        joined = asyncio.ensure_future(self.joined.wait())
        closed = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({joined, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
            closed.cancel()
        return self.is_open

    def present(self, **fields: Any) -> None:
        """Tell those who look at the notebook something of us."""
        if all(self._presence.get(key) == value for key, value in fields.items()):
            return
        self._presence |= fields
        if self.is_open:
            self._outgoing.put_nowait(self._awareness(self._presence))

    def _met(self, message: bytes) -> None:
        """Somebody tells of themselves: whoever has just come has not heard of us."""
        from pycrdt import Decoder, read_message  # noqa: PLC0415

        decoder = Decoder(read_message(message[1:]))
        others = set()
        for _ in range(decoder.read_var_uint()):
            others.add(decoder.read_var_uint())
            decoder.read_var_uint()
            decoder.read_var_string()
        if self.joined.is_set() and not others <= {*self._others, self.replica.doc.client_id}:
            self._outgoing.put_nowait(self._awareness(self._presence))
        self._others |= others

    async def _stay_aware(self) -> None:
        """Others forget whom they have not heard of for half a minute."""
        while True:
            await asyncio.sleep(AWARE_SECONDS)
            self._outgoing.put_nowait(self._awareness(self._presence))

    def _awareness(self, state: dict[str, Any] | None) -> bytes:
        from pycrdt import Encoder, create_awareness_message  # noqa: PLC0415

        self._clock = max(self._clock + 1, int(time.time()))
        encoder = Encoder()
        encoder.write_var_uint(1)
        encoder.write_var_uint(self.replica.doc.client_id)
        encoder.write_var_uint(self._clock)
        encoder.write_var_string(json.dumps(state))
        return create_awareness_message(encoder.to_bytes())


async def _within(waiting: asyncio.Future[Any]) -> Any:
    with anyio.move_on_after(SYNC_SECONDS):
        return await waiting
    raise Unavailable("Jupyter does not answer in the live document.", hint="Look at its log.")


def _closed(client: Client, error: Any) -> JupyterMcpError:
    code = error.rcvd.code if error.rcvd is not None else 0
    if code == 4404:
        return NotFound("There is no such notebook any more.", hint="List the notebooks.")
    if code == 4400:
        return InvalidNotebook("Jupyter cannot open it as a notebook.", hint="Repair it by hand.")
    return client.away(error)


def user_of(author: str) -> dict[str, str]:
    """What others in a room see of an author."""
    name = author.partition("#")[0]
    if name in _NAMELESS:
        name = _PRODUCT
    initials = name[:2].upper()
    return {"username": name, "name": name, "display_name": name, "initials": initials, "color": "#8250df"}
