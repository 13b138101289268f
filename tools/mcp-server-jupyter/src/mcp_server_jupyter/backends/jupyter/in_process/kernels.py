"""The kernels of the Jupyter server whose process this is."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from weakref import WeakSet

import zmq
from jupyter_core.utils import ensure_async
from jupyter_server.gateway.managers import GatewayMappingKernelManager

from ....errors import Unavailable
from ....settings import Settings
from ..kernels import JupyterKernels
from ..kernels_api import Channels, Json
from ..socket import Listener
from .channels import KernelChannels
from .refusals import plain_refusals


def open_kernels(settings: Settings, serverapp: Any) -> JupyterKernels:
    """The backend `serverapp`: the kernels of a `jupyter_server.serverapp.ServerApp`."""
    return JupyterKernels(settings, ManagedKernels(serverapp))


class ManagedKernels:
    """`kernels_api.KernelsApi` over the managers of kernels, sessions and kernelspecs, be they async or not."""

    keeps_messages = False
    where = ""

    def __init__(self, serverapp: Any) -> None:
        self._kernels = serverapp.kernel_manager
        self._sessions = serverapp.session_manager
        self._specs = serverapp.kernel_spec_manager
        self._context: zmq.Context[Any] = zmq.Context()
        self._channels: WeakSet[KernelChannels] = WeakSet()
        self._are_elsewhere = isinstance(self._kernels, GatewayMappingKernelManager)

    async def __aenter__(self) -> ManagedKernels:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def renew(self, token: str | None) -> None:
        """See `KernelsApi.renew`. Nobody asks for one here."""

    async def specs(self) -> Json:
        """See `KernelsApi.specs`."""
        with plain_refusals():
            return dict(await ensure_async(self._specs.get_all_specs()))

    async def sessions(self) -> list[Json]:
        """See `KernelsApi.sessions`."""
        if self._are_elsewhere:
            return []
        with plain_refusals():
            return list(await ensure_async(self._sessions.list_sessions()))

    async def begin_session(self, body: Json) -> Json:
        """See `KernelsApi.begin_session`."""
        self._require_sockets()
        path, kernel = body["path"], body["kernel"]
        with plain_refusals():
            if await ensure_async(self._sessions.session_exists(path=path)):
                return dict(await ensure_async(self._sessions.get_session(path=path)))
            begun = self._sessions.create_session(
                path=path,
                name=body["name"],
                type=body["type"],
                kernel_name=kernel.get("name"),
                kernel_id=kernel.get("id"),
            )
            return dict(await ensure_async(begun))

    async def end_session(self, session_id: str) -> None:
        """See `KernelsApi.end_session`."""
        with plain_refusals():
            await ensure_async(self._sessions.delete_session(session_id))

    async def kernels(self) -> list[Json]:
        """See `KernelsApi.kernels`."""
        if self._are_elsewhere:
            return []
        with plain_refusals():
            return list(await ensure_async(self._kernels.list_kernels()))

    async def kernel(self, kernel_id: str) -> Json:
        """See `KernelsApi.kernel`."""
        with plain_refusals():
            return dict(await ensure_async(self._kernels.kernel_model(kernel_id)))

    async def start(self, name: str, folder: str, kernel_id: str | None = None) -> Json:
        """See `KernelsApi.start`."""
        self._require_sockets()
        with plain_refusals():
            begun = self._kernels.start_kernel(kernel_name=name, path=folder, kernel_id=kernel_id)
            return await self.kernel(await ensure_async(begun))

    async def restart(self, kernel_id: str) -> None:
        """See `KernelsApi.restart`."""
        with plain_refusals():
            await ensure_async(self._kernels.restart_kernel(kernel_id))
        for channels in self._channels:
            if channels.kernel_id == kernel_id:
                channels.reset()

    async def interrupt(self, kernel_id: str) -> None:
        """See `KernelsApi.interrupt`."""
        with plain_refusals():
            await ensure_async(self._kernels.interrupt_kernel(kernel_id))

    async def end(self, kernel_id: str) -> None:
        """See `KernelsApi.end`."""
        with plain_refusals():
            await ensure_async(self._kernels.shutdown_kernel(kernel_id))

    def _require_sockets(self) -> None:
        """A gateway's kernels have none that we could meet.

        Raises:
            Unavailable: they are at one.
        """
        if self._are_elsewhere:
            raise Unavailable(
                "The kernels of this Jupyter are at a Kernel Gateway, where the extension cannot run anything.",
                hint="Run mcp-server-jupyter serve beside it, with ROOM_URL for it and RUNTIME_URL for the gateway.",
            )

    def channels(self, kernel_id: str, identity: str, listener: Listener) -> Channels:
        """See `KernelsApi.channels`."""
        channels = KernelChannels(self._kernels, self._context, kernel_id, identity, listener)
        self._channels.add(channels)
        return channels
