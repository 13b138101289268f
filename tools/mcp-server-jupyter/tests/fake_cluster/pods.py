"""`PodKernels` beside a cluster that exists only for a test."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcp_server_jupyter.backends.kubernetes.cluster import Cluster as RealCluster
from mcp_server_jupyter.backends.kubernetes.kernels import PodKernels
from mcp_server_jupyter.backends.kubernetes.own import Files
from mcp_server_jupyter.ports import Kernel
from mcp_server_jupyter.settings import Settings

from .cluster import Cluster, FakeApi
from .dns_server import DnsServer
from .node import Node

LEASE_SCALE = 0.04


@dataclass(frozen=True)
class Lab:
    """A cluster of one node."""

    fake: Cluster
    server: FakeApi
    names: DnsServer
    node: Node
    kubeconfig: Path

    def kernels(self, settings: Settings, *, identity: str = "", files: bool = True) -> Pods:
        """Kernels of a server, not opened yet.

        Args:
            identity: of the server; absent, what it says of itself.
            files: whether pods share its root, as those of a server in the cluster do.
        """
        return Pods(replace(settings, kubeconfig=str(self.kubeconfig)), self, identity, files)


@asynccontextmanager
async def open_lab(folder: Path) -> AsyncIterator[Lab]:
    """A cluster that lasts as long as the context."""
    fake = Cluster()
    os.makedirs(folder, exist_ok=True)
    async with FakeApi(fake).serve() as server, DnsServer(fake).serve() as names, Node(fake, folder) as node:
        yield Lab(fake, server, names, node, server.kubeconfig(folder))


class Pods(PodKernels):
    """The kernels of one server in a `Lab`."""

    def __init__(self, settings: Settings, lab: Lab, identity: str, files: bool) -> None:
        super().__init__(settings, resolver=lab.names.resolver(), lease_scale=LEASE_SCALE)
        self.lab = lab
        self._identity, self._files = identity, files

    async def _connect(self) -> RealCluster:
        cluster = await super()._connect()
        if self._files:
            cluster.own = replace(cluster.own, files=Files("notebooks", str(self.settings.root)))
        if self._identity:
            cluster.lease.identity = self._identity
        return cluster

    def kill(self, kernel: Kernel) -> None:
        """End a kernel's process, as anybody may."""
        os.kill(self.lab.node.kernel_pid(pod_name(kernel)), signal.SIGKILL)


class PodsHere:
    """`Pods` with a lab of their own, for suites that take any kernels. Opened, they lead."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Pods:
        lab = await self._stack.enter_async_context(open_lab(self._settings.state_dir))
        pods = lab.kernels(self._settings)
        await self._stack.enter_async_context(pods)
        await pods.lead(lambda _: None)
        return pods

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)


def pod_name(kernel: Kernel) -> str:
    """Of the pod that a kernel is in."""
    name: str = kernel.host.identity.pod  # type: ignore[attr-defined]
    return name
