"""The service's side of the processes that tests run in."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from subprocess import DEVNULL
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from ...errors import Unavailable

MODULE = "mcp_server_jupyter.tutor.blind.forkserver"
MOST_LINE = 8 * 2**20
_END_SECONDS = 5.0
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
Ask = Callable[[Mapping[str, Any]], Awaitable[str]]
"""Puts a question to the learner's kernel; the answer as it came, base64 of JSON, unread."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check came to.

    Attributes:
        state: "passed", "failed", "error", "import_error", "timeout" or "kernel_died".
        message: the instructor's, for the learner.
        raised: what the learner's code raised: `type`, `text` and `frames`, its own only.
        detail: what the tests' process says of it. It may name the test: for whoever wrote that, never for a learner.
    """

    state: str
    message: str = ""
    raised: Mapping[str, Any] | None = None
    detail: str = field(default="", repr=False)


class CheckerEnded(Exception):
    """The process that the tests run in has ended by itself."""


class Checker:
    """One process. Made by `Checkers.open`."""

    def __init__(self, line: anyio.abc.SocketStream, control: socket.socket) -> None:
        self._control = control
        self._out = line
        self._into = BufferedByteReceiveStream(line)

    async def put(
        self,
        examples: Sequence[tuple[str, str | None]],
        imported: Mapping[str, tuple[str, str]],
        defined: frozenset[str],
        ask: Ask,
    ) -> Verdict:
        """Put one check. The caller bounds the time; a process that was left in mid-check is of no use any more.

        Raises:
            CheckerEnded
            Unavailable: all of them were ended at once, from outside.
        """
        await self._send({"examples": list(examples), "imported": dict(imported), "defined": sorted(defined)})
        while True:
            told = await self._receive()
            if "ask" in told:
                await self._send(await ask(told["ask"]))
                continue
            verdict = told["verdict"]
            raised = verdict.get("raised")
            return Verdict(verdict["state"], verdict.get("message", ""), raised, verdict.get("detail", ""))

    async def _send(self, value: Any) -> None:
        try:
            await self._out.send(json.dumps(value).encode() + b"\n")
        except _BROKEN as error:
            raise self._ended() from error

    async def _receive(self) -> dict[str, Any]:
        try:
            line = await self._into.receive_until(b"\n", MOST_LINE)
            told: dict[str, Any] = json.loads(line)
        except (*_BROKEN, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, ValueError) as error:
            raise self._ended() from error
        return told

    def _ended(self) -> CheckerEnded | Unavailable:
        return _gone() if _has_ended(self._control) else CheckerEnded()


class Checkers:
    """Makes processes, each forked by one that has read what they need. Made by `open_checkers`."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._parent: anyio.abc.Process | None = None
        self._control: socket.socket | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Checker]:
        """A process for the tests of one task: no environment, nothing of the service's, ended with the context.

        Raises:
            Unavailable: none can be had.
        """
        ours, theirs = socket.socketpair()
        life, end = os.pipe()
        try:
            try:
                control = await self._ask([theirs.fileno(), life])
            finally:
                theirs.close()
                os.close(life)
            line = await anyio.abc.UNIXSocketStream.from_socket(ours)
        except BaseException:
            ours.close()
            os.close(end)
            raise
        try:
            yield Checker(line, control)
        finally:
            os.close(end)
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(_END_SECONDS):
                    await _ended(line)
                await line.aclose()

    async def _ask(self, descriptors: Sequence[int]) -> socket.socket:
        async with self._lock:
            for _ in range(2):
                control = self._control or await self._start()
                try:
                    await anyio.wait_writable(control)
                    socket.send_fds(control, [b"+"], descriptors)
                except OSError:
                    # Somebody has killed it; the next one does the work.
                    await self.close()
                else:
                    return control
        raise _gone()

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-X", "utf8", "-m", MODULE]
        try:
            with theirs:
                self._parent = await anyio.open_process(
                    command,
                    stdin=theirs.fileno(),
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise Unavailable(f"No process for tests can be started: {error}.") from error
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._control = ours
        return ours

    async def close(self) -> None:
        """End them all."""
        control, self._control = self._control, None
        parent, self._parent = self._parent, None
        if control is not None:
            control.close()
        if parent is not None:
            with anyio.CancelScope(shield=True):
                if parent.returncode is None:
                    parent.kill()
                await parent.aclose()


@asynccontextmanager
async def open_checkers() -> AsyncIterator[Checkers]:
    """Processes for tests, all of which have ended when the context has."""
    checkers = Checkers()
    try:
        yield checkers
    finally:
        await checkers.close()


async def _ended(line: anyio.abc.SocketStream) -> None:
    """Return once nobody holds the other end."""
    try:
        while True:
            await line.receive()
    except (*_BROKEN, anyio.EndOfStream):
        return


def _has_ended(control: socket.socket) -> bool:
    """Whether who forks has ended: it lets go of this before its children are killed for it."""
    try:
        return control.fileno() < 0 or control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _gone() -> Unavailable:
    return Unavailable("The processes of tests were ended from outside.", hint="Check again.")
