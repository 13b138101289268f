"""What a kernel needs of the collection it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import zmq

    from .kernel import PodKernel


class Owner(Protocol):
    """What a kernel needs of the collection it is in."""

    @property
    def context(self) -> zmq.Context[Any]: ...

    def require_room(self) -> None:
        """Raise `Unavailable` if one more living kernel would be too many."""

    def forget(self, kernel: PodKernel) -> None:
        """Count a kernel no more."""

    def outranked(self, lease: int) -> None:
        """An agent serves a server with this higher number of the Lease."""
