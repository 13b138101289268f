"""A kernel of its own for one check, on the learner's server, and what it may cost."""

from __future__ import annotations

import base64
import importlib.resources
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import anyio

from ...errors import JupyterMcpError, KernelDead
from ...ports import Kernel, Message
from ...services import Services

logger = logging.getLogger(__name__)

OWN = "<mcp-tutor>"
_NAME = "_mcp_tutor"
_END_SECONDS = 20.0
_ANSWER = re.compile(r"'([A-Za-z0-9+/=]*)'\Z")
_NOTHING = base64.b64encode(b'{"raised": {"type": "Unanswered", "mro": [], "text": "", "frames": []}}').decode()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a check may take: seconds of one check and of all of a task, bytes of what the learner's code prints, and
    the seconds that an interrupt may take to work."""

    check_seconds: float = 10.0
    task_seconds: float = 60.0
    output_bytes: int = 2**20
    interrupt_seconds: float = 2.0


class TooSlow(Exception):
    """Code that did not end in its time. `ended` says whether an interrupt has stopped it."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


class TooMuch(Exception):
    """Code that printed more than it may; it was interrupted."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


@dataclass(frozen=True, slots=True)
class Failure:
    """How a cell failed: as `kernel_side` tells it."""

    raised: Mapping[str, Any]

    @property
    def is_import(self) -> bool:
        kinds = self.raised.get("mro")
        named = [*kinds, self.raised.get("type")] if isinstance(kinds, list) else [self.raised.get("type")]
        return any(each in ("ImportError", "ModuleNotFoundError") for each in named)


class Fresh:
    """The kernel. Made by `fresh_kernel`."""

    def __init__(self, kernel: Kernel, limits: Limits) -> None:
        self._kernel = kernel
        self._limits = limits
        self._printed = 0

    async def prepare(self, seconds: float) -> None:
        """Have the kernel answer questions, before any of the learner's code has run in it."""
        await self._execute("", seconds, expression=_installing())

    async def run(self, source: str, seconds: float) -> Failure | None:
        """Run a cell; how it failed, if it did.

        Raises:
            TooSlow, TooMuch
            KernelDead
        """
        reply = await self._execute(source, seconds)
        if reply.get("status") == "ok":
            return None
        told = {
            "type": str(reply.get("ename", "")),
            "text": str(reply.get("evalue", ""))[:2000],
            "mro": [],
            "frames": [],
        }
        try:
            answer = json.loads(base64.b64decode(await self.ask({"do": "failure"}, self._limits.check_seconds)))
            if answer.get("raised", {}).get("type") == told["type"]:
                told = answer["raised"]
        except (ValueError, AttributeError, RecursionError, TooSlow):
            # The kernel has its reasons not to say more; what the reply said is enough.
            logger.debug("a learner's kernel does not say where %s was raised", told["type"])
        return Failure(told)

    async def ask(self, question: Mapping[str, Any], seconds: float) -> str:
        """Put a question; the answer as it came, base64 of JSON that the learner's code may have made.

        Raises:
            TooSlow, TooMuch
            KernelDead
        """
        sent = base64.b64encode(json.dumps(question).encode()).decode()
        reply = await self._execute("", seconds, expression=f"{_NAME}.answer({sent!r})")
        expressions = reply.get("user_expressions")
        told = expressions.get("answer") if isinstance(expressions, dict) else None
        data = told.get("data") if isinstance(told, dict) else None
        text = data.get("text/plain") if isinstance(data, dict) else None
        if not isinstance(text, str) or len(text) > 4 * self._limits.output_bytes:
            return _NOTHING
        found = _ANSWER.match(text)
        return found[1] if found else _NOTHING

    async def _execute(self, code: str, seconds: float, *, expression: str | None = None) -> dict[str, Any]:
        """Run code, or evaluate an expression in an empty, silent request that nobody else hears of."""
        content = {
            "code": code,
            "silent": expression is not None,
            "store_history": expression is None,
            "user_expressions": {} if expression is None else {"answer": expression},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        async with aclosing(self._kernel.request("execute_request", content)) as messages:  # type: ignore[type-var]
            with anyio.move_on_after(seconds) as limit:
                reply = await self._replied(messages)
            if limit.cancelled_caught:
                raise TooSlow(ended=await self._stop(messages))
            if reply is None:
                raise TooMuch(ended=await self._stop(messages))
            return reply

    async def _replied(self, messages: AsyncIterator[Message]) -> dict[str, Any] | None:
        """The reply, once all that belongs to it has come; None where it is too much."""
        reply: dict[str, Any] = {}
        async for message in messages:
            if message.channel == "shell":
                reply = message.content
            else:
                self._printed += _size(message)
                if self._printed > self._limits.output_bytes:
                    return None
        return reply

    async def _stop(self, messages: AsyncIterator[Message]) -> bool:
        """Interrupt what runs; whether that has helped."""
        with anyio.move_on_after(self._limits.interrupt_seconds):
            await self._kernel.interrupt()
            async for _ in messages:
                pass
            self._printed = 0
            return True
        return False


class Watch(Protocol):
    """Who remembers the kernels of checks, to end those that a killed service left."""

    def began(self, kernel_id: str) -> None: ...

    def ended(self, kernel_id: str) -> None: ...


@asynccontextmanager
async def fresh_kernel(
    services: Services, name: str, folder: str, limits: Limits, watch: Watch | None = None
) -> AsyncIterator[Fresh]:
    """A kernel that no notebook has, in a folder; it has ended when the context has, whatever happened.

    Raises:
        NotFound, Unavailable, KernelStartFailed: there is none to be had.
    """
    kernel = await services.kernels.start(name, cwd=folder)
    try:
        if watch is not None:
            watch.began(kernel.id)
        yield Fresh(kernel, limits)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_END_SECONDS):
            if await _ended(kernel) and watch is not None:
                watch.ended(kernel.id)


async def _ended(kernel: Kernel) -> bool:
    """End a kernel; True once it has. A Jupyter that is just restarting one that died fails to, and is asked again."""
    for pause in (0.5, 1.0, 0.0):
        try:
            await kernel.shutdown()
        except JupyterMcpError as error:
            logger.warning("the kernel of a check could not be ended: %s", error)
            await anyio.sleep(pause)
        else:
            return True
    return False


def _size(message: Message) -> int:
    """About what a message of output weighs."""
    if message.msg_type == "stream":
        return len(message.content.get("text", ""))
    if message.msg_type in ("status", "execute_input", "error"):
        return 0
    return len(repr(message.content)) + sum(len(each) for each in message.buffers)


@cache
def _installing() -> str:
    """The expression that puts `kernel_side` into a kernel, under a name of its own: any other may be the learner's."""
    here = importlib.resources.files(__package__)
    codec, side = (here.joinpath(name).read_text(encoding="utf-8") for name in ("codec.py", "kernel_side.py"))
    side = side.replace("from __future__ import annotations\n", "").replace("from .codec import Codec\n", "")
    source = codec + side + "\n"
    run = f"exec(compile({source!r}, {OWN!r}, 'exec'), own)"
    make = f"user.__setitem__({_NAME!r}, own['Side'](user, {OWN!r}))"
    return f"(lambda own, user: ({run}, {make}) and '')({{'__name__': {_NAME!r}}}, globals())"


__all__ = ["Failure", "Fresh", "KernelDead", "Limits", "TooMuch", "TooSlow", "Watch", "fresh_kernel"]
