"""The extension that Jupyter Server loads: routes below its base URL, and our server in a task of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.extension.application import ExtensionApp

from .handlers import Health, Mounted
from .mount import Mount

PREFIXES = ("/api/mcp", "/api/tk-ai/mcp")
"""Where it is below the base URL: the second is the address that another project's guide gives."""


class McpExtension(ExtensionApp):
    """See `mount.Mount` for what it serves."""

    name = "mcp_server_jupyter"

    def initialize_settings(self) -> None:
        """See `ExtensionApp.initialize_settings`. Nothing is opened yet."""
        self.mount = Mount(self.serverapp)
        self._running: asyncio.Task[None] | None = None

    def initialize_handlers(self) -> None:
        """See `ExtensionApp.initialize_handlers`."""
        for prefix in PREFIXES:
            self.handlers += [(f"{prefix}/health", Health), (f"{prefix}(|/.*)", Mounted, {"mount": self.mount})]

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Begin to open, and let Jupyter go on."""
        self._running = asyncio.create_task(self.mount.run())

    async def stop_extension(self) -> None:
        """Close what was opened, in order."""
        if self._running is not None:
            self.mount.stop()
            await self._running
