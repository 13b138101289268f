"""Kernels that wait for their first user: forked ahead, claimed by one message, used once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from ...errors import JupyterMcpError
from .kernel import LocalKernel

logger = logging.getLogger(__name__)

# Whoever has just started a kernel has work for it, and for the processors.
_PAUSE_SECONDS = 0.5
_IDLE_SECONDS = 600.0
# Kernelspecs and environments that kernels are kept of: those used last.
_MOST_KINDS = 2

Environ = Mapping[str, str] | None


class Warm:
    """The kernels that wait, by kernelspec and environment.

    Args:
        wanted: so many of each kind that was used lately.
        begin: forks one that waits, and counts it; None where it would not be forked.
        has_room: whether there may be one kernel more.
    """

    def __init__(
        self,
        wanted: int,
        begin: Callable[[str, Environ], Awaitable[LocalKernel | None]],
        has_room: Callable[[], bool],
    ) -> None:
        self._wanted = wanted
        self._begin = begin
        self._has_room = has_room
        self._kinds: OrderedDict[object, tuple[str, Environ, list[LocalKernel]]] = OrderedDict()
        self._used = asyncio.Event()

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(len(waiting) for _, _, waiting in self._kinds.values())

    def used(self, name: str, env: Environ) -> None:
        """A kernel was started: the next may be of the same kind."""
        if self._wanted:
            kind = _kind(name, env)
            self._kinds.setdefault(kind, (name, env, []))
            self._kinds.move_to_end(kind)
            self._used.set()

    async def claim(self, name: str, env: Environ, cwd: str, epoch: int) -> LocalKernel | None:
        """One that waits, now its user's and in their folder; None where there is none, and one has to be started."""
        _, _, waiting = self._kinds.get(_kind(name, env), (name, env, []))
        while waiting:
            kernel = waiting.pop(0)
            try:
                if await kernel.claim(cwd, epoch):
                    return kernel
            except JupyterMcpError as error:
                logger.info("a kernel that waited was not to be had: %s", error)
            except BaseException:
                await kernel.discard()
                raise
            await kernel.discard()
        return None

    async def run(self) -> None:
        """Keep as many as are wanted of what was used lately. Cancelled, it leaves none behind."""
        try:
            while True:
                with anyio.move_on_after(_IDLE_SECONDS) as idle:
                    await self._used.wait()
                if idle.cancelled_caught:
                    await self.give_up()
                    await self._used.wait()
                await anyio.sleep(_PAUSE_SECONDS)
                self._used = asyncio.Event()
                await self._fill()
        finally:
            with anyio.CancelScope(shield=True):
                await self.give_up()

    async def give_up(self, most: int = 0) -> None:
        """End those that wait, but for so many."""
        for _, _, waiting in list(self._kinds.values()):
            while waiting and self.count > most:
                await waiting.pop(0).discard()

    async def _fill(self) -> None:
        while len(self._kinds) > _MOST_KINDS:
            _, (_, _, left) = self._kinds.popitem(last=False)
            # Somebody may be claiming from the same list.
            while left:
                await left.pop(0).discard()
        for name, env, waiting in list(self._kinds.values()):
            for kernel in [each for each in waiting if each.death is not None]:
                waiting.remove(kernel)
                await kernel.discard()
            while len(waiting) < self._wanted and self._has_room():
                try:
                    begun = await self._begin(name, env)
                except JupyterMcpError as error:
                    logger.info("no kernel could be kept waiting: %s", error)
                    break
                if begun is None:
                    break
                waiting.append(begun)


def _kind(name: str, env: Environ) -> Any:
    return name, None if env is None else frozenset(env.items())
