"""The extension under its other name: one server within a Jupyter, whichever of the two names enables it."""

from __future__ import annotations

from typing import Any

from mcp_server_jupyter.doors.server_extension.extension import McpExtension


class TKAIExtension(McpExtension):
    """`McpExtension` where that is not enabled itself, else nothing."""

    name = "tk_ai_extension"

    def initialize_handlers(self) -> None:
        """See `McpExtension.initialize_handlers`."""
        if self._is_alone():
            super().initialize_handlers()

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        if self._is_alone():
            await super()._start_jupyter_server_extension(serverapp)

    def _is_alone(self) -> bool:
        extensions = {} if self.serverapp is None else self.serverapp.extension_manager.extensions
        other = extensions.get(McpExtension.name)
        return other is None or not other.enabled
