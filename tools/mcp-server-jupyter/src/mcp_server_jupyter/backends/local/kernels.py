"""Kernels on this machine, each with a small recorder process that outlives the server.

A kernel's record is a folder `STATE_DIR/kernels/ID/` (0700): `record.json` what it is, `connection.json` its channels
and key, `process.json` its pids, `iopub.N.log` what it has published, `kernel.log` what it printed on its own
streams, `exit.json` how it ended. The environment in `record.json` is for a restart by a later server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from ...ports import Kernelspec
from ...settings import Settings
from ..shared.descriptors import require_descriptors
from ..zmq.sockets import Sockets
from . import kernelspecs
from .forking.forks import Forks
from .interpreters import LocalInterpreters
from .kernel import RECORD, LocalKernel
from .process import kill_leftover
from .system import below, disk, environment, remove, remove_sockets
from .warm import Warm

if TYPE_CHECKING:
    import zmq

logger = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 5.0
# Four channels with a mailbox and a connection each, two pidfds, pipes and files while it starts.
_DESCRIPTORS = 20


def open_kernels(settings: Settings) -> LocalKernels:
    """The kernels of this machine; an async context manager that owns them."""
    return LocalKernels(settings)


class LocalKernels(LocalInterpreters):
    """The kernels of this machine. See `ports.Kernels`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.root)
        self.settings = settings
        self._kernels: dict[str, LocalKernel] = {}
        self._released = False
        self._sockets = Sockets(settings.max_kernels)
        self._forks = Forks(settings)
        self._warm = Warm(settings.warm_kernels, self._begin_waiting, self._has_room)
        self._arriving = 0
        self._filling: asyncio.Task[None] | None = None
        # Starting is CPU-bound: more at once than this only makes each of them later.
        self._starting = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @property
    def context(self) -> zmq.Context[Any]:
        """See `kernel.Owner.context`."""
        return self._sockets.context

    @property
    def descriptors(self) -> int | None:
        """See `kernel.Owner.descriptors`."""
        return self._sockets.descriptors

    @property
    def forks(self) -> Forks:
        """See `kernel.Owner.forks`."""
        return self._forks

    async def __aenter__(self) -> LocalKernels:
        with disk("The folder of the kernels' records cannot be made"):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sockets.__enter__()
        self._filling = asyncio.create_task(self._warm.run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A server that fails leaves what it found as it found it.
        failed = kind is not None and issubclass(kind, Exception)
        with anyio.CancelScope(shield=True):
            await self._fill_no_more()
        for kernel in list(self._kernels.values()):
            if self._released or (failed and kernel.adopted):
                kernel.release()
                self.forget(kernel)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_SHUTDOWN_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for kernel in list(self._kernels.values()):
                        tasks.start_soon(kernel.shutdown)
            for kernel in list(self._kernels.values()):
                await kernel.discard()
            await self._forks.close()
        self._sockets.close()

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        return await anyio.to_thread.run_sync(kernelspecs.listing, self.settings.root, await self.environments())

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """See `ports.Kernels.lead`. Whoever holds the lock on the state holds them."""

    async def superseded(self) -> str:
        """See `ports.Kernels.superseded`. It never happens: the lock is kept for life."""
        await anyio.sleep_forever()
        raise AssertionError("sleep_forever returned")

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> LocalKernel:
        """See `ports.Kernels.start`."""
        self.require_room()
        require_descriptors(_DESCRIPTORS)
        folder = below(self.settings.root, cwd)
        # What the kernel must not know is not for its record either.
        given = None if env is None else environment(env)
        self._arriving += 1
        try:
            kernel = await self._warm.claim(name, given, folder, epoch)
            if kernel is None:
                await self._warm.give_up(self.settings.max_kernels - self._living())
        finally:
            self._arriving -= 1
        if kernel is None:
            kernel = await self._begin({"name": name, "cwd": folder, "env": given}, epoch, progress)
        self._warm.used(name, given)
        return kernel

    async def _begin_waiting(self, name: str, env: Mapping[str, str] | None) -> LocalKernel | None:
        """Start one that nobody has asked for; None where it would not be forked."""
        require_descriptors(_DESCRIPTORS)
        recipe = await anyio.to_thread.run_sync(kernelspecs.find, name, self.settings.root)
        line = self._forks.line(recipe, recipe.environment(environment(env)))
        if line is None or line.is_given_up:
            return None
        await line.come_up()
        kernel = await self._begin({"name": name, "cwd": "", "env": env, "waiting": True})
        if kernel.is_forked:
            return kernel
        await kernel.discard()
        return None

    async def _begin(
        self, facts: Mapping[str, Any], epoch: int = 1, progress: Callable[[str], None] | None = None
    ) -> LocalKernel:
        """Start a kernel. Cancelled, or failed, it leaves nothing behind."""
        identity = str(uuid.uuid4())
        record = {"id": identity, "epoch": 0, "language": "", **facts}
        kernel = LocalKernel(self, self._folder / identity, record)
        self._kernels[identity] = kernel
        try:
            if progress is not None:
                progress("waiting for other starts" if self._starting.locked() else "starting the kernel")
            async with self._starting:
                if progress is not None:
                    progress("starting the kernel")
                with disk("The kernel's record cannot be written"):
                    kernel.folder.mkdir(mode=0o700)
                await kernel.begin(epoch)
        except BaseException:
            await kernel.discard()
            raise
        return kernel

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> None:
        """See `ports.Kernels.of_notebook`. Nobody else starts kernels here."""

    async def adopt(self) -> Sequence[LocalKernel]:
        """See `ports.Kernels.adopt`."""
        met: dict[Path, LocalKernel] = {}
        try:
            with disk("The kernels of the last server cannot be taken over, and are left as they are"):
                for folder in sorted(self._folder.iterdir()):
                    kernel = await self._known(folder)
                    if kernel is not None and kernel.id not in self._kernels:
                        met[folder] = kernel
                await _all_of([kernel.adopt for kernel in met.values()])
        except BaseException:
            for kernel in met.values():
                kernel.release()
            raise
        self._kernels |= {kernel.id: kernel for kernel in met.values()}
        return list(met.values())

    async def _known(self, folder: Path) -> LocalKernel | None:
        try:
            record = json.loads((folder / RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            record = None
        if record is None or record.get("waiting"):
            # A start that was cut short, or one that nobody has used: nothing to adopt, and nobody else tidies it up.
            kill_leftover(folder)
            remove_sockets(folder)
            await anyio.to_thread.run_sync(remove, folder)
            return None
        return LocalKernel(self, folder, record)

    async def release(self) -> None:
        """See `ports.Kernels.release`."""
        self._released = True

    def require_room(self) -> None:
        """See `kernel.Owner.require_room`. Kernels that have died take none, and those that wait make room."""
        self._sockets.require_room(self._living())

    def _living(self) -> int:
        """How many live, or are about to, and are somebody's."""
        used = sum(kernel.death is None and not kernel.is_waiting for kernel in self._kernels.values())
        return used + self._arriving

    def _has_room(self) -> bool:
        return self._living() + self._warm.count < self.settings.max_kernels

    @property
    def waiting(self) -> int:
        """See `ports.Warmed.waiting`."""
        return self._warm.count

    def forget(self, kernel: LocalKernel) -> None:
        """Count a kernel no more."""
        self._kernels.pop(kernel.id, None)

    async def _fill_no_more(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
            if not self._filling.cancelled() and (error := self._filling.exception()) is not None:
                logger.error("kernels were not kept waiting", exc_info=error)

    @property
    def _folder(self) -> Path:
        return self.settings.root_state / "kernels"


async def _all_of(calls: Sequence[Any]) -> None:
    """Call all of them at once; the first error ends the others and is raised as it is."""
    try:
        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(call)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
