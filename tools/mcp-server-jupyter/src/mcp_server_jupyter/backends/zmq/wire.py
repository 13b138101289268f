"""The Jupyter wire protocol of one kernel over ZMQ, read by the event loop itself.

Spec: jupyter-client docs, "Messaging in Jupyter" (the wire protocol; `iopub_welcome` is JEP 65). Nothing here
assumes that the kernel is local: connection information comes as a dict, addresses may be host names, and keys for
CURVE are honoured.

The sockets are plain ones. A ZMQ file descriptor is edge-triggered, so a socket is read until it is empty after
every wake-up *and* after every send; a reader handles a bounded burst and then lets the loop run other things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import JupyterMcpError, KernelDead, Unavailable
from ...ports import Channel
from .dispatch import Dispatch, is_big

if TYPE_CHECKING:
    import zmq

_BURST = 64


class Wire(Dispatch):
    """The channels of one kernel process: shell, control and stdin share one identity, iopub is subscribed whole.

    Args:
        info: a connection file's content (jupyter-client docs, "Connection files"), `ip` being a host name, an
            address or, for ipc, the path prefix of the sockets.
        identity: the session and ZMQ identity. Two living clients must never share one: the kernel would answer the
            second. A server that adopts the kernel uses its predecessor's, and so receives what was meant for it.
        reconnect_ms: how often a channel whose peer is not there tries again.
        idle_timeout: seconds of silence on iopub after a reply until a missing idle status is given up.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        *,
        identity: str | None = None,
        reconnect_ms: int = 100,
        idle_timeout: float = 5.0,
    ) -> None:
        super().__init__(info, identity=identity, idle_timeout=idle_timeout)
        self._reconnect_ms = reconnect_ms
        self._sockets: dict[Channel, zmq.Socket[bytes]] = {}

    def open(self, context: zmq.Context[Any]) -> None:
        """Connect the four channels and start to read them. Connecting does not need the kernel to be up.

        Raises:
            Unavailable: there is no descriptor left.
        """
        # 0.1 s to import: paid by who opens a kernel, while the kernel itself starts.
        import zmq  # noqa: PLC0415

        self._again = zmq.Again
        self._fd = int(zmq.FD)
        self._noblock = int(zmq.NOBLOCK)
        kinds: tuple[tuple[Channel, int], ...] = (
            ("iopub", zmq.SUB),
            ("stdin", zmq.DEALER),
            ("control", zmq.DEALER),
            ("shell", zmq.DEALER),
        )
        try:
            for channel, kind in kinds:
                self._open(context, channel, kind)
        except zmq.ZMQError as error:
            self.close()
            raise Unavailable(
                f"The channels of a kernel cannot be opened: {error.strerror}.",
                hint="Shut a kernel down, or start the server with a higher limit of open files (ulimit -n).",
            ) from error

    def _open(self, context: zmq.Context[Any], channel: Channel, kind: int) -> None:
        # Known at once: whatever fails below, `close` closes it.
        socket = self._sockets[channel] = context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = socket.sndhwm = 0
        socket.reconnect_ivl = self._reconnect_ms
        if channel == "iopub":
            socket.subscribe(b"")
            # A kernel with iopub_welcome greets each *new* topic: one of our own proves that both were taken.
            socket.subscribe(self._topic)
        else:
            socket.identity = self.identity.encode()
        _encrypt(socket, self._info)
        socket.connect(_url(self._info, channel))
        self.loop.add_reader(int(socket.getsockopt(self._fd)), self._drain, channel)
        self._drain(channel)

    def close(self) -> None:
        """Close the channels. Requests that still wait end as the last `fail` said, else as closed ones."""
        if self._error is None:
            self.fail(lambda: KernelDead("The connection to the kernel was closed.", hint="Start it again."))
        sockets, self._sockets = self._sockets, {}
        for socket in sockets.values():
            self.loop.remove_reader(int(socket.getsockopt(self._fd)))
            socket.close()

    def fail(self, error: Callable[[], JupyterMcpError]) -> None:
        """Read what has already arrived, then end every request, present and future, with `error()`."""
        self.finish_unpacking()
        for channel in tuple(self._sockets):
            while (frames := self._receive(channel)) is not None:
                self.feed(channel, frames)
        super().fail(error)

    # ------------------------------------------------------------------ the sockets

    def _transmit(self, channel: Channel, frames: list[bytes], msg_id: str | None) -> None:
        self._sockets[channel].send_multipart(frames, self._noblock)
        self._drain(channel)

    def _drain(self, channel: Channel) -> None:
        for _ in range(_BURST):
            if not self._read(channel):
                return
        self.loop.call_soon(self._drain, channel)

    def _read(self, channel: Channel) -> bool:
        """Take one message off a channel; False if there is none, or none that can be taken now."""
        frames = None if self.is_unpacking(channel) else self._receive(channel)
        if frames is None:
            return False
        if is_big(frames):
            self.feed_aside(channel, frames, lambda: self._drain(channel))
            return False
        self.feed(channel, frames)
        return True

    def _receive(self, channel: Channel) -> list[bytes] | None:
        socket = self._sockets.get(channel)
        if socket is None:
            return None
        try:
            return socket.recv_multipart(self._noblock)
        except self._again:
            return None


def _url(info: Mapping[str, Any], channel: str) -> str:
    port = info[f"{channel}_port"]
    if info.get("transport", "tcp") == "ipc":
        return f"ipc://{info['ip']}-{port}"
    host = info["ip"]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _encrypt(socket: zmq.Socket[bytes], info: Mapping[str, Any]) -> None:
    if not info.get("curve_publickey"):
        return
    import zmq  # noqa: PLC0415

    # The kernel's public key authenticates it; the client's pair is its own when none was provisioned.
    public = _as_bytes(info["curve_publickey"])
    secret = info.get("curve_secretkey")
    ours = (public, _as_bytes(secret)) if secret else zmq.curve_keypair()
    socket.curve_serverkey = public
    socket.curve_publickey, socket.curve_secretkey = ours


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
