"""A JupyterHub's REST API, as far as a service needs it. The service's own token goes nowhere else.

Source: JupyterHub docs, "JupyterHub REST API" (2.0 to 6.1).
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from ..errors import InvalidRequest, JupyterMcpError, NotAllowed, NotFound, Unavailable
from .role import sends_own_token

if TYPE_CHECKING:
    import httpx2

TOKEN_SECONDS = 900
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 20.0
# A hub that spawns slowly answers only after its own patience of ten seconds.
_START_SECONDS = 40.0
# The hub says something at least every eight.
_SILENCE_SECONDS = 30.0
_CONNECTIONS = 20
_AGAIN_SECONDS = 5
_LONGEST_AGAIN = 3600

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A user's default server. `path` is its address below the proxy's, `url` a full one where the hub knows it."""

    path: str
    url: str | None
    is_ready: bool
    is_pending: bool


@dataclass(frozen=True, slots=True)
class Learner:
    """A user as a list shows them. `last_activity` is ISO 8601; None, never, or not the service's to know."""

    name: str
    is_running: bool
    last_activity: str | None


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that opens one server; times are by `time.monotonic`. Without an `id` it was not made for that."""

    id: str
    token: str = field(repr=False)
    made_at: float
    ends_at: float

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.made_at

    @property
    def ends_in(self) -> float:
        """Seconds it is still good for."""
        return self.ends_at - time.monotonic()


@dataclass(frozen=True, slots=True)
class SpawnEvent:
    """How far a server's start is: per cent, and a sentence."""

    percent: float
    text: str
    is_ready: bool
    has_failed: bool


class HubApi:
    """The hub at one address, asked as the service; an async context manager.

    Args:
        url: of its API, as `JUPYTERHUB_API_URL` has it.
        token: the service's own.
        token_seconds: how long a token is good for that is made for a user's server.
    """

    def __init__(self, url: str, token: str, *, token_seconds: int = TOKEN_SECONDS) -> None:
        self.url = url.rstrip("/") + "/"
        self._token = token
        self._token_seconds = token_seconds
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> HubApi:
        httpx = _httpx2()
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    # ------------------------------------------------------------------ people

    async def owner(self, token: str) -> Json | None:
        """Whose a token is, as the hub describes them, with the token's scopes; None where it knows no such token.

        Raises:
            Unavailable
        """
        response = await self._send("GET", "user", token=token)
        if response.status_code in (401, 403, 404):
            return None
        model = _object(self._judged(response))
        return model if isinstance(model.get("name"), str) else None

    async def own_scopes(self) -> frozenset[str]:
        """What the service's role lets it do.

        Raises:
            NotAllowed: the hub does not know the service's token.
            Unavailable
        """
        model = await self.owner(self._token)
        if model is None:
            raise NotAllowed("The hub does not know the service's token.", hint="Look at --hub-api-token.")
        given = model.get("scopes")
        return frozenset(each for each in given if isinstance(each, str)) if isinstance(given, list) else frozenset()

    async def users(self, *, running: bool = False, offset: int = 0, limit: int = 100) -> tuple[list[Learner], int]:
        """The users whom the service may list, by the hub's order, and how many there are.

        Args:
            running: only those whose server runs or starts.
            limit: the hub gives at most 200 at once.

        Raises:
            NotAllowed: the service's role lacks the scope `list:users`.
            Unavailable
        """
        query = {"offset": str(offset), "limit": str(limit)} | ({"state": "active"} if running else {})
        response = await self._send("GET", f"users?{urlencode(query)}", accept="application/jupyterhub-pagination+json")
        page = _object(self._judged(response))
        items = [each for each in page.get("items", []) if isinstance(each, dict)]
        total = _object(page.get("_pagination")).get("total")
        return [_learner(each) for each in items], total if isinstance(total, int) else offset + len(items)

    # ------------------------------------------------------------------ servers

    async def server(self, user: str) -> Server:
        """The default server of a user whom the service may work for.

        Raises:
            NotFound: there is no such user, or the service's role does not cover them.
            Unavailable
        """
        model = _object(self._judged(await self._send("GET", f"users/{quote(user, safe='')}")))
        if model.get("name") != user:
            raise NotFound(f"The hub knows no {user!r}.")
        found = model.get("servers")
        server = found.get("") if isinstance(found, dict) else None
        if not isinstance(server, dict):
            return Server("", None, is_ready=False, is_pending=False)
        return Server(
            str(server.get("url") or ""),
            server.get("full_url") or None,
            is_ready=bool(server.get("ready")),
            is_pending=bool(server.get("pending")),
        )

    async def mint(self, user: str) -> Minted:
        """A token that opens this user's default server and nothing else, for `token_seconds`.

        A role that lets the service open servers and make no tokens leaves it nothing but its own.

        Raises:
            NotAllowed: the service's role lacks the scope `tokens`.
            Unavailable
        """
        began = time.monotonic()
        try:
            return await self._mint(user, began)
        except NotAllowed:
            if not sends_own_token(await self.own_scopes()):
                raise
            return Minted("", self._token, began, began + self._token_seconds)

    async def _mint(self, user: str, began: float) -> Minted:
        body = {
            "note": "mcp-server-jupyter hub",
            "expires_in": self._token_seconds,
            "scopes": [f"access:servers!server={user}/"],
        }
        model = _object(self._judged(await self._send("POST", f"users/{quote(user, safe='')}/tokens", body)))
        if not isinstance(model.get("token"), str):
            raise Unavailable(f"The hub at {self.url} made no token.", hint="Look at its log.")
        return Minted(str(model.get("id", "")), model["token"], began, began + self._token_seconds)

    async def revoke(self, user: str, minted: Minted) -> None:
        """Have a token open nothing any more; the service's own is left."""
        if not minted.id:
            return
        response = await self._send("DELETE", f"users/{quote(user, safe='')}/tokens/{quote(minted.id, safe='')}")
        if response.status_code != 404:
            self._judged(response)

    async def start(self, user: str) -> bool:
        """Have a user's server started; whether it runs already.

        Raises:
            NotAllowed: the service's role lacks the scope `start:servers`.
            Unavailable: the hub starts too many at once, or does not answer.
        """
        path = f"users/{quote(user, safe='')}/server"
        response = await self._send("POST", path, {}, seconds=_START_SECONDS)
        if response.status_code == 400:
            # It runs, or it is about to: what the hub says of it tells which.
            server = await self.server(user)
            if server.is_ready or server.is_pending:
                return server.is_ready
        self._judged(response)
        return response.status_code == 201

    async def progress(self, user: str) -> AsyncGenerator[SpawnEvent]:
        """What the hub tells of a server that starts, until it is ready or has failed.

        Raises:
            InvalidRequest: it does not start.
            Unavailable
        """
        async with self._stream(f"users/{quote(user, safe='')}/server/progress") as response:
            if response.status_code != 200:
                await response.aread()
                self._judged(response)
            async for line in response.aiter_lines():
                if line.startswith("data:") and (event := _event(line[5:])) is not None:
                    yield event

    # ------------------------------------------------------------------ requests

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        token: str | None = None,
        seconds: float = 0.0,
        accept: str | None = None,
    ) -> httpx2.Response:
        httpx = _httpx2()
        client = self._client
        try:
            response: httpx2.Response = await client.request(
                method,
                path,
                json=body,
                headers=self._headers(token) | ({"Accept": accept} if accept else {}),
                timeout=httpx.Timeout(seconds or _ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            )
        except httpx.HTTPError as error:
            raise self._away(error) from error
        # What the hub keeps of one caller must not stand for the next one.
        client.cookies.clear()
        return response

    @asynccontextmanager
    async def _stream(self, path: str) -> AsyncIterator[httpx2.Response]:
        httpx = _httpx2()
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        try:
            async with self._client.stream("GET", path, headers=self._headers(None), timeout=timeout) as response:
                yield response
        except httpx.HTTPError as error:
            raise self._away(error) from error

    @property
    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            raise Unavailable(f"The connection to the hub at {self.url} is closed.")
        return self._http

    def _headers(self, token: str | None) -> dict[str, str]:
        return {"Authorization": f"token {token or self._token}"}

    def _away(self, error: Exception) -> Unavailable:
        why = str(error) or type(error).__name__
        return Unavailable(
            f"The hub at {self.url} does not answer: {why}.",
            hint=f"Try again in {_AGAIN_SECONDS} s; servers that are in use can be used on.",
            retry_after=_AGAIN_SECONDS,
        )

    def _judged(self, response: httpx2.Response) -> Any:
        """The JSON of an answer, None where there is none.

        Raises:
            NotAllowed, NotFound, InvalidRequest, Unavailable: as the hub says.
        """
        status = response.status_code
        if response.is_success:
            try:
                return json.loads(response.content) if response.content.strip() else None
            except ValueError as error:
                raise Unavailable(f"What answers at {self.url} is no hub.", hint="Look at --hub-api-url.") from error
        raise self._refusal(status, response.headers, _message(response))

    def _refusal(self, status: int, headers: Mapping[str, str], said: str) -> JupyterMcpError:
        what = f"The hub answers {status}{f': {said}' if said else ''}."
        if status == 429 or status >= 500:
            seconds = _seconds(headers.get("retry-after", ""))
            return Unavailable(what, hint=f"Try again in {seconds} s.", retry_after=seconds)
        if status in (401, 403):
            return NotAllowed(
                what, hint="The service's token or its role at the hub does not allow this: see docs/jupyterhub.md."
            )
        if status == 404:
            return NotFound(what)
        if status < 400:
            return Unavailable(what, hint="Give the address of the hub's API itself: --hub-api-url.")
        return InvalidRequest(what)


def _httpx2() -> Any:
    try:
        import httpx2  # noqa: PLC0415 - an extra, and 0.1 s
    except ImportError as error:
        raise InvalidRequest(
            "Working with a JupyterHub needs packages that are not installed.",
            hint="pip install 'mcp-server-jupyter[jupyter]'",
        ) from error
    return httpx2


def _object(model: Any) -> Json:
    return model if isinstance(model, dict) else {}


def _learner(model: Json) -> Learner:
    server = _object(_object(model.get("servers")).get(""))
    seen = model.get("last_activity")
    return Learner(str(model.get("name", "")), bool(server.get("ready")), seen if isinstance(seen, str) else None)


def _event(data: str) -> SpawnEvent | None:
    try:
        told = json.loads(data)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    percent = told.get("progress")
    return SpawnEvent(
        float(percent) if isinstance(percent, int | float) else 0.0,
        str(told.get("message") or ""),
        is_ready=bool(told.get("ready")),
        has_failed=bool(told.get("failed")),
    )


def _seconds(text: str) -> int:
    """A `Retry-After` in seconds; one that is a date is not worth parsing."""
    return min(max(1, int(text)), _LONGEST_AGAIN) if text.isascii() and text.isdigit() else _AGAIN_SECONDS


def _message(response: httpx2.Response) -> str:
    try:
        said = json.loads(response.content)
    except ValueError:
        return ""
    text = said.get("message") if isinstance(said, dict) else None
    return text.rstrip(".")[:300] if isinstance(text, str) else ""
