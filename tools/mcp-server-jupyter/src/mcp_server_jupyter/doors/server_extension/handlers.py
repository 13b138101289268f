"""What Jupyter serves of ours: everything behind its own sign-in, origin and XSRF checks, but whether we are there."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from ... import __version__
from .bridge import AsgiHandler
from .mount import Mount

_SERVICE = "mcp-server-jupyter"


class Health(APIHandler):
    """Whether the extension is there; open to everybody, and says nothing else."""

    @allow_unauthenticated
    def get(self) -> None:
        self.finish({"status": "ok", "service": _SERVICE, "version": __version__})

    head = get


@web.stream_request_body
class Mounted(AsgiHandler, APIHandler):
    """Our application. Reading is Jupyter's action "read"; a POST can run code, which is "execute"."""

    auth_resource = "mcp_server_jupyter"

    def initialize(self, mount: Mount) -> None:
        self._mount = mount

    @property
    def most_bytes(self) -> int:
        """See `AsgiHandler.most_bytes`."""
        return self._mount.most_bytes

    async def prepare(self) -> None:  # type: ignore[override]
        """See `APIHandler.prepare`. Of those who are not signed in, not even the body is read."""
        await super().prepare()
        if not self.current_user and self.request.method != "OPTIONS":
            raise web.HTTPError(403)
        self.refuse_big()

    def finish(self, *args: Any, **more: Any) -> Any:
        """See `APIHandler.finish`, which takes everything for JSON that is not said to be something else."""
        said = self._headers.get("Content-Type")
        return super().finish(*args, **({"set_content_type": said} if said else {}), **more)

    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def get(self, path: str) -> None:
        await self._serve(path)

    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def head(self, path: str) -> None:
        await self._serve(path)

    @web.authenticated
    @authorized(action="execute")  # type: ignore[untyped-decorator]
    async def post(self, path: str) -> None:
        await self._serve(path)

    @web.authenticated
    @authorized(action="write")  # type: ignore[untyped-decorator]
    async def put(self, path: str) -> None:
        await self._serve(path)

    @web.authenticated
    @authorized(action="write")  # type: ignore[untyped-decorator]
    async def delete(self, path: str) -> None:
        await self._serve(path)

    async def _serve(self, path: str) -> None:
        await self.answer(await self._mount.app(), path if path.strip("/") else "/mcp")
