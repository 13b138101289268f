"""The kernel's channels inside, ours to the outside: other clients are forwarded, what is for us is recorded.

Inside, one client speaks to the kernel: the agent. It names whom an answer is for in front of the message, as ZMQ
routers do, and the kernel gives that back.
"""

from __future__ import annotations

import datetime
import json
import os
import socket as sockets
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from ...shared import recording
from .protocol import CHANNELS, DELIMITER, is_signed, signature

# A sun_path holds 107 bytes and a zero (unix(7)), on macOS four less.
_LONGEST_PATH = 103
_HEARTBEAT_BYTES = 1024


def secure(socket: Any, config: dict[str, Any]) -> None:
    """Encrypt a port, bound what a message may hold, and notice peers that have gone without a word."""
    socket.curve_server = True
    socket.curve_publickey = config["curve_publickey"].encode()
    socket.curve_secretkey = config["curve_secretkey"].encode()
    socket.maxmsgsize = config["max_message_bytes"]
    socket.linger = 0
    # A peer that was cut off comes back at once, under its name.
    socket.heartbeat_ivl, socket.heartbeat_timeout = 5_000, 15_000


def bind(socket: Any, ip: str, port: int) -> None:
    """Listen on an address; "*" is every one of either family."""
    if ip == "*":
        socket.ipv6 = True
        try:
            socket.bind(f"tcp://*:{port}")
            return
        except zmq.ZMQError:
            socket.ipv6 = False
    socket.ipv6 = ":" in ip
    socket.bind(f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}")


class Channels:
    """Both sides of the five Jupyter channels.

    Args:
        take: called with the channel and the frames of each message that is for our server.
    """

    def __init__(
        self, context: Any, poller: Any, config: dict[str, Any], take: Callable[[str, list[bytes]], None]
    ) -> None:
        self._context, self._poller, self._config, self._take = context, poller, config, take
        self._key = config["key"].encode()
        # Who we are to the kernel. Nobody outside can know it, and so be taken for our server.
        self._us = b"\x01" + os.urandom(12)
        self._front: dict[str, Any] = {}
        self._inner: dict[str, Any] = {}
        self._monitor: Any = None
        self._connected = self._heard = False
        self._welcomes: list[bytes] = []
        self._subscribers = 0
        self._paths: list[str] = []
        for channel in CHANNELS:
            kind = zmq.XPUB if channel == "iopub" else zmq.ROUTER
            socket = self._front[channel] = context.socket(kind)
            secure(socket, config)
            if channel == "iopub":
                # Each subscription is told, so that each can be greeted.
                socket.xpub_verboser = True
            else:
                socket.router_handover = True
            bind(socket, config["ip"], config["ports"][channel])
            poller.register(socket, zmq.POLLIN)

    # ------------------------------------------------------------------ the kernel's side

    def connection(self, launch: dict[str, Any]) -> dict[str, Any]:
        """A connection file for the kernel: ipc where it can, the loopback else."""
        info: dict[str, Any] = {
            "signature_scheme": "hmac-sha256",
            "key": self._config["key"],
            "kernel_name": launch["name"],
        }
        path = os.path.join(self._config["folder"], f"k{launch['epoch']}")
        if launch["ipc"] and len(os.fsencode(path)) + 2 <= _LONGEST_PATH:
            numbers: dict[str, int] = {channel: number for number, channel in enumerate(CHANNELS, 1)}
            info.update(transport="ipc", ip=path)
        else:
            numbers = dict(zip(CHANNELS, _free_ports(len(CHANNELS))))  # noqa: B905  (Python 3.9)
            info.update(transport="tcp", ip="127.0.0.1")
        info.update({f"{channel}_port": number for channel, number in numbers.items()})
        return info

    def connect(self, info: dict[str, Any]) -> None:
        """Connect to a kernel that may not listen yet."""
        self._heard = False
        ipc = info["transport"] == "ipc"
        self._paths = [f"{info['ip']}-{number}" for number in range(1, len(CHANNELS) + 1)] if ipc else []
        # In the order in which they are read: what a cell shows comes before its reply, as a rule.
        for channel in ("iopub", *(name for name in CHANNELS if name != "iopub")):
            socket = self._inner[channel] = self._context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.linger = 0
            socket.rcvhwm = socket.sndhwm = 0
            socket.reconnect_ivl = 10
            if channel == "iopub":
                socket.subscribe(b"")
                self._monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            else:
                # The same on each: a kernel asks for input under the name by which it was asked on shell.
                socket.identity = b"agent"
            port = info[f"{channel}_port"]
            socket.connect(f"ipc://{info['ip']}-{port}" if ipc else f"tcp://{info['ip']}:{port}")
            self._poller.register(socket, zmq.POLLIN)

    def disconnect(self) -> None:
        """Close the kernel's side, once it has ended."""
        for socket in self._inner.values():
            self._poller.unregister(socket)
            if socket is self._inner["iopub"]:
                socket.disable_monitor()
                self._monitor.close()
            socket.close()
        self._inner, self._monitor = {}, None
        self._connected = False
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)

    def may_have_more(self) -> bool:
        """Whether the kernel may have published something that has not been read from its connection yet."""
        while self._monitor is not None and self._monitor.poll(0):
            number, _ = recording.MONITOR_EVENT.unpack(self._monitor.recv_multipart()[0])
            self._connected = number != zmq.EVENT_DISCONNECTED
        return self._connected

    def send(self, channel: str, frames: list[bytes]) -> None:
        """Send a message of our server's."""
        self._inner[channel].send_multipart([self._us, *frames])

    # ------------------------------------------------------------------ both

    def read(self, ready: dict[Any, int], most: int = 256) -> bool:
        """Carry what has arrived, a bounded number of messages of each channel. False if nothing had."""
        any_read = False
        for channel, socket in self._inner.items():
            if socket in ready:
                any_read |= self._each(socket, most, self._from_kernel, channel)
        for channel, socket in self._front.items():
            if socket in ready:
                any_read |= self._each(socket, most, self._from_client, channel)
        return any_read

    def drain(self) -> bool:
        """Read what the kernel has sent. False if nothing had arrived."""
        return any([self._each(socket, 4096, self._from_kernel, name) for name, socket in self._inner.items()])

    @staticmethod
    def _each(socket: Any, most: int, handle: Callable[[str, list[bytes]], None], channel: str) -> bool:
        for number in range(most):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return number > 0
            handle(channel, frames)
        return True

    def _from_kernel(self, channel: str, frames: list[bytes]) -> None:
        if channel == "iopub":
            if not self._heard:
                self._heard = True
                for topic in self._welcomes:
                    self._welcome(topic)
                self._welcomes.clear()
            self._take(channel, frames)
            if self._subscribers > 0:
                self._front[channel].send_multipart(frames)
        elif frames and frames[0] == self._us:
            self._take(channel, frames[1:])
        else:
            self._front[channel].send_multipart(frames)

    def _from_client(self, channel: str, frames: list[bytes]) -> None:
        if channel == "iopub":
            self._subscribed(frames[0])
        elif channel == "hb":
            if self._inner and sum(map(len, frames)) <= _HEARTBEAT_BYTES:
                self._inner[channel].send_multipart(frames)
        elif self._inner and frames[0] != self._us and is_signed(self._key, frames[1:]):
            self._inner[channel].send_multipart(frames)

    def _subscribed(self, told: bytes) -> None:
        if told[:1] == b"\x00":
            self._subscribers -= 1
        elif told[:1] == b"\x01":
            self._subscribers += 1
            if self._heard:
                self._welcome(told[1:])
            elif len(self._welcomes) < 64:
                self._welcomes.append(told[1:])

    def _welcome(self, topic: bytes) -> None:
        # JEP 65. The kernel greets the agent alone: to whom it forwards it has to say so itself.
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()  # noqa: UP017  (Python 3.9)
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "iopub_welcome", "username": "agent", "session": "agent"}
        header.update(date=now, version="5.4")
        content = {"subscription": topic.decode("utf-8", "replace")}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self._front["iopub"].send_multipart([topic, DELIMITER, signature(self._key, parts), *parts])


def _free_ports(count: int) -> list[int]:
    held = [sockets.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()
