"""Serving the gateway until a signal: one for each state folder, in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from ...folders import service_folder
from ...runs import open_runs
from ...services import open_services
from ...settings import Settings
from ...tokens import load_token
from ..http.serve import http_door, until_signal
from .app import create_gateway

_CLIENT_BYTES = 64 * 2**20


def gateway_settings(settings: Settings) -> Settings:
    """The settings of the services below a gateway: their root is the folder of the runs.

    Raises:
        InvalidRequest: that folder cannot be made.
    """
    return dataclasses.replace(
        settings,
        root=service_folder(settings.state_dir, "gateway"),
        port=settings.gateway_port,
        notebook=None,
        keep_kernels=True,
        max_body_bytes=max(_CLIENT_BYTES, int(settings.max_notebook_size_mb * 2**20) + 1),
    )


async def serve_gateway(settings: Settings, say: Callable[[str, str | None], object]) -> None:
    """Serve until SIGTERM or SIGINT, then let what runs end for `grace_seconds`; the rest is the next one's.

    Args:
        settings: of `gateway_settings`; their lock is held.
        say: told the address and the token once it is open.
    """
    token = load_token(settings)
    async with http_door(settings) as door:
        door.listen()
        async with (
            open_services(settings) as services,
            open_runs(services) as runs,
            door.serving(partial(create_gateway, runs, token)),
        ):
            say(door.endpoint.removesuffix("/mcp"), token)
            await until_signal()
            door.stop_accepting()
            await runs.close(settings.grace_seconds)
