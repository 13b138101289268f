"""Notebooks that are open in editors, over another backend: see `contents`."""

from __future__ import annotations

from importlib.metadata import entry_points

from ...errors import InvalidRequest
from ...ports import Contents
from ...settings import Settings
from .contents import LiveContents

__all__ = ["open_contents"]


def open_contents(settings: Settings, below: Contents | None = None) -> LiveContents:
    """Editors' buffers over `below`; absent, over the backend that the settings name.

    Raises:
        InvalidRequest: they name none that can be below.
    """
    if below is not None:
        return LiveContents(below)
    for point in entry_points(group="mcp_server_jupyter.contents", name=settings.contents):
        if settings.contents != "live":
            return LiveContents(point.load()(settings))
    raise InvalidRequest(f"There is no contents backend {settings.contents!r} to lie below editors' buffers.")
