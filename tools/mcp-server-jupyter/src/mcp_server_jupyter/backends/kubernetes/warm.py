"""Kernels that wait for their first user: `warm: N` in a profile. A claim is one write and a change of folder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio

from ...errors import JupyterMcpError
from ..zmq.kernel import move_to
from .cluster import Cluster
from .kernel import PodKernel
from .pod import PodHost
from .profiles import Profile

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0
_FAILED_PAUSE = 30.0


class Warm:
    """The kernels that wait, by profile.

    Args:
        begin: starts a kernel in a new place, and counts it.
        new: makes a place for one that waits.
    """

    def __init__(
        self,
        cluster: Cluster,
        begin: Callable[[PodHost, int], Awaitable[PodKernel]],
        new: Callable[[str], PodHost],
    ) -> None:
        self._cluster = cluster
        self._begin = begin
        self._new = new
        self._waiting: dict[str, list[tuple[PodKernel, PodHost]]] = {}
        self._wanted = asyncio.Event()
        self._scope = anyio.CancelScope()

    def take(self, kernels: Sequence[tuple[PodKernel, PodHost]]) -> None:
        """Those that an earlier server left waiting."""
        for kernel, host in kernels:
            self._waiting.setdefault(kernel.name, []).append((kernel, host))

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def run(self) -> None:
        """Keep as many waiting as the profiles say, until `stop`."""
        with self._scope:
            while True:
                self._wanted.clear()
                fine = await self._fill()
                with anyio.move_on_after(_LOOK_SECONDS if fine else _FAILED_PAUSE):
                    await self._wanted.wait()

    def stop(self) -> None:
        """Start no more."""
        self._scope.cancel()

    async def claim(self, profile: Profile, folder: str) -> PodKernel | None:
        """One that waits, now its user's and in its folder; None where there is none, and one has to be started."""
        waiting = self._waiting.get(profile.name) or []
        while waiting:
            kernel, host = waiting.pop(0)
            self._wanted.set()
            try:
                if kernel.death is None and kernel.unreachable_since is None and await host.fits(await host.plan(1)):
                    await host.claim(folder)
                    if await self._move(kernel, host):
                        return kernel
            except JupyterMcpError as error:
                logger.info("a warm kernel was not to be had: %s", error)
            await kernel.discard()
        return None

    async def _move(self, kernel: PodKernel, host: PodHost) -> bool:
        """Into its user's folder, as if it had been started there."""
        launch = await host.plan(1)
        kernel.moved(launch)
        if not host.cwd:
            return True
        if kernel.language != "python":
            return False
        return await move_to(kernel, launch.cwd)

    async def _fill(self) -> bool:
        """Start what is missing, end what is too much or not as the profile is now. False when a start has failed."""
        profiles = {profile.name: profile for profile in await self._cluster.profiles()}
        for name in {*self._waiting, *profiles}:
            wanted = profiles[name].warm if name in profiles else 0
            kept: list[tuple[PodKernel, PodHost]] = []
            for kernel, host in self._waiting.pop(name, []):
                if len(kept) < wanted and kernel.death is None and await host.fits(await host.plan(1)):
                    kept.append((kernel, host))
                else:
                    await kernel.discard()
            self._waiting[name] = kept
            while len(self._waiting[name]) < wanted:
                host = self._new(name)
                try:
                    kernel = await self._begin(host, 1)
                except JupyterMcpError as error:
                    logger.warning("no kernel of profile %r could be kept waiting: %s", name, error)
                    return False
                self._waiting[name].append((kernel, host))
        return True
