"""Which Jupyter the settings mean, and whether it is one."""

from __future__ import annotations

from typing import Literal

from ...addresses import Address
from ...errors import InvalidRequest, Unavailable
from ...settings import Settings
from .client import Client


def open_runtime_client(settings: Settings) -> Client:
    """The client of the Jupyter that kernels are at.

    Raises:
        InvalidRequest: none is named.
    """
    return _client(settings.runtime)


def open_room_client(settings: Settings) -> Client:
    """The client of the Jupyter that notebooks are at.

    Raises:
        InvalidRequest: none is named.
    """
    return _client(settings.room)


def _client(address: Address | None) -> Client:
    if address is None:
        raise InvalidRequest(
            "The backend jupyter needs the address of a Jupyter server.", hint="Give --jupyter-url and --jupyter-token."
        )
    return Client(address.url, address.token)


async def verify(address: Address, port: Literal["contents", "kernels"]) -> None:
    """Ask a Jupyter for something that only whom it knows may read.

    Raises:
        Unavailable: it does not answer, or is none.
        Unauthorized: it refuses the token.
    """
    async with Client(address.url, address.token) as client:
        if port == "kernels":
            answer = await client.get("api/kernelspecs")
            is_jupyter = isinstance(answer, dict) and "kernelspecs" in answer
        else:
            answer = await client.get("api/contents", content="0")
            is_jupyter = isinstance(answer, dict) and answer.get("type") == "directory"
        if not is_jupyter:
            raise Unavailable(f"What answers at {client.url} is no Jupyter server.", hint="Look at the address.")
