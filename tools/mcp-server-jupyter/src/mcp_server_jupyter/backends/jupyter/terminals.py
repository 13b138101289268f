"""The terminals of a Jupyter server, by its REST API and a WebSocket for each reading and writing.

Source: jupyter-server-terminals' API, and terminado's messages: `["stdin", text]` in, `["stdout", text]` out, where
whoever connects is first given what was written before.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from ...errors import NotFound, Unavailable, Unsupported
from ...settings import Settings
from ...terminals import Terminal
from .client import AtJupyter, quoted
from .connect import open_runtime_client

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_OPEN_SECONDS, _ANSWER_SECONDS = 20.0, 20.0
_PATH = "api/terminals"


def open_terminals(settings: Settings) -> JupyterTerminals:
    """The backend `jupyter`: those of the Jupyter that kernels are at."""
    return JupyterTerminals(open_runtime_client(settings))


class JupyterTerminals(AtJupyter):
    """See `terminals.Terminals`. Nothing is open between calls."""

    def renew(self, settings: Settings) -> None:
        """See `ports.Renewable`."""
        self._client.renew(settings.runtime.token if settings.runtime else None)

    async def list(self) -> Sequence[Terminal]:
        """See `Terminals.list`."""
        try:
            listed = await self._client.get(_PATH)
        except NotFound as error:
            raise Unsupported(f"Jupyter at {self._client.url} has no terminals.") from error
        return [_terminal(each) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []

    async def read(self, name: str) -> str:
        """See `Terminals.read`."""
        await self._client.get(f"{_PATH}/{quoted(name)}")
        async with self._connected(name) as connection:
            # What was written before is sent before anything else is answered.
            await self._answered(connection)
            parts: list[str] = []
            while True:
                with anyio.move_on_after(0) as waited:
                    message = json.loads(await connection.recv())
                    if message[:1] == ["stdout"]:
                        parts.append(str(message[1]))
                if waited.cancelled_caught:
                    return "".join(parts)

    async def write(self, name: str, text: str) -> None:
        """See `Terminals.write`."""
        await self._client.get(f"{_PATH}/{quoted(name)}")
        async with self._connected(name) as connection:
            await connection.send(json.dumps(["stdin", text]))
            await self._answered(connection)

    async def create(self) -> Terminal:
        """See `Terminals.create`."""
        try:
            return _terminal(await self._client.call("POST", _PATH, {}))
        except NotFound as error:
            raise Unsupported(f"Jupyter at {self._client.url} has no terminals.") from error

    @asynccontextmanager
    async def _connected(self, name: str) -> AsyncIterator[ClientConnection]:
        from websockets.asyncio.client import connect  # noqa: PLC0415  (an extra)
        from websockets.exceptions import WebSocketException  # noqa: PLC0415

        url = self._client.socket_url(f"terminals/websocket/{quoted(name)}", "")
        try:
            async with connect(
                url,
                compression=None,
                additional_headers=self._client.headers,
                # All that is kept comes at once, and is to come before the answer to a ping.
                max_size=None,
                max_queue=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=1.0,
            ) as connection:
                yield connection
        except (OSError, TimeoutError, WebSocketException) as error:
            raise self._client.away(error) from error
        except (ValueError, IndexError, TypeError) as error:
            raise Unavailable(f"What answers at {self._client.url} is no terminal.") from error

    async def _answered(self, connection: ClientConnection) -> None:
        """Wait until the server has taken all that was sent, and has sent what there was to send."""
        with anyio.fail_after(_ANSWER_SECONDS):
            await (await connection.ping())


def _terminal(model: Any) -> Terminal:
    found = model if isinstance(model, dict) else {}
    seen = found.get("last_activity")
    return Terminal(str(found.get("name", "")), seen if isinstance(seen, str) else None)
