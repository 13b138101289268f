"""Kernels on this machine, each with a small recorder process that outlives the server.

A kernel's record is a folder `STATE_DIR/kernels/ID/` (0700): `record.json` what it is, `connection.json` its channels
and key, `process.json` its pids, `iopub.N.log` what it has published, `kernel.log` what it printed on its own
streams, `exit.json` how it ended. The environment in `record.json` is for a restart by a later server.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from ...errors import Unavailable
from ...ports import Kernelspec
from ...settings import Settings
from . import kernelspecs
from .kernel import RECORD, LocalKernel
from .process import kill_leftover
from .system import below, disk, environment, most_descriptors, remove, require_descriptors

if TYPE_CHECKING:
    import zmq

_SHUTDOWN_SECONDS = 5.0
# Four channels with a mailbox and a connection each, two pidfds, pipes and files while it starts.
_DESCRIPTORS = 20


def open_kernels(settings: Settings) -> LocalKernels:
    """The kernels of this machine; an async context manager that owns them."""
    return LocalKernels(settings)


class LocalKernels:
    """The kernels of this machine. See `ports.Kernels`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.descriptors: int | None = None
        self._kernels: dict[str, LocalKernel] = {}
        self._released = False
        self._context: zmq.Context[Any] | None = None
        self._limits = ExitStack()
        # Starting is CPU-bound: more at once than this only makes each of them later.
        self._starting = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @property
    def context(self) -> zmq.Context[Any]:
        """The ZMQ context of all channels, made with the first kernel."""
        if self._context is None:
            import zmq  # noqa: PLC0415  (not before a kernel is opened)

            self._context = zmq.Context()
            self._context.max_sockets = 16 * max(64, self.settings.max_kernels)
        return self._context

    async def __aenter__(self) -> LocalKernels:
        with disk("The folder of the kernels' records cannot be made"):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.descriptors = self._limits.enter_context(most_descriptors())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A server that fails leaves what it found as it found it.
        failed = kind is not None and issubclass(kind, Exception)
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
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
        self._limits.close()

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        return await anyio.to_thread.run_sync(kernelspecs.listing, self.settings.root)

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
    ) -> LocalKernel:
        """See `ports.Kernels.start`."""
        self.require_room()
        require_descriptors(_DESCRIPTORS)
        folder = below(self.settings.root, cwd)
        identity = str(uuid.uuid4())
        # What the kernel must not know is not for its record either.
        given = None if env is None else environment(env)
        record = {"id": identity, "name": name, "cwd": folder, "env": given, "epoch": 0, "language": ""}
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
            # A start that was cut short: nothing to adopt, and nobody else will tidy it up.
            kill_leftover(folder)
            await anyio.to_thread.run_sync(remove, folder)
            return None
        return LocalKernel(self, folder, record)

    async def release(self) -> None:
        """See `ports.Kernels.release`."""
        self._released = True

    def require_room(self) -> None:
        """See `kernel.Owner.require_room`. Kernels that have died take none."""
        living = sum(kernel.death is None for kernel in self._kernels.values())
        if living >= self.settings.max_kernels:
            raise Unavailable(
                f"There are {living} kernels already, as many as --max-kernels allows.",
                hint="Shut one down with shutdown_kernel.",
            )

    def forget(self, kernel: LocalKernel) -> None:
        """Count a kernel no more."""
        self._kernels.pop(kernel.id, None)

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
