"""The terminals of the Jupyter server whose process this is."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ....errors import NotFound, Unsupported
from ....settings import Settings
from ....terminals import Terminal
from .refusals import plain_refusals


def open_terminals(settings: Settings, serverapp: Any) -> ManagedTerminals:
    """The backend `serverapp`: those of a `jupyter_server.serverapp.ServerApp`."""
    return ManagedTerminals(serverapp)


class ManagedTerminals:
    """See `terminals.Terminals`, over the manager of jupyter-server-terminals."""

    def __init__(self, serverapp: Any) -> None:
        self._serverapp = serverapp

    async def __aenter__(self) -> ManagedTerminals:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Terminals are Jupyter's, and stay."""

    async def list(self) -> Sequence[Terminal]:
        """See `Terminals.list`."""
        with plain_refusals():
            return [Terminal(each["name"], each.get("last_activity")) for each in self._manager.list()]

    async def read(self, name: str) -> str:
        """See `Terminals.read`."""
        return "".join(self._terminal(name).read_buffer)

    async def write(self, name: str, text: str) -> None:
        """See `Terminals.write`."""
        with plain_refusals():
            self._terminal(name).ptyproc.write(text)

    async def create(self) -> Terminal:
        """See `Terminals.create`."""
        with plain_refusals():
            return Terminal(self._manager.create()["name"])

    def _terminal(self, name: str) -> Any:
        found = self._manager.terminals.get(name)
        if found is None:
            raise NotFound(f"Jupyter has no terminal {name!r}.")
        return found

    @property
    def _manager(self) -> Any:
        manager = self._serverapp.web_app.settings.get("terminal_manager")
        if manager is None:
            raise Unsupported("This Jupyter has no terminals.", hint="jupyter-server-terminals gives it some.")
        return manager
