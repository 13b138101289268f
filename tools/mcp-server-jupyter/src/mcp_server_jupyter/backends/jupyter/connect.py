"""Which Jupyter the settings mean."""

from __future__ import annotations

from ...errors import InvalidRequest
from ...settings import Settings
from .client import Client


def open_client(settings: Settings) -> Client:
    """The client of the Jupyter at `jupyter_url`.

    Raises:
        InvalidRequest: none is named.
    """
    if settings.jupyter_url is None:
        raise InvalidRequest(
            "The backend jupyter needs the address of a Jupyter server.", hint="Give --jupyter-url and --jupyter-token."
        )
    return Client(settings.jupyter_url, settings.jupyter_token)
