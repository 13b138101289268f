"""Kernels in pods for any Jupyter application: a provisioner of jupyter_client over the same hosts and agents.

A kernelspec names it (`mcp-server-jupyter kernels install PROFILE` writes one). The application's clients connect to
the ports that the agent forwards, encrypted (CURVE) and signed. For applications with an asynchronous kernel manager:
JupyterLab, nbclient, papermill.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Dict, Unicode

from ...errors import InvalidRequest, KernelDead, NotFound
from ...settings import Settings
from ..zmq.sockets import Sockets
from .cluster import Cluster, open_cluster
from .extra import require_extra
from .forward import Forwards
from .host import CHANNEL_PORTS
from .hosts import known_host, new_host
from .kernel import PodKernel
from .objects import Identity
from .pod import PodHost

if TYPE_CHECKING:
    import asyncio

    import zmq
    from jupyter_client.connect import KernelConnectionInfo

logger = logging.getLogger(__name__)

INSTANCE = "jupyter-provisioner"
_SUPPORTED = (
    "namespace",
    "kernel_profiles",
    "kernel_image",
    "kernel_access",
    "schedule_seconds",
    "kubeconfig",
    "instance",
)


class PodProvisioner(KernelProvisionerBase):
    """One kernel of a Jupyter application, in a pod."""

    profile = Unicode("python3", config=True, help="The kernel profile to start.")
    settings = Dict(config=True, help="Settings of mcp-server-jupyter: " + ", ".join(_SUPPORTED) + ".")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stack = AsyncExitStack()
        self._cluster: Cluster | None = None
        self._forwards: Forwards | None = None
        self._watch: asyncio.Task[None] | None = None
        self._sockets = Sockets(1)
        self._kernel: PodKernel | None = None
        self._runs = False

    # ------------------------------------------------------------------ what jupyter_client asks

    @property
    def has_process(self) -> bool:
        return self._runs

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """The command is the profile's: nothing of it is made here."""
        return await super().pre_launch(cmd=[], **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, again in the pod there is if that will do. Failed, or cancelled, it leaves nothing."""
        try:
            if self._kernel is None:
                cluster = await self._open(Path(kwargs.get("cwd") or Path.cwd()))
                host = new_host(cluster, self.profile, "", forwards=self._forwards)
                self._kernel = PodKernel(self, host, await host.plan(1))
                await self._kernel.begin(1, lambda stage: self.log.info("The kernel is starting: %s", stage))
            else:
                await self._kernel.begin(self._kernel.epoch + 1)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._close(remove=True)
            raise
        self._runs = True
        self.connection_info = await self._connection()
        return self.connection_info

    async def poll(self) -> int | None:
        if self._kernel is None or self._kernel.death is None:
            return None if self._runs else 0
        code = self._kernel.death.exit_code
        return 1 if code is None else code

    async def wait(self) -> int | None:
        if self._kernel is not None and self._kernel.death is None:
            await self._kernel.gone()
        self._runs = False
        return await self.poll()

    async def send_signal(self, signum: int) -> None:
        if self._kernel is None or signum == 0:
            return
        with suppress(KernelDead):
            if signum == signal.SIGINT:
                await self._kernel.interrupt()
            else:
                await self._kernel.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove everything of the kernel, unless it is to be started again."""
        if not restart:
            await self._close(remove=True)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What an application may write down to meet the kernel again; keys are in `connection_info`."""
        info: dict[str, Any] = await super().get_provisioner_info()
        if self._kernel is not None and self._cluster is not None:
            info |= {"pod_kernel_id": self._kernel.id, "root": str(self._cluster.settings.root)}
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Meet a kernel again that another process has started.

        Raises:
            NotFound: its Secret is gone.
        """
        await super().load_provisioner_info(provisioner_info)
        cluster = await self._open(Path(provisioner_info["root"]))
        name = Identity(provisioner_info["pod_kernel_id"], cluster.own.instance).secret
        known = known_host(cluster, await cluster.api.get("secrets", name), forwards=self._forwards)
        if known is None:
            raise NotFound(f"The Secret {name} is not that of a kernel.", hint="Start another kernel.")
        self._kernel = PodKernel(self, *known)
        await self._kernel.adopt()
        self._runs = self._kernel.death is None

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        return max(recommended, 60.0)

    # ------------------------------------------------------------------ see `owner.Owner`

    @property
    def context(self) -> zmq.Context[Any]:
        """The ZMQ context of the link."""
        return self._sockets.context

    def require_room(self) -> None:
        """The application counts its kernels itself."""

    def forget(self, kernel: PodKernel) -> None:
        """There is but one."""

    def outranked(self, lease: int) -> None:
        """Another process has taken the kernel."""
        self.log.warning("Another application has taken this kernel.")
        self._runs = False

    # ------------------------------------------------------------------ parts

    async def _open(self, root: Path) -> Cluster:
        if self._cluster is not None:
            return self._cluster
        require_extra()
        settings = _settings(self.settings, root)
        cluster = await self._stack.enter_async_context(open_cluster(settings))
        if settings.kernel_access == "port-forward":
            self._forwards = await self._stack.enter_async_context(Forwards(cluster.api))
        # Whoever starts or adopts a kernel has it, whoever had it before.
        cluster.lease.number = int(time.time())
        await cluster.pods.list()
        import asyncio  # noqa: PLC0415 - beside its annotations

        self._watch = asyncio.create_task(cluster.pods.run(), name="the provisioner's watch")
        self._cluster = cluster
        return cluster

    async def _connection(self) -> KernelConnectionInfo:
        assert self._kernel is not None
        assert self._cluster is not None
        host = self._kernel.host
        assert isinstance(host, PodHost)
        address, _ = await host.address()
        if self._cluster.api.in_cluster and self._forwards is None:
            # A name outlives its pod: clients that are connected find the next one.
            address = self._cluster.names.fqdn(host.identity.service)
        info = host.keys.connection(address, self.kernel_spec.display_name)
        if self._forwards is not None:
            for channel, port in CHANNEL_PORTS.items():
                _, info[f"{channel}_port"] = await self._forwards.open(host.identity.pod, port)
        info["key"] = info["key"].encode()
        return info  # type: ignore[return-value]

    async def _close(self, *, remove: bool) -> None:
        kernel, self._kernel, self._runs = self._kernel, None, False
        if kernel is not None:
            if remove:
                await kernel.discard()
            else:
                kernel.release()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._stack.aclose()
        self._cluster = self._forwards = None
        self._sockets.close()


def _settings(given: Mapping[str, Any], root: Path) -> Settings:
    unknown = set(given) - set(_SUPPORTED)
    if unknown:
        raise InvalidRequest(
            f"A pod provisioner has no setting {', '.join(sorted(unknown))}.", hint=f"It has: {', '.join(_SUPPORTED)}."
        )
    # It keeps no state; what would be its folder is only not to be one that kernels see.
    return Settings.load({"instance": INSTANCE, **given, "root": root, "state_dir": root.parent})
