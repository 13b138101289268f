"""What a Jupyter is asked about its kernels and sessions, and its REST API that answers it.

Source: jupyter-server docs, "The REST API".
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ...ports import Channel
from .client import START_SECONDS, AtJupyter, quoted

if TYPE_CHECKING:
    from .socket import Listener

Json = dict[str, Any]


class Channels(Protocol):
    """One kernel's channels, which are connected again and again. `run` them in a task; cancelled, they close.

    Attributes:
        unreachable_since: seconds since the epoch, while the kernel cannot be reached; else None.
        used_at: when something was sent or received last, on the monotonic clock.
    """

    unreachable_since: float | None
    used_at: float

    @property
    def is_open(self) -> bool:
        """Whether they are connected now."""

    def send(self, channel: Channel, frames: list[bytes]) -> None:
        """Send a message's frames, from the header on, now or once they are connected."""

    def rest(self) -> None:
        """Leave the kernel alone until there is something to send, or `wake`."""

    def wake(self) -> None:
        """Be connected again, if they rest."""

    def reset(self) -> None:
        """End this connection and make another one."""

    async def run(self) -> None:
        """Be connected until the kernel is gone."""


class KernelsApi(Protocol):
    """The kernels and sessions of one Jupyter, as JSON models; an async context manager.

    Everything raises Unavailable and Unauthorized, and what else its refusal means: NotFound, AlreadyExists,
    InvalidRequest, Unsupported.

    Attributes:
        keeps_messages: Jupyter keeps for us what a kernel publishes while we are not connected, unless others are.
    """

    keeps_messages: bool

    async def __aenter__(self) -> KernelsApi: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def where(self) -> str:
        """The Jupyter, for people: its address, "" where it is this very process."""

    def renew(self, token: str | None) -> None:
        """Use this token from now on."""

    async def specs(self) -> Json:
        """The kernelspecs by name, each with its `spec`."""

    async def sessions(self) -> list[Json]: ...

    async def begin_session(self, body: Json) -> Json:
        """The session of a path, with the kernel that it has, or one that is started or named here."""

    async def end_session(self, session_id: str) -> None:
        """End a session and its kernel."""

    async def kernels(self) -> list[Json]: ...

    async def kernel(self, kernel_id: str) -> Json: ...

    async def start(self, name: str, folder: str, kernel_id: str | None = None) -> Json:
        """Start a kernel without a session; Jupyter may give it another id than this."""

    async def restart(self, kernel_id: str) -> None: ...

    async def interrupt(self, kernel_id: str) -> None: ...

    async def end(self, kernel_id: str) -> None: ...

    def channels(self, kernel_id: str, identity: str, listener: Listener) -> Channels:
        """The channels of a kernel, to be run.

        Args:
            identity: the session that our messages carry.
        """


class RestKernels(AtJupyter):
    """`KernelsApi` over HTTP and WebSockets."""

    keeps_messages = True

    @property
    def where(self) -> str:
        """See `KernelsApi.where`."""
        return self._client.where

    def renew(self, token: str | None) -> None:
        """See `KernelsApi.renew`."""
        self._client.renew(token)

    async def specs(self) -> Json:
        """See `KernelsApi.specs`."""
        found: Json = (await self._client.get("api/kernelspecs"))["kernelspecs"]
        return found

    async def sessions(self) -> list[Json]:
        """See `KernelsApi.sessions`."""
        found: list[Json] = await self._client.get("api/sessions")
        return found

    async def begin_session(self, body: Json) -> Json:
        """See `KernelsApi.begin_session`."""
        begun: Json = await self._client.call("POST", "api/sessions", body, seconds=START_SECONDS)
        return begun

    async def end_session(self, session_id: str) -> None:
        """See `KernelsApi.end_session`."""
        await self._client.call("DELETE", f"api/sessions/{quoted(session_id)}")

    async def kernels(self) -> list[Json]:
        """See `KernelsApi.kernels`."""
        found: list[Json] = await self._client.get("api/kernels")
        return found

    async def kernel(self, kernel_id: str) -> Json:
        """See `KernelsApi.kernel`."""
        found: Json = await self._client.get(_path(kernel_id))
        return found

    async def start(self, name: str, folder: str, kernel_id: str | None = None) -> Json:
        """See `KernelsApi.start`."""
        body = {"name": name, "path": folder, **({"kernel_id": kernel_id} if kernel_id else {})}
        started: Json = await self._client.call("POST", "api/kernels", body, seconds=START_SECONDS)
        return started

    async def restart(self, kernel_id: str) -> None:
        """See `KernelsApi.restart`."""
        await self._client.call("POST", f"{_path(kernel_id)}/restart", seconds=START_SECONDS)

    async def interrupt(self, kernel_id: str) -> None:
        """See `KernelsApi.interrupt`."""
        await self._client.call("POST", f"{_path(kernel_id)}/interrupt")

    async def end(self, kernel_id: str) -> None:
        """See `KernelsApi.end`."""
        await self._client.call("DELETE", _path(kernel_id))

    def channels(self, kernel_id: str, identity: str, listener: Listener) -> Channels:
        """See `KernelsApi.channels`."""
        from .socket import KernelSocket  # noqa: PLC0415  (only where a kernel is opened)

        return KernelSocket(self._client, kernel_id, identity, listener)


def _path(kernel_id: str) -> str:
    return f"api/kernels/{quoted(kernel_id)}"
