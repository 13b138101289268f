"""The notebooks of the Jupyter server whose process this is.

Files go through its contents manager. Where it has live documents, these are met through a connection to its own
address: a room is made, kept and ended by its WebSocket handler, and counts nobody but those who are connected.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from anyio.to_thread import run_sync
from jupyter_core.utils import ensure_async
from tornado.web import HTTPError

from ....errors import Unavailable
from ....settings import Settings
from ..client import Client
from ..contents import JupyterContents
from ..contents_api import INLINE_BYTES, ContentsApi, Json
from ..rooms.connection import Address
from .refusals import plain_refusals

_DOCUMENTS = "jupyter_server_ydoc"


def open_contents(settings: Settings, serverapp: Any) -> JupyterContents:
    """The backend `serverapp`: the notebooks of a `jupyter_server.serverapp.ServerApp`."""
    return JupyterContents(settings, ManagedContents(settings, serverapp))


class ManagedContents(ContentsApi):
    """`ContentsApi` over a contents manager, be it async or not."""

    def __init__(self, settings: Settings, serverapp: Any) -> None:
        address = settings.room
        client = Client("", None) if address is None else Client(address.url, address.token)
        super().__init__(client, settings.max_notebook_bytes)
        self._is_reachable = address is not None
        self._manager = serverapp.contents_manager
        # Both kinds of live documents are known by this name, once their extension is loaded.
        self._has_documents = _DOCUMENTS in serverapp.web_app.settings

    async def __aenter__(self) -> ManagedContents:
        if self._has_documents and self._is_reachable:
            await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    async def find_room(self, name: str) -> Address | None:
        """See `ContentsApi.find_room`.

        Raises:
            Unavailable: there are live documents, and no address to meet them at.
        """
        if not self._has_documents:
            return None
        if not self._is_reachable:
            raise Unavailable(
                "This Jupyter has live documents, and listens on a Unix socket alone.",
                hint="Start it with --ip and --port, or without its collaboration extension.",
            )
        return await super().find_room(name)

    async def _model(self, name: str, seconds: float | None = None, **params: str) -> Json:
        asked: Json = {"type": params.get("type"), "content": params.get("content") == "1"}
        with plain_refusals():
            await self._require_visible(name, 404)
            try:
                found = await ensure_async(self._manager.get(name, **asked, require_hash="hash" in params))
            except TypeError:
                # Managers made for Jupyter Server before 2.11.
                found = await ensure_async(self._manager.get(name, **asked))
        return dict(found)

    async def _write(self, name: str, data: bytes) -> None:
        model = json.loads(data) if len(data) < INLINE_BYTES else await run_sync(json.loads, data)
        await self._put(name, model)

    async def _make_folder(self, name: str) -> None:
        await self._put(name, {"type": "directory"})

    async def _put(self, name: str, model: Json) -> None:
        with plain_refusals():
            await self._require_visible(name, 400)
            is_there = await ensure_async(self._manager.file_exists(name))
            put = self._manager.save if is_there else self._manager.new
            await ensure_async(put(model, name))

    async def _delete(self, name: str) -> None:
        with plain_refusals():
            await self._require_visible(name, 400)
            await ensure_async(self._manager.delete(name))

    async def _require_visible(self, name: str, status: int) -> None:
        """What Jupyter hides from its clients, it hides from ours."""
        if not self._manager.allow_hidden and await ensure_async(self._manager.is_hidden(name)):
            raise HTTPError(status, f"{name!r} is hidden")
