"""`%%tk`. See `mcp_server_jupyter.magics.shell`."""

from mcp_server_jupyter.magics.shell import McpMagics

__all__ = ["McpMagics"]
