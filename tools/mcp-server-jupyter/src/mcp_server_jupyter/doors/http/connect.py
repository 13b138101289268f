"""`PUT /api/connect`: the guide's way to say where calls work, and which notebook those mean that name none."""

from __future__ import annotations

import dataclasses
import hmac
from typing import Any, Literal
from urllib.parse import urlsplit

from ...addresses import Address, check_address, check_token
from ...errors import InvalidRequest, JupyterMcpError, NotFound, Unauthorized
from ...operations import Caller
from ...operations.bind import invoke
from ...places import Places, providers, verify
from ...services import Services
from ...settings import JUPYTER
from .security import LOOPBACK

_TEXTS = ("provider", "room_url", "room_id", "room_token", "runtime_url", "runtime_id", "runtime_token")
_Side = Literal["room", "runtime"]
_PORTS: dict[_Side, Literal["contents", "kernels"]] = {"room": "contents", "runtime": "kernels"}


async def connect(places: Places, body: dict[str, Any], *, own_address: tuple[str, int], token: str | None) -> Any:
    """Have calls work at another Jupyter, or here again, with `room_id` for the default notebook, made if need be.

    `room_url` is where notebooks are, `runtime_url` where code runs; one stands for both, and without either calls go
    on where they do. All of it is verified before anything changes; what runs at the place that is left goes on.

    Raises:
        InvalidRequest: a value of the wrong type, an unknown provider, or an address that cannot be one.
        Unauthorized: a token is refused; the message names the field.
        Unavailable: nobody answers there; the message names the field.
        NotFound: no kernel `runtime_id`.
    """
    given = {name: _text(body, name) for name in _TEXTS}
    provider = given["provider"] or JUPYTER
    if provider not in providers():
        raise InvalidRequest(f"No provider {provider!r}.", hint=f"Known: {', '.join(providers())}.")
    services = await _place(places, provider, given, own_address, token)
    created = await _use(services, given["room_id"], given["runtime_id"])
    places.switch(services)
    return {
        "status": "connected",
        "provider": provider,
        "notebook": services.default_notebook,
        "created": created,
        "kernel_status": services.kernel_status(),
    }


async def _place(
    places: Places,
    provider: str,
    given: dict[str, str | None],
    own_address: tuple[str, int],
    token: str | None,
) -> Services:
    """The place that is meant, verified."""
    urls = {side: given[f"{side}_url"] for side in _PORTS}
    for side, url in urls.items():
        if url is not None:
            check_address(f"{side}_url", url)
    own = {side for side, url in urls.items() if url is None or _is_own(url, own_address)}
    if own == set(_PORTS):
        for side in _PORTS:
            _check_own(f"{side}_token", given[f"{side}_token"], token)
        return places.home if any(urls.values()) else places.current
    if any(urls[side] is not None for side in own):
        raise InvalidRequest(
            "room_url and runtime_url name this server and another one.",
            hint="Name the other one alone, for notebooks and kernels.",
        )
    for side in _PORTS:
        if (sent := given[f"{side}_token"]) is not None:
            check_token(f"{side}_token", sent)
    room, runtime = _addresses(urls, given)
    await _verify(provider, "room", room, given)
    await _verify(provider, "runtime", runtime, given)
    return await places.open(
        dataclasses.replace(
            places.home.settings,
            contents=provider,
            kernels=provider,
            place=None,
            jupyter_url=None,
            jupyter_token=None,
            room_url=room.url,
            room_token=room.token,
            runtime_url=runtime.url,
            runtime_token=runtime.token,
            runtime_id=None,
            notebook=None,
        )
    )


def _addresses(urls: dict[_Side, str | None], given: dict[str, str | None]) -> tuple[Address, Address]:
    """Where notebooks are and where code runs. A token goes to the address that it was sent for, and nowhere else."""
    room, runtime = urls["room"] or urls["runtime"] or "", urls["runtime"] or urls["room"] or ""
    room_token, runtime_token = given["room_token"], given["runtime_token"]
    if Address(room).name == Address(runtime).name:
        room_token, runtime_token = room_token or runtime_token, runtime_token or room_token
    return Address(room, room_token), Address(runtime, runtime_token)


async def _verify(provider: str, side: _Side, address: Address, given: dict[str, str | None]) -> None:
    """Name the field that was wrong, not the setting that nobody gave."""
    other: _Side = "runtime" if side == "room" else "room"
    try:
        await verify(provider, address, _PORTS[side])
    except Unauthorized as error:
        field = f"{side}_token" if given[f"{side}_token"] or not given[f"{other}_token"] else f"{other}_token"
        raise Unauthorized(
            f"{field} is refused by the Jupyter at {address.url}.", hint=f"Send the token of that Jupyter as {field}."
        ) from error
    except JupyterMcpError as error:
        field = f"{side}_url" if given[f"{side}_url"] else f"{other}_url"
        raise type(error)(
            f"{field}: {error.message}", hint="Start it, or send another address; then repeat."
        ) from error


def _check_own(name: str, value: str | None, token: str | None) -> None:
    if value and token is not None:
        sent = value.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(sent, token.encode()):
            raise Unauthorized(f"{name} is not this server's token.", hint="Send the token that `serve` printed.")


async def _use(services: Services, room: str | None, runtime_id: str | None) -> bool:
    """Make `room` the default notebook and have it run on `runtime_id`; whether the notebook had to be made.

    What can be refused is looked at first: the notebook is read before it is bound, and bound before it is made.
    """
    is_missing = False
    if room is not None:
        try:
            await services.contents.read(room)
        except NotFound:
            is_missing = True
    notebook = room or services.default_notebook
    if runtime_id is not None:
        if notebook is None:
            services.sessions.get(runtime_id)
        else:
            await services.sessions.choose(services.contents.resolve(notebook), runtime_id)
    if is_missing:
        await invoke(services, "create_notebook", {"notebook_path": room}, caller=Caller("user"))
    if room is not None:
        services.connect(room)
    return is_missing


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} is a text.", hint=f"Send a string, or leave {name} out.")
    return value or None


def _is_own(url: str, own_address: tuple[str, int]) -> bool:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return port == own_address[1] and (parts.hostname in LOOPBACK or parts.hostname == own_address[0])
