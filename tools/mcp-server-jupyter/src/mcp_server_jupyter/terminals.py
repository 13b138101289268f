"""What a backend of terminals offers: those of a Jupyter, shared by whoever has them open.

Selected through the entry-point group `mcp_server_jupyter.terminals` by the name of the kernels' backend: a place has
terminals where its kernels are a Jupyter's. As in `ports`, a backend owns what it opens and raises only our errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from .settings import JUPYTER, SERVERAPP, Settings


def has_terminals(settings: Settings) -> bool:
    """Whether a place with these settings has some, as far as its settings tell."""
    return settings.kernels in (JUPYTER, SERVERAPP)


@dataclass(frozen=True, slots=True)
class Terminal:
    """One that runs. `last_activity` is ISO 8601."""

    name: str
    last_activity: str | None = None


class Terminals(Protocol):
    """The terminals of one place; an async context manager."""

    async def __aenter__(self) -> Terminals: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def list(self) -> Sequence[Terminal]:
        """Those that run.

        Raises:
            Unsupported: this Jupyter has none.
            Unavailable, Unauthorized
        """

    async def read(self, name: str) -> str:
        """What one has written, as far back as it is kept, with its control codes.

        Raises:
            NotFound: there is none of that name.
            Unavailable, Unauthorized
        """

    async def write(self, name: str, text: str) -> None:
        """Type into one. Raises as `read` does."""

    async def create(self) -> Terminal:
        """A new one. Raises as `list` does."""
