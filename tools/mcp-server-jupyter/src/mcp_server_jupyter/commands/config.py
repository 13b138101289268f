"""Configurations that clients take as they are."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import InvalidRequest
from ..settings import Settings

NAME = "jupyter"
CLIENTS = {
    "vscode": ".vscode/mcp.json of the workspace",
    "claude": ".mcp.json of the project (Claude Code)",
    "claude-desktop": "claude_desktop_config.json (Settings, Developer, Edit Config)",
    "cursor": ".cursor/mcp.json of the project",
    "windsurf": "mcp_config.json (Settings, Cascade, MCP servers)",
    "generic": "most other clients",
}


def stdio_config(client: str, settings: Settings) -> dict[str, Any]:
    """Start the server on standard input and output, with this interpreter and root."""
    arguments = ["-m", "mcp_server_jupyter", "--root", str(settings.root)]
    if settings.notebook:
        arguments += ["--notebook", settings.notebook]
    entry: dict[str, Any] = {"command": sys.executable, "args": arguments}
    if client == "vscode":
        entry = {"type": "stdio", **entry}
    return _wrapped(client, entry)


def http_config(client: str, url: str, token: str | None) -> dict[str, Any]:
    """Reach a running server.

    Raises:
        InvalidRequest: the client only starts servers itself.
    """
    if client == "claude-desktop":
        raise InvalidRequest(
            "Claude Desktop starts its servers itself.",
            hint="Leave --http out: on stdio it attaches to the running server of the same root.",
        )
    entry: dict[str, Any] = {"serverUrl" if client == "windsurf" else "url": url}
    if client in ("vscode", "claude", "generic"):
        entry = {"type": "http", **entry}
    if token:
        entry["headers"] = {"Authorization": f"Bearer {token}"}
    return _wrapped(client, entry)


def _wrapped(client: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"servers" if client == "vscode" else "mcpServers": {NAME: entry}}
