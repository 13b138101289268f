"""Configurations that clients take as they are."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import Any

from .. import __version__
from ..errors import InvalidRequest
from ..settings import Settings
from ..tokens import client_token

NAME = "jupyter"
CLIENTS = {
    "vscode": ".vscode/mcp.json of the workspace",
    "claude": ".mcp.json of the project (Claude Code)",
    "claude-desktop": "claude_desktop_config.json (Settings, Developer, Edit Config)",
    "codex": "~/.codex/config.toml, or .codex/config.toml of the project (Codex)",
    "cursor": ".cursor/mcp.json of the project",
    "windsurf": "mcp_config.json (Settings, Cascade, MCP servers)",
    "zed": "Zed's settings.json (zed: open settings file), or .zed/settings.json of the project",
    "generic": "most other clients",
}


def stdio_config(client: str, settings: Settings, command: str | None = None) -> dict[str, Any]:
    """Start the server on standard input and output, for this root: by `command`, else with this interpreter."""
    arguments = ["--root", str(settings.root)]
    if settings.notebook:
        arguments += ["--notebook", settings.notebook]
    if command is None:
        arguments = ["-m", "mcp_server_jupyter", *arguments]
    entry: dict[str, Any] = {"command": command or sys.executable, "args": arguments}
    if client == "vscode":
        entry = {"type": "stdio", **entry}
    return _wrapped(client, entry)


def docker_config(client: str, settings: Settings) -> dict[str, Any]:
    """Start the server in a container, for the notebooks and kernels of a Jupyter on this machine."""
    url = settings.jupyter_url or "http://localhost:8888"
    network = ["--network=host"]
    if sys.platform != "linux":
        # There a container's network is that of a virtual machine.
        network, url = [], re.sub(r"//(localhost|127\.0\.0\.1)\b", "//host.docker.internal", url)
    token = settings.jupyter_token or "changeme"
    given = {
        "ROOM_URL": url,
        "ROOM_TOKEN": token,
        "ROOM_ID": settings.notebook or "notebook.ipynb",
        "RUNTIME_URL": url,
        "RUNTIME_TOKEN": token,
    }
    variables = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
    image = f"mcp-server-jupyter/server:{__version__}"
    entry: dict[str, Any] = {
        "command": "docker",
        "args": ["run", "-i", "--rm", *network, *variables, image, "--embedded"],
    }
    if client == "vscode":
        entry = {"type": "stdio", **entry}
    return _wrapped(client, entry)


def jupyter_config(client: str, settings: Settings) -> dict[str, Any]:
    """Reach the extension in a Jupyter server: the one that is named, else the hub's that this is run in.

    The token is named, not written: a project's file may be anybody's to read.

    Raises:
        InvalidRequest: the client reads no variables of the environment in its configuration.
    """
    if client not in ("claude", "vscode"):
        raise InvalidRequest(f"{CLIENTS[client]} takes no token from the environment.", hint="Use claude or vscode.")
    of_hub = settings.jupyter_url is None and settings.hub_service_url is not None
    url = settings.jupyter_url or settings.hub_service_url or "http://localhost:8888/"
    # Where a server listens at every address, it is reached at its own.
    url = re.sub(r"//(0\.0\.0\.0|\[::\]|)(?=[:/])", "//127.0.0.1", url)
    variable = "JUPYTERHUB_API_TOKEN" if of_hub else "JUPYTER_TOKEN"
    named = f"${{env:{variable}}}" if client == "vscode" else f"${{{variable}}}"
    entry = {"type": "http", "url": f"{url.rstrip('/')}/api/mcp/", "headers": {"Authorization": f"token {named}"}}
    return _wrapped(client, entry)


def http_config(client: str, url: str, token: str | None) -> dict[str, Any]:
    """Reach a running server, by a token that opens `/mcp` alone.

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
        entry["http_headers" if client == "codex" else "headers"] = {"Authorization": f"Bearer {client_token(token)}"}
    return _wrapped(client, entry)


def as_text(client: str, configuration: dict[str, Any]) -> str:
    """The configuration as the client's file has it: TOML for Codex, JSON for all others."""
    if client != "codex":
        return json.dumps(configuration, indent=2)
    tables = configuration["mcp_servers"].items()
    return "\n".join(f"[mcp_servers.{name}]\n{_toml_lines(entry)}" for name, entry in tables)


def as_command(client: str, configuration: dict[str, Any]) -> str | None:
    """The command line that does what pasting the configuration does; None for clients that have none."""
    if client != "claude":
        return None
    entry = configuration["mcpServers"][NAME]
    if "url" not in entry:
        return shlex.join(["claude", "mcp", "add", NAME, "--", entry["command"], *entry["args"]])
    headers = [word for name, value in entry.get("headers", {}).items() for word in ("--header", f"{name}: {value}")]
    return shlex.join(["claude", "mcp", "add", "--transport", "http", NAME, entry["url"], *headers])


def _toml_lines(entry: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {_toml(value)}" for key, value in entry.items())


def _toml(value: Any) -> str:
    """Strings and lists are written as in JSON; a table as an inline one."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def _wrapped(client: str, entry: dict[str, Any]) -> dict[str, Any]:
    key = {"vscode": "servers", "codex": "mcp_servers", "zed": "context_servers"}.get(client, "mcpServers")
    return {key: {NAME: entry}}
