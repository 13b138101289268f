"""`PodKernels` with a cluster of its own around them: for suites that take any kernels."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

from mcp_server_jupyter.backends.kubernetes.cluster import Cluster as RealCluster
from mcp_server_jupyter.backends.kubernetes.kernels import PodKernels
from mcp_server_jupyter.backends.kubernetes.own import Files
from mcp_server_jupyter.ports import Kernel
from mcp_server_jupyter.settings import Settings

from .cluster import Cluster, FakeApi
from .dns_server import DnsServer
from .node import Node

LEASE_SCALE = 0.04


class PodsHere(PodKernels):
    """Opened, they lead. Pods share the root, as those of a server in the cluster do."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, lease_scale=LEASE_SCALE)
        self._around = AsyncExitStack()

    async def _connect(self) -> RealCluster:
        cluster = await super()._connect()
        cluster.own = replace(cluster.own, files=Files("notebooks", str(self.settings.root)))
        return cluster

    async def __aenter__(self) -> PodsHere:
        fake = Cluster()
        server = await self._around.enter_async_context(FakeApi(fake).serve())
        names = await self._around.enter_async_context(DnsServer(fake).serve())
        folder = self.settings.state_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.node = await self._around.enter_async_context(Node(fake, folder))
        self.settings = replace(self.settings, kubeconfig=str(server.kubeconfig(folder)))
        self._resolver = names.resolver()
        await super().__aenter__()
        await self.lead(lambda _: None)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await super().__aexit__(*error)  # type: ignore[arg-type]
        finally:
            await self._around.aclose()

    def kill(self, kernel: Kernel) -> None:
        """End a kernel's process, as anybody may."""
        os.kill(self.node.kernel_pid(kernel.host.identity.pod), signal.SIGKILL)  # type: ignore[attr-defined]
