"""What the kernels of one server share on this machine: ZMQ's context, and the files that may be open."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ...errors import Unavailable
from ..shared.descriptors import most_descriptors

if TYPE_CHECKING:
    import zmq

_LEAST_KERNELS, _PER_KERNEL = 64, 16


class Sockets:
    """A context manager: `with Sockets(most_kernels) as sockets`.

    Args:
        most_kernels: that may live at once.
    """

    def __init__(self, most_kernels: int) -> None:
        self.descriptors: int | None = None
        """The soft limit of open files that this process had before; None where it needed no raising."""
        self._most_kernels = most_kernels
        self._context: zmq.Context[Any] | None = None
        self._limits = ExitStack()

    def __enter__(self) -> Sockets:
        self.descriptors = self._limits.enter_context(most_descriptors())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket that is left, and open as many files as before."""
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
        self._limits.close()

    @property
    def context(self) -> zmq.Context[Any]:
        """The ZMQ context of all channels, made with the first kernel."""
        if self._context is None:
            import zmq  # noqa: PLC0415  (not before a kernel is opened)

            self._context = zmq.Context()
            self._context.max_sockets = _PER_KERNEL * max(_LEAST_KERNELS, self._most_kernels)
        return self._context

    def require_room(self, living: int) -> None:
        """Look whether there may be one kernel more than those that live.

        Raises:
            Unavailable
        """
        if living >= self._most_kernels:
            raise Unavailable(
                f"There are {living} kernels already, as many as --max-kernels allows.",
                hint="Shut one down with shutdown_kernel.",
            )
