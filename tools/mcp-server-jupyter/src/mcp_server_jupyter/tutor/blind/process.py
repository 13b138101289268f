"""The service's side of the process that tests run in."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from subprocess import DEVNULL
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

MODULE = "mcp_server_jupyter.tutor.blind.checker"
MOST_LINE = 8 * 2**20
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
    """One process. Made by `open_checker`."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._process = process
        self._out: anyio.abc.ByteSendStream = process.stdin
        self._into = BufferedByteReceiveStream(process.stdout)

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
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise CheckerEnded from error

    async def _receive(self) -> dict[str, Any]:
        try:
            line = await self._into.receive_until(b"\n", MOST_LINE)
            told: dict[str, Any] = json.loads(line)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, OSError, ValueError) as error:
            raise CheckerEnded from error
        return told


@asynccontextmanager
async def open_checker() -> AsyncIterator[Checker]:
    """A process for the tests of one task: no environment, nothing of the service's, ended with the context."""
    command = [sys.executable, "-I", "-X", "utf8", "-m", MODULE]
    process = await anyio.open_process(command, env={}, cwd="/", stderr=DEVNULL, start_new_session=True)
    try:
        yield Checker(process)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
