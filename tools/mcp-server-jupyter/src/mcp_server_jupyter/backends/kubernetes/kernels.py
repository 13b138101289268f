"""Kernels in pods of a Kubernetes cluster, each with an agent that outlives the server.

Everything that lasts is in the cluster: a kernel is known by its Secret, met through its agent, and remembered by no
file of the server's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from ...errors import JupyterMcpError, Unavailable
from ...ports import Kernelspec
from ...settings import Settings
from ..shared.paths import below
from ..zmq.sockets import Sockets
from . import objects
from .cluster import Cluster, open_cluster
from .extra import require_extra
from .forward import Forwards
from .hosts import known_host, new_host
from .kernel import PodKernel
from .pod import PodHost
from .profiles import load_profiles
from .refusals import Hopeless
from .sweep import Sweep
from .warm import Warm

if TYPE_CHECKING:
    import dns.asyncresolver
    import zmq

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_SHUTDOWN_SECONDS = 10.0
_RETRY_SECONDS = 2.0
_ADOPTIONS_AT_ONCE = 64
_ODD = (JupyterMcpError, LookupError, TypeError, ValueError, AttributeError)
"""What reading such an object raises, or a refusal that it leads to."""


def open_kernels(settings: Settings) -> PodKernels:
    """The kernels of a cluster's namespace; an async context manager that owns them."""
    return PodKernels(settings)


class PodKernels:
    """The kernels of one installation. See `ports.Kernels`.

    Args:
        resolver: whom to ask for names; None, the servers of /etc/resolv.conf.
        lease_scale: of the Lease's times, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: dns.asyncresolver.Resolver | None = None,
        lease_scale: float = 1.0,
    ) -> None:
        self.settings = settings
        self.cluster: Cluster | None = None
        self._resolver = resolver
        self._lease_scale = lease_scale
        self._kernels: dict[str, PodKernel] = {}
        self._released = False
        self._sockets = Sockets(settings.max_kernels)
        self._stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._led = asyncio.Event()
        self._forwards: Forwards | None = None
        self._warm: Warm | None = None
        self._owner = _Owner(self)

    @property
    def context(self) -> zmq.Context[Any]:
        """See `owner.Owner.context`."""
        return self._sockets.context

    async def __aenter__(self) -> PodKernels:
        require_extra()
        await anyio.to_thread.run_sync(load_profiles, self.settings)
        self._sockets.__enter__()
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A server that fails leaves what it found as it found it; one that was superseded leaves everything.
        failed = kind is not None and issubclass(kind, Exception)
        lost = self.cluster is not None and self.cluster.lease.is_lost
        if self._warm is not None:
            self._warm.stop()
        for kernel in list(self._kernels.values()):
            if self._released or lost or (failed and kernel.adopted):
                kernel.release()
                self.forget(kernel)
        with anyio.CancelScope(shield=True):
            await self._end_kernels()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            if self.cluster is not None:
                await self.cluster.lease.release(remove=not (self.cluster.own.lasts or self._released))
            self._sockets.close()
            await self._stack.aclose()

    async def _end_kernels(self) -> None:
        with anyio.move_on_after(_SHUTDOWN_SECONDS):
            async with anyio.create_task_group() as tasks:
                for kernel in list(self._kernels.values()):
                    tasks.start_soon(kernel.shutdown)
        async with anyio.create_task_group() as tasks:
            for kernel in list(self._kernels.values()):
                tasks.start_soon(kernel.discard)

    # ------------------------------------------------------------------ who leads

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """See `ports.Kernels.lead`. A cluster that does not answer yet is waited for."""
        if self.cluster is not None:
            return
        cluster = await self._answered(self._connect, waiting)
        await cluster.lease.acquire(waiting)
        await self._answered(cluster.pods.list, waiting)
        self._for_ever(cluster.pods.run)
        self._for_ever(cluster.lease.keep)
        self._warm = Warm(
            cluster, self._begin, lambda name: new_host(cluster, name, "", forwards=self._forwards, warm=True)
        )
        self.cluster = cluster
        self._led.set()

    def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(_again, work)

    async def _connect(self) -> Cluster:
        opened = open_cluster(self.settings, resolver=self._resolver, lease_scale=self._lease_scale)
        cluster = await self._stack.enter_async_context(opened)
        if self.settings.kernel_access == "port-forward":
            self._forwards = await self._stack.enter_async_context(Forwards(cluster.api))
        return cluster

    async def _answered(self, call: Callable[[], Any], waiting: Callable[[str], None]) -> Any:
        told = ""
        while True:
            try:
                return await call()
            except Hopeless:
                raise
            except Unavailable as error:
                if str(error) != told:
                    told = str(error)
                    waiting(told)
            await anyio.sleep(_RETRY_SECONDS)

    async def superseded(self) -> str:
        """See `ports.Kernels.superseded`."""
        await self._led.wait()
        return await self._leading.lease.superseded()

    @property
    def _leading(self) -> Cluster:
        if self.cluster is None:
            raise Unavailable("This server does not hold the kernels yet.", hint="Wait until it is ready.")
        return self.cluster

    # ------------------------------------------------------------------ kernels

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        profiles = await anyio.to_thread.run_sync(load_profiles, self.settings)
        return [profile.spec for profile in profiles]

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> PodKernel:
        """See `ports.Kernels.start`. A pod inherits no environment: the profile's `env` and `envFrom` say it all."""
        cluster = self._leading
        profile = (await cluster.profiles()).get(name)
        self.require_room()
        folder = below(self.settings.root, cwd)
        if self._warm is not None and epoch == 1:
            ready = await self._warm.claim(profile, folder)
            if ready is not None:
                self._kernels[ready.id] = ready
                return ready
        host = new_host(cluster, name, folder, forwards=self._forwards)
        return await self._begin(host, epoch, progress)

    async def _begin(self, host: PodHost, epoch: int, progress: Callable[[str], None] | None = None) -> PodKernel:
        """Start a kernel in a new place. Cancelled, or failed, it leaves nothing behind."""
        kernel = PodKernel(self._owner, host, await host.plan(epoch))
        self._kernels[host.id] = kernel
        try:
            await kernel.begin(epoch, progress)
        except BaseException:
            await kernel.discard()
            raise
        return kernel

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> None:
        """See `ports.Kernels.of_notebook`. Nobody else starts kernels here."""

    async def adopt(self) -> Sequence[PodKernel]:
        """See `ports.Kernels.adopt`."""
        cluster = self._leading
        role = {objects.ROLE_LABEL: "kernel"}
        listing = await cluster.api.list("secrets", labels=objects.selector(cluster.own.instance, **role))
        met: dict[str, PodKernel] = {}
        for secret in listing.items:
            known = known_host(cluster, secret, forwards=self._forwards)
            if known is not None and known[0].id not in self._kernels and not known[0].was_cut_short():
                host, launch = known
                met[host.id] = PodKernel(self._owner, host, launch)
        await self._adopt_all(list(met.values()))
        self._kernels |= met
        warm = {kernel.id for kernel in met.values() if _host(kernel).identity.state == "warm"}
        assert self._warm is not None
        self._warm.take([(kernel, _host(kernel)) for kernel in met.values() if kernel.id in warm])
        self._for_ever(self._warm.run)
        self._for_ever(Sweep(cluster, self._generations).run)
        return [kernel for kernel in met.values() if kernel.id not in warm]

    @property
    def waiting(self) -> int:
        """See `ports.Warmed.waiting`."""
        return self._warm.count if self._warm is not None else 0

    async def _adopt_all(self, kernels: Sequence[PodKernel]) -> None:
        limit = asyncio.Semaphore(_ADOPTIONS_AT_ONCE)

        async def adopt(kernel: PodKernel) -> None:
            async with limit:
                await kernel.adopt()

        try:
            async with anyio.create_task_group() as tasks:
                for kernel in kernels:
                    tasks.start_soon(adopt, kernel)
        except BaseException as error:
            for kernel in kernels:
                kernel.release()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def release(self) -> None:
        """See `ports.Kernels.release`."""
        self._released = True

    def require_room(self) -> None:
        """See `owner.Owner.require_room`. Kernels that have died, or wait warm, take none."""
        living = sum(
            kernel.death is None and _host(kernel).identity.state != "warm" for kernel in self._kernels.values()
        )
        self._sockets.require_room(living)

    def forget(self, kernel: PodKernel) -> None:
        """Count a kernel no more."""
        self._kernels.pop(kernel.id, None)

    def _generations(self) -> Mapping[str, int]:
        return {name: _host(kernel).identity.generation for name, kernel in self._kernels.items()}


class _Owner:
    """What a kernel sees of the collection it is in. See `owner.Owner`."""

    def __init__(self, kernels: PodKernels) -> None:
        self._kernels = kernels

    @property
    def context(self) -> zmq.Context[Any]:
        return self._kernels.context

    def require_room(self) -> None:
        self._kernels.require_room()

    def forget(self, kernel: PodKernel) -> None:
        self._kernels.forget(kernel)

    def outranked(self, lease: int) -> None:
        if self._kernels.cluster is not None:
            self._kernels.cluster.lease.supersede(f"another server (number {lease} of the Lease)")


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    """Go on after an object that is not as the API describes it: kernels must not be blind, or end, for it."""
    while True:
        try:
            await work()
        except _ODD:
            logger.exception("%s failed, and is begun again", getattr(work, "__qualname__", work))
            await anyio.sleep(_RETRY_SECONDS)
        else:
            return


def _host(kernel: PodKernel) -> PodHost:
    assert isinstance(kernel.host, PodHost)
    return kernel.host
