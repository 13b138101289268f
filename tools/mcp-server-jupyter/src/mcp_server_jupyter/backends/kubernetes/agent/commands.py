"""Our server's port: commands in, the stream out. See `protocol`."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import zmq

from .channels import bind, secure
from .protocol import FROM_AGENT, PIECE, TO_AGENT, VERSION, WINDOW, seal, unseal

if TYPE_CHECKING:
    from .agent import Agent

_REMEMBERED = 10_000
_BURST = 64


class Refused(Exception):
    """A command that is not done; what the answer says."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.answer = {"error": error, **more}


class Commands:
    """The port, who is served there, and how much of the stream they have."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.key = agent.config["key"].encode()
        self.lease = int(agent.config["lease"])
        self.socket = agent.context.socket(zmq.ROUTER)
        secure(self.socket, agent.config)
        self.socket.router_handover = True
        # What may be on its way to a reader is bounded by the window, and nothing else is said unasked.
        self.socket.sndhwm = 0
        bind(self.socket, agent.config["ip"], agent.config["ports"]["agent"])
        agent.poller.register(self.socket, zmq.POLLIN)
        self.heard_at = time.monotonic()
        self._instance = os.urandom(8).hex()
        self._reader: bytes | None = None
        self._reading = 0
        self._sent = self._has = 0
        self.acknowledged = 0
        # Of requests, where the stream was when they came; of others, nothing.
        self._done: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0

    # ------------------------------------------------------------------ commands

    def read(self) -> None:
        """Do what has been asked for. What is not from our server is dropped."""
        for _ in range(_BURST):
            try:
                identity, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            command = unseal(self.key, TO_AGENT, frames)
            if command is not None:
                self._answer(identity, *command)

    def _answer(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> None:
        parts: list[bytes] = []
        try:
            self._check_lease(header)
            do = getattr(self, f"do_{header.get('do')}", None)
            if do is None:
                raise Refused("unknown")
            answer: dict[str, Any] | bytes | None = do(identity, header, payload)
            if isinstance(answer, bytes):
                parts, answer = [answer], {}
        except Refused as refused:
            answer = refused.answer
        except (KeyError, ValueError, TypeError, AttributeError, OSError, zmq.ZMQError) as error:
            # A newer server's command, or a broken one's: it is told, and nobody else is harmed.
            answer = {"error": "invalid", "text": f"{type(error).__name__}: {error}"}
        if answer is not None:
            self._say(identity, {"id": header.get("id"), **answer}, parts)

    def _check_lease(self, header: dict[str, Any]) -> None:
        lease = header.get("lease")
        if not isinstance(lease, int):
            raise Refused("invalid")
        if lease < self.lease:
            raise Refused("lease", lease=self.lease)
        if lease > self.lease and self._reader is not None:
            # Who was served until now need not wait for its next command to learn it.
            self._say(self._reader, {"id": None, "error": "lease", "lease": lease}, [])
            self._reader = None
        self.lease = lease
        self.heard_at = time.monotonic()

    def _say(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> None:
        self.socket.send_multipart([identity, *seal(self.key, FROM_AGENT, header, payload)])

    def do_hello(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """How things stand."""
        agent = self.agent
        # All that has been read so far: what stands here and what the stream says are the same moment.
        agent.flush()
        process = agent.process
        return {
            "version": VERSION,
            "instance": self._instance,
            "epoch": int(agent.config["launch"]["epoch"]),
            "launch": {name: value for name, value in agent.config["launch"].items() if name != "env"},
            "pid": process.pid if process is not None else None,
            "state": agent.state,
            "stopping": agent.stopping,
            "ended": agent.ended,
            "first": agent.record.first,
            "end": agent.record.end,
            "acknowledged": self.acknowledged,
        }

    def do_read(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> None:
        """Say what the reader has, and let it have more. Another `stream` than before begins anew there."""
        at, stream = int(header["from"]), int(header["stream"])
        if identity != self._reader or stream != self._reading:
            self._reader, self._reading, self._sent = identity, stream, min(at, self.agent.record.end)
        self._has = min(at, self.agent.record.end)
        self.acknowledged = max(self.acknowledged, self._has)

    def do_fetch(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> bytes:
        """A piece of what is past; empty if it was dropped."""
        at = int(header["from"])
        record = self.agent.record
        if not record.first <= at < record.end:
            return b""
        return record.read(at, min(PIECE, int(header["to"]) - at))

    def do_find(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """Where the stream was when a request came, None if it never came or has been forgotten."""
        return {
            "at": self._done.get(str(header["msg_id"])),
            "forgotten": self._forgotten > 0,
            "first": self.agent.record.first,
        }

    def do_send(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """Pass a message on to the kernel of an epoch; once."""
        channel, msg_id = header["channel"], str(header["msg_id"])
        if channel not in ("shell", "control", "stdin"):
            raise Refused("invalid")
        if msg_id in self._done:
            return {}
        self._require_epoch(header)
        # Whatever it causes stands in the stream behind this place.
        self.agent.flush()
        self._remember(msg_id)
        if channel == "stdin":
            # Whoever reads the stream later must not ask for it again.
            self.agent.tell("answered")
        self.agent.channels.send(channel, payload)
        return {}

    def do_signal(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """Signal the kernel's process group; once."""
        once, number = str(header["once"]), int(header["number"])
        if once in self._done:
            return {}
        process = self._require_epoch(header)
        self._remember(once)
        process.signal(number)
        return {}

    def do_spawn(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """Replace the kernel by one of a later epoch. The events say when it has begun."""
        launch = {**self.agent.config["launch"], **header["launch"]}
        if not launch["argv"] or int(launch["epoch"]) <= 0:
            raise Refused("invalid")
        planned = self.agent.next_launch or self.agent.config["launch"]
        if self.agent.stopping:
            raise Refused("stopping")
        if int(launch["epoch"]) > int(planned["epoch"]):
            self.agent.respawn(launch)
        return {"epoch": max(int(launch["epoch"]), int(planned["epoch"]))}

    def do_stats(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """What the kernel and its children take."""
        process = self.agent.process
        if process is None:
            return {"pid": None, "memory_bytes": None}
        return {"pid": process.pid, "memory_bytes": process.resident_bytes()}

    def do_stop(self, identity: bytes, header: dict[str, Any], payload: list[bytes]) -> dict[str, Any]:
        """End the kernel, then the agent."""
        self.agent.stop(float(header["grace"]))
        return {}

    def _require_epoch(self, header: dict[str, Any]) -> Any:
        process = self.agent.process
        if process is None or process.epoch != header["epoch"] or process.zombie:
            raise Refused("epoch", epoch=int(self.agent.config["launch"]["epoch"]))
        return process

    def _remember(self, once: str) -> None:
        self._done[once] = self.agent.record.end
        while len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
            self._forgotten += 1

    # ------------------------------------------------------------------ the stream

    def is_behind(self) -> bool:
        """Whether there is a reader that does not have all of the stream."""
        return self._reader is not None and self._has < self.agent.record.end

    def push(self) -> None:
        """Send the reader what it may have."""
        record = self.agent.record
        while self._reader is not None and self._sent < record.end:
            if self._sent < record.first:
                # It was too slow. It sees by the place that something is missing; the window begins anew there.
                self._sent = self._has = record.first
            room = self._has + WINDOW - self._sent
            if room <= 0:
                return
            piece = record.read(self._sent, min(PIECE, room))
            if not piece:
                return
            header = {"piece": self._reading, "from": self._sent}
            self._say(self._reader, header, [piece])
            self._sent += len(piece)
