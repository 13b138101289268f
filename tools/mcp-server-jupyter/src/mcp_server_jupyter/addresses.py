"""Addresses of Jupyter servers, and the tokens for them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Address:
    """A Jupyter server and the token for it, which is never shown."""

    url: str
    token: str | None = dataclasses.field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The same for every spelling of one address."""
        return self.url.rstrip("/")


def check_address(name: str, url: str) -> None:
    """Whether an address of a Jupyter can be one.

    Raises:
        InvalidRequest: it is none, or it holds more than an address; it is not repeated.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        is_address = is_address and _is_plain(url)
    except ValueError:
        is_address = False
    if not is_address:
        raise InvalidRequest(f"{name} is no address.", hint="Write it as http://host:8888/.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        # It is shown and written down: a token in it would be, too.
        raise InvalidRequest(f"{name} holds more than an address.", hint="Give the token by itself, not in it.")


def is_stopped(status: int, location: str) -> bool:
    """Whether a JupyterHub answers for a server that does not run (JupyterHub docs, "Using JupyterHub's REST API").

    Its proxy sends what no server takes to the hub, which redirects below its own prefix, and there says 424.

    Args:
        location: the header of the answer, empty where it has none.
    """
    return status == 424 or (300 <= status < 400 and "/hub/user/" in urlsplit(location).path)


def check_token(name: str, token: str) -> None:
    """Whether a token can be one: it goes into a header.

    Raises:
        InvalidRequest: it cannot; it is not repeated.
    """
    if not _is_plain(token):
        raise InvalidRequest(f"{name} holds characters that no token has.", hint="Give it as it was made.")


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
