"""`PUT /api/connect`: the guide's way to say which notebook calls mean that name none."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

from ...errors import InvalidRequest, NotFound, Unauthorized, Unsupported
from ...operations import Caller
from ...operations.bind import invoke
from ...services import Services
from .security import LOOPBACK

_PROVIDERS = ("jupyter",)
_TEXTS = ("provider", "room_url", "room_id", "room_token", "runtime_url", "runtime_id", "runtime_token")


async def connect(services: Services, body: dict[str, Any], *, own_address: tuple[str, int], token: str | None) -> Any:
    """Make `room_id` the default notebook, created if it is not there.

    Raises:
        InvalidRequest: a value of the wrong type, or an unknown provider.
        Unauthorized: `room_token` or `runtime_token` is not this server's token.
        Unsupported: an address of another Jupyter.
        NotFound: no kernel `runtime_id`.
    """
    given = {name: _text(body, name) for name in _TEXTS}
    provider = given["provider"] or _PROVIDERS[0]
    if provider not in _PROVIDERS:
        raise InvalidRequest(f"No provider {provider!r}.", hint=f"Known: {', '.join(_PROVIDERS)}.")
    for name in ("room_url", "runtime_url"):
        if (url := given[name]) and not _is_own(name, url, own_address):
            raise Unsupported(
                f"{name} {_without_secrets(url)} is another Jupyter; this server runs its own kernels.",
                hint="Leave room_url and runtime_url out to work in this server's own notebooks.",
            )
    for name in ("room_token", "runtime_token"):
        value = given[name]
        if (
            value
            and token is not None
            and not hmac.compare_digest(value.encode("utf-8", "surrogatepass"), token.encode())
        ):
            raise Unauthorized(f"{name} is not this server's token.", hint="Send the token that `serve` printed.")
    if runtime_id := given["runtime_id"]:
        services.sessions.get(runtime_id)
    created = False
    if notebook := given["room_id"]:
        created = await _use(services, notebook)
    return {
        "status": "connected",
        "provider": provider,
        "notebook": services.default_notebook,
        "created": created,
        "kernel_status": services.kernel_status(),
    }


async def _use(services: Services, notebook: str) -> bool:
    created = False
    try:
        await services.contents.read(notebook)
    except NotFound:
        await invoke(services, "create_notebook", {"notebook_path": notebook}, caller=Caller("user"))
        created = True
    services.connect(notebook)
    return created


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} is a text.", hint=f"Send a string, or leave {name} out.")
    return value or None


def _is_own(name: str, url: str, own_address: tuple[str, int]) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise InvalidRequest(f"{name} is not an address.", hint="Write it as http://host:port.") from error
    return port == own_address[1] and (host in LOOPBACK or host == own_address[0])


def _without_secrets(url: str) -> str:
    """Scheme, host and port alone: people put tokens into addresses."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
