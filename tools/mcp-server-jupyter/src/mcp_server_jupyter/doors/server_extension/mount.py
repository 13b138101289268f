"""Our server within a Jupyter server: opened in the background, in one task, over that very Jupyter's managers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from ...errors import JupyterMcpError, Unavailable
from ...settings import SERVERAPP, Settings
from ...values import PREFIX

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from ..mcp.server import JupyterMcp

logger = logging.getLogger(__name__)

_OPEN_SECONDS = 60.0
_AGAIN_SECONDS = 2.0
# Until the settings say it.
_MOST_BYTES = 64 * 2**20
_EVERYWHERE = frozenset({"", "0.0.0.0", "::", "*", "localhost"})


class Mount:
    """Made when Jupyter starts; `run` it once Jupyter serves.

    Attributes:
        most_bytes: of one request.
    """

    def __init__(self, serverapp: Any) -> None:
        self.most_bytes = _MOST_BYTES
        self._serverapp = serverapp
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._app: Starlette | None = None
        self._mcp: JupyterMcp | None = None
        self._error: JupyterMcpError = Unavailable("The extension is starting.", hint="Try again soon.")

    async def app(self) -> ASGIApp:
        """The application; waits while it opens. What keeps it from that is an application that says so."""
        await self._opened()
        if self._app is not None:
            return self._app
        from ..http.security import error_response  # noqa: PLC0415 - see `_load`

        return error_response(self._error)

    async def mcp(self) -> JupyterMcp:
        """The MCP server behind it, for calls within this process; waits while it opens.

        Raises:
            JupyterMcpError: it is not served here.
        """
        await self._opened()
        if self._mcp is None:
            raise self._error
        return self._mcp

    async def _opened(self) -> None:
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._settled.wait()
        except TimeoutError:
            logger.warning("a call came %s s before the extension was open", _OPEN_SECONDS)

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. Jupyter goes on, whatever becomes of this."""
        try:
            settings = settings_of(self._serverapp)
            self.most_bytes = settings.max_body_bytes
            await anyio.to_thread.run_sync(_load)
            await self._serve(settings)
        except JupyterMcpError as error:
            logger.error("MCP is not served here: %s", error)
            self._error = error
        except Exception:
            logger.exception("MCP is not served here")
            self._error = Unavailable("The extension failed.", hint="Jupyter's log says how.")
        finally:
            self._app = self._mcp = None
            self._settled.set()

    async def _serve(self, settings: Settings) -> None:
        async with AsyncExitStack() as stack:
            if not await self._owns(stack, settings):
                return
            app, self._mcp = await _open(stack, settings, self._serverapp)
            self._app = app
            self._settled.set()
            await self._stopping.wait()
            self._app = self._mcp = None
            self._error = Unavailable("Jupyter is stopping.", hint="Start it again.")
            app.state.stopping = True
            app.state.requests.end()

    async def _owns(self, stack: AsyncExitStack, settings: Settings) -> bool:
        """Hold the state, once no other Jupyter of the same root and base URL does; False where this one ends first."""
        from ...ownership import owned  # noqa: PLC0415 - see `_load`

        while not self._stopping.is_set():
            try:
                stack.enter_context(owned(settings))
                return True
            except Unavailable:
                if not self._settled.is_set():
                    logger.warning("MCP is served by another Jupyter of %s; here as soon as that ends", settings.root)
                self._error = Unavailable(
                    f"Another Jupyter serves MCP for {settings.root} at this base URL.",
                    hint="Use that one, or end it: this one takes over.",
                )
                self._settled.set()
            try:
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                continue
        return False


def _load() -> None:
    """Import what is served: half a second that Jupyter's start is spared."""
    from ... import ownership, places  # noqa: F401, PLC0415
    from ..http import app, security  # noqa: F401, PLC0415
    from ..mcp import server  # noqa: F401, PLC0415


async def _open(stack: AsyncExitStack, settings: Settings, serverapp: Any) -> tuple[Starlette, JupyterMcp]:
    from ...places import open_places  # noqa: PLC0415 - see `_load`
    from ...services import open_backend, open_services  # noqa: PLC0415
    from ..http.app import create_mounted  # noqa: PLC0415
    from ..mcp.server import create_mcp  # noqa: PLC0415

    contents, kernels, terminals = (
        open_backend(port, SERVERAPP, settings, serverapp) for port in ("contents", "kernels", "terminals")
    )
    opened = open_services(settings, contents=contents, kernels=kernels, terminals=terminals)
    services = await stack.enter_async_context(opened)
    places = await stack.enter_async_context(open_places(services))
    mcp = create_mcp(places)
    app = create_mounted(places, mcp)
    await stack.enter_async_context(app.router.lifespan_context(app))
    return app, mcp


def settings_of(serverapp: Any, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a server that works in the Jupyter it is loaded by.

    Raises:
        InvalidRequest: a variable of ours is wrong.
    """
    environ = os.environ if environ is None else environ
    given = {
        "root": serverapp.root_dir,
        # For live documents alone.
        "jupyter_url": None if serverapp.sock else _url(serverapp),
        "jupyter_token": _token(serverapp.identity_provider),
        # Its port may be another one with every start.
        "place": f"in Jupyter at {serverapp.base_url}",
        "contents": SERVERAPP,
        "kernels": SERVERAPP,
    }
    return Settings.load(given, {name: value for name, value in environ.items() if name.startswith(PREFIX)})


def _url(serverapp: Any) -> str:
    host = "127.0.0.1" if serverapp.ip in _EVERYWHERE else f"[{serverapp.ip}]" if ":" in serverapp.ip else serverapp.ip
    return f"{'https' if serverapp.certfile else 'http'}://{host}:{serverapp.port}{serverapp.base_url}"


def _token(provider: Any) -> str | None:
    """The server's own; below a JupyterHub, the one that the hub gave it."""
    hub = getattr(provider, "hub_auth", None)
    token = getattr(provider, "token", "") or getattr(hub, "api_token", "")
    return str(token) or None
