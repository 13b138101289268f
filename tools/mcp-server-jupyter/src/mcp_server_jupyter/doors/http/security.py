"""What a request must pass before any route sees it: Host, Origin, rate, size, token; on every route."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import Conflict, InvalidRequest, JupyterMcpError, TooLarge, Unauthorized, Unavailable
from ...settings import Settings
from ...tokens import client_token
from .json_text import Json

CLIENT_ROUTES = frozenset({"/mcp", "/mcp/", "/"})
"""Open to MCP clients by a token of their own, which `config --http` prints."""
OPEN_ROUTES = frozenset({"/health", "/api/healthz", "/api/readyz"})
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_ADDRESSES = 10_000
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class MisdirectedRequest(JupyterMcpError):
    """A Host header that is not ours (RFC 9110, 421): the way of DNS rebinding."""

    code = "misdirected_request"
    http_status = 421


class ForbiddenOrigin(JupyterMcpError):
    """A browser page of another origin."""

    code = "forbidden_origin"
    http_status = 403


class TooManyRequests(JupyterMcpError):
    """Over the rate of one address."""

    code = "too_many_requests"
    http_status = 429


def refuse_unsafe(settings: Settings) -> None:
    """Refuse to serve the network without a token by accident.

    Raises:
        InvalidRequest: `no_auth` on an address others reach, without naming the hosts it is meant for.
    """
    if settings.no_auth and not is_loopback(settings.host) and not settings.allowed_hosts:
        raise InvalidRequest(
            f"--no-auth on {settings.host} would let anyone on the network run code here.",
            hint="Leave --no-auth out, listen on 127.0.0.1, or name the hosts it is meant for by --allowed-hosts.",
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def error_response(error: JupyterMcpError, headers: dict[str, str] | None = None) -> Response:
    """The one table from errors to HTTP."""
    content = {"error": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, Conflict):
        content["diff"] = error.diff
    if isinstance(error, Unavailable) and error.retry_after is not None:
        headers = {"retry-after": str(error.retry_after), **(headers or {})}
    return Json(content, status_code=error.http_status, headers=headers)


def split_host(value: str) -> tuple[str, int | None] | None:
    """Name and port of a Host header (RFC 9110, 7.2), None for anything that is not one."""
    try:
        parts = urlsplit(f"//{value}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    plain = parts.netloc == value and not parts.username and parts.password is None and not parts.path
    return (name, port) if name and plain and " " not in value else None


@dataclass(frozen=True, slots=True)
class Names:
    """Which names a server answers to. `port` is the one it listens on, None to accept any."""

    loopback: bool
    extra: tuple[str, ...]
    port: int | None

    def host_allowed(self, value: str, local_address: str | None) -> bool:
        """Loopback names at any port (forwarded ports), the address that was connected to, and the extra names.

        An address literal equal to the socket's own cannot come from DNS rebinding: it takes a name.
        """
        host = split_host(value)
        if host is None:
            return False
        if host[0] in LOOPBACK and (self.loopback or local_address in LOOPBACK):
            return True
        return host[0] == local_address or any(self._matches(entry, *host) for entry in self.extra)

    def origin_allowed(self, value: str) -> bool:
        try:
            parts = urlsplit(value)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return False
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            return False
        if parts.hostname in LOOPBACK:
            return True
        return any(self._origin_matches(entry, parts.scheme, parts.hostname, port) for entry in self.extra)

    def _origin_matches(self, entry: str, scheme: str, name: str, port: int | None) -> bool:
        wanted, separator, rest = entry.partition("://")
        if separator:
            return wanted == scheme and self._matches(rest, name, port, _DEFAULT_PORTS[scheme])
        return self._matches(entry, name, port, _DEFAULT_PORTS[scheme])

    def _matches(self, entry: str, name: str, port: int | None, default: int | None = None) -> bool:
        if entry.endswith(":*"):
            return name == entry[:-2].strip("[]").lower()
        wanted = split_host(entry)
        if wanted is None or wanted[0] != name:
            return False
        if wanted[1] is not None:
            return wanted[1] == (port or default)
        return port in (None, default, 80, 443, self.port)


@dataclass(slots=True)
class RateLimit:
    """A bucket per address: `per_minute` requests at once, refilled evenly. 0 is no limit."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait(self, address: str) -> float:
        """Seconds until the next request may come; 0 takes one now."""
        if not self.per_minute:
            return 0.0
        now = self.clock()
        left, since = self._buckets.get(address, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - since) * self.per_minute / 60)
        if left < 1:
            return (1 - left) * 60 / self.per_minute
        if address not in self._buckets and len(self._buckets) >= _MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[address] = (left - 1, now)
        return 0.0


class Guard:
    """The middleware: refuses what must not reach a route, and adds the security headers to what comes back."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        token: str | None,
        port: int | None,
        open_routes: frozenset[str] = OPEN_ROUTES,
        is_proxied: bool = False,
    ) -> None:
        """Behind a proxy the Host is the proxy's own, and its address everybody's: the application tells callers apart
        and bounds each of them, by the token that every request must carry."""
        self._app = app
        self._open_routes = open_routes
        self._token = token.encode() if token else None
        self._client_token = client_token(token).encode() if token else None
        self._hosts = Names(is_loopback(settings.host), settings.allowed_hosts, port)
        self._origins = Names(True, settings.allowed_origins, port)
        self._rate = RateLimit(0 if is_proxied else settings.rate_limit)
        self._is_proxied = is_proxied
        self._max_body = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded_send)
            return
        await self._app(scope, receive, guarded_send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if error := self._wrong_name(scope, headers):
            return error_response(error)
        if wait := self._rate.wait((scope.get("client") or ("",))[0]):
            error = TooManyRequests("Too many requests from this address.", hint=f"Wait {wait:.1f} s.")
            return error_response(error, {"retry-after": str(int(wait) + 1)})
        if (length := headers.get("content-length")) and length.isdigit() and int(length) > self._max_body:
            return error_response(too_large(self._max_body))
        if scope["path"] not in self._open_routes and not self._authorized(scope, headers.getlist("authorization")):
            error = Unauthorized(
                "No bearer token, or a wrong one.",
                hint="Send `Authorization: Bearer TOKEN`; `serve` prints the token when it starts.",
            )
            return error_response(error, {"www-authenticate": 'Bearer realm="mcp-server-jupyter"'})
        return None

    def _wrong_name(self, scope: Scope, headers: Headers) -> JupyterMcpError | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        local = (scope.get("server") or (None,))[0]
        if len(hosts) != 1 or not (self._is_proxied or self._hosts.host_allowed(hosts[0], local)):
            return MisdirectedRequest(
                "This server does not answer to that Host.", hint="Name it by --allowed-hosts if it should."
            )
        if any(not self._origins.origin_allowed(origin) for origin in origins):
            return ForbiddenOrigin(
                "Pages of that Origin may not call this server.", hint="Name it by --allowed-origins if they should."
            )
        return None

    def _authorized(self, scope: Scope, values: Iterable[str]) -> bool:
        if self._token is None or self._client_token is None:
            return True
        given = list(values)
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        sent = token.strip().encode("utf-8", "surrogateescape")
        right = hmac.compare_digest(sent, self._token)
        if scope["path"] in CLIENT_ROUTES and hmac.compare_digest(sent, self._client_token):
            right = True
        return right and scheme.lower() in ("bearer", "token")


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request is over {limit} bytes.", hint="Send less, or raise --max-body-bytes.")


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is over `limit` bytes, declared or not.
        ClientGone: the client left before it had sent all of it.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The client left before its request was whole.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


async def read_nothing(receive: Receive, most: int) -> None:
    """Take the rest of a body and drop it, at most MOST bytes."""
    while most > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        most -= len(message.get("body", b""))


class ClientGone(InvalidRequest):
    """Nobody is left to read an answer."""
