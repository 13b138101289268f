"""A Jupyter server's REST API: one request each, its refusals as our errors.

Source: jupyter-server docs, "The REST API".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from ...addresses import is_stopped
from ...errors import (
    AlreadyExists,
    InvalidRequest,
    JupyterMcpError,
    NotFound,
    ServerNotRunning,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from .extra import require_extra

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
START_SECONDS = 90.0
"""A server answers the start or the restart of a kernel when the kernel does, for which it waits 60 s by default."""

_KINDS: dict[int, type[JupyterMcpError]] = {
    404: NotFound,
    409: AlreadyExists,
    410: NotFound,
    413: TooLarge,
    501: Unsupported,
}


class Client:
    """One Jupyter server and the token for it; an async context manager.

    Args:
        url: its address, with the base URL if it has one, without a token.
        token: sent as a header, and never shown.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/") + "/"
        self._token = token
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Client:
        require_extra()
        import httpx2  # noqa: PLC0415  (an extra, and 0.1 s)

        timeout = httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        self._http = httpx2.AsyncClient(base_url=self.url, headers=self.headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    @property
    def where(self) -> str:
        """The server for people: its address."""
        return self.url

    @property
    def headers(self) -> dict[str, str]:
        """What says who we are."""
        return {"Authorization": f"token {self._token}"} if self._token else {}

    def socket_url(self, path: str, query: str) -> str:
        """The address of a WebSocket."""
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return f"{scheme}://{parts.netloc}{parts.path}{path}?{query}"

    async def get(self, path: str, **params: str) -> Any:
        """What is there now."""
        return await self.call("GET", path, params=params)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> Any:
        """One request; the JSON of its answer, None where there is none.

        Raises:
            Unavailable: the server does not answer, or fails.
            ServerNotRunning: a JupyterHub answers for it, which has stopped it.
            Unauthorized: it refuses the token.
            NotFound, AlreadyExists, InvalidRequest, TooLarge, Unsupported: as it says.
        """
        answer = await self.exchange(method, path, body, params=params, seconds=seconds)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise Unavailable(
                f"What answers at {self.url} is no Jupyter server.", hint="Look at --jupyter-url."
            ) from error

    async def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> bytes:
        """One request; its answer as it came. A body of bytes is JSON already. Raises as `call` does."""
        import httpx2  # noqa: PLC0415

        if self._http is None:
            raise Unavailable(f"The connection to Jupyter at {self.url} is closed.")
        try:
            response = await self._http.request(
                method,
                path,
                content=body if isinstance(body, bytes) or body is None else json.dumps(body).encode(),
                headers=None if body is None else {"Content-Type": "application/json"},
                params=dict(params or {}),
                timeout=httpx2.Timeout(seconds, connect=_CONNECT_SECONDS),
            )
        except httpx2.HTTPError as error:
            raise self.away(error) from error
        if response.is_success:
            return response.content
        if is_stopped(response.status_code, response.headers.get("location", "")):
            raise ServerNotRunning(
                f"Jupyter at {self.url} is not running: its hub has stopped it, or has not started it yet.",
                hint="start_server starts it, where that tool is listed; else open it in a browser.",
            )
        raise self._refusal(response.status_code, _message(response))

    def renew(self, token: str | None) -> None:
        """Use this token from now on; sockets use it when they connect again."""
        self._token = token
        if self._http is not None:
            self._http.headers.pop("Authorization", None)
            self._http.headers.update(self.headers)
            # A Jupyter that was given a token once sets a cookie that stands for it.
            self._http.cookies.clear()

    def away(self, error: Exception) -> Unavailable:
        """It could not be reached."""
        why = str(error) or type(error).__name__
        return Unavailable(
            f"Jupyter at {self.url} does not answer: {why}.",
            hint="Start it, or give another --jupyter-url; then repeat.",
        )

    def _refusal(self, status: int, said: str) -> JupyterMcpError:
        what = f"Jupyter at {self.url} answers {status}{f': {said}' if said else ''}."
        if status in (401, 403):
            return Unauthorized(
                f"Jupyter at {self.url} refuses the token.",
                hint="Give the right one: --jupyter-token or JUPYTER_TOKEN.",
            )
        if 300 <= status < 400:
            return Unavailable(what, hint="Something before it wants a log-in; give the address of the server itself.")
        return kind_of(status)(what)


class AtJupyter:
    """What asks one Jupyter server through a client of its own; an async context manager."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)


def kind_of(status: int) -> type[JupyterMcpError]:
    """What an HTTP status of Jupyter's API that refuses something means."""
    return _KINDS.get(status, InvalidRequest if status < 500 else Unavailable)


def _message(response: httpx2.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        return ""
    text = said.get("message") or said.get("reason") if isinstance(said, dict) else None
    return text.rstrip(".")[:500] if isinstance(text, str) else ""


def quoted(path: str) -> str:
    """A path of the API as a part of an address."""
    return quote(path, safe="/")
