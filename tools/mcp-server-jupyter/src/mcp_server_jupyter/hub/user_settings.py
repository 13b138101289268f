"""Where users' servers are, and the settings of a place in one."""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit

from ..errors import InvalidRequest
from ..folders import service_folder
from ..settings import JUPYTER, Settings


def address_of(base: str | None, path: str, url: str | None) -> str:
    """The address of a user's server.

    Args:
        base: of the hub's proxy.
        path: of the server there; or its address, where it is not behind the proxy.
        url: the server's address, where the hub tells it.

    Raises:
        InvalidRequest: none of them says it.
    """
    if urlsplit(path).scheme:
        return path
    if base is not None:
        parts = urlsplit(base)
        return f"{parts.scheme}://{parts.netloc}{path}"
    if url:
        return url
    raise InvalidRequest(
        "Where users' servers are is not known.", hint="Give the address of the hub's proxy: --hub-url."
    )


def hub_settings(settings: Settings) -> Settings:
    """The settings of the service: every user's place has these, with another Jupyter and a state of its own.

    Raises:
        InvalidRequest: its folder cannot be made.
    """
    return dataclasses.replace(
        settings,
        root=service_folder(settings.state_dir, "hub"),
        contents=JUPYTER,
        kernels=JUPYTER,
        jupyter_url=None,
        jupyter_token=None,
        room_url=None,
        room_token=None,
        runtime_url=None,
        runtime_token=None,
        runtime_id=None,
        notebook=None,
        python=None,
        keep_kernels=True,
    )
