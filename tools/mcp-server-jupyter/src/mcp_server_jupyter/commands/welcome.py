"""What a server that has started says to the person who started it."""

from __future__ import annotations

import json

from .. import __version__
from ..settings import Settings
from .config import http_config

_NOTHING = "NONE: anyone who reaches this address can run code here (--no-auth)"


def gateway_welcome(settings: Settings, url: str, token: str | None) -> str:
    """Where the gateway is, its token, and a request to try."""
    shown = token if token is None or not settings.token else "YOUR_TOKEN"
    bearer = f'-H "Authorization: Bearer {shown}" ' if shown else ""
    notebook = '{"cells": [{"source": "dict(answer=6 * 7)", "metadata": {"tags": ["results"]}}]}'
    lines = [
        "",
        f"  mcp-server-jupyter {__version__}, gateway",
        f"  Runs        {settings.root}",
        f"  Address     {url}",
        f"  Token       {'the one you set' if settings.token and token else token or _NOTHING}",
        "",
        "  Try it:",
        "",
        f"  curl -s {url}/run {bearer}-d '{notebook}'",
        "",
    ]
    return "\n".join(lines)


def hub_welcome(settings: Settings, url: str, token: str | None) -> str:
    """Where the service is, which hub it serves, and its operator's token."""
    lines = [
        "",
        f"  mcp-server-jupyter {__version__}, service of a JupyterHub",
        f"  Hub         {settings.hub_api_url}",
        f"  Address     {url}{settings.hub_service_prefix.rstrip('/')}",
        f"  Operator    {'the token you set' if settings.token else token}",
        f"  Staff       {settings.staff_group or 'nobody (--staff-group)'}",
        "",
    ]
    return "\n".join(lines)


def welcome(settings: Settings, url: str, token: str | None) -> str:
    """Where the server is, its token, and a configuration to paste."""
    shown = token if token is None or not settings.token else "YOUR_TOKEN"
    lines = [
        "",
        f"  mcp-server-jupyter {__version__}",
        f"  Notebooks   {settings.root}",
        f"  Address     {url}",
        f"  Token       {'the one you set' if settings.token and token else token or _NOTHING}",
        "",
        "  Configuration for a client:",
        "",
        *(f"  {line}" for line in json.dumps(http_config("generic", url, shown), indent=2).splitlines()),
        "",
    ]
    return "\n".join(lines)
