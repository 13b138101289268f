"""The REST routes: health, the operations by name, and `PUT /api/connect`."""

from __future__ import annotations

from urllib.parse import unquote

import anyio.to_thread
from mcp.server import MCPServer
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from ...operations import Caller
from ...operations.bind import invoke
from ...places import Places
from ...services import Services
from ..editor.shapes import API
from ..protocol import AGENT_HEADER, KERNEL_HEADER, NOTEBOOK_HEADER
from .body import read_object
from .connect import connect
from .json_text import Json
from .readiness import unready

NAME = "mcp-server-jupyter"


def alive() -> Response:
    """What `/health` answers, whatever the state of the server."""
    return Json({"status": "ok", "service": NAME, "version": __version__, "api": API})


class Rest:
    def __init__(self, places: Places, mcp: MCPServer, token: str | None, port: int) -> None:
        self._places = places
        self._settings = places.home.settings
        self._mcp = mcp
        self._token = token
        self._port = port

    async def health(self, request: Request) -> Response:
        return alive()

    async def healthz(self, request: Request) -> Response:
        return Json({"status": "healthy", "kernel_status": self._places.current.kernel_status()})

    async def readyz(self, request: Request) -> Response:
        """Ready, or 503 and why not; also while the server drains, so that no new work is sent to it."""
        reasons = await anyio.to_thread.run_sync(unready, self._settings.root_state)
        if request.app.state.stopping:
            reasons.append("The server is stopping.")
        status = "not_ready" if reasons else "ready"
        return Json({"status": status, "reasons": reasons}, status_code=503 if reasons else 200)

    async def connect(self, request: Request) -> Response:
        own = (self._settings.host, self._port)
        body = await read_object(request, self._settings.max_body_bytes)
        return Json(await connect(self._places, body, own_address=own, token=self._token))

    async def operations(self, request: Request) -> Response:
        tools = await self._mcp.list_tools()
        fields = {"name", "title", "description", "input_schema", "annotations"}
        listed = [tool.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields) for tool in tools]
        return Json({"operations": listed})

    async def operate(self, request: Request) -> Response:
        arguments = await read_object(request, self._settings.max_body_bytes)
        services = await self._places.of(arguments)
        answer = await invoke(services, request.path_params["name"], arguments, caller=_caller(request, services))
        return Json(
            {
                "text": answer.text,
                "data": answer.data,
                "is_error": answer.is_error,
                "links": [{"uri": link.uri, "name": link.name} for link in answer.links],
                "images": [{"data": image.data, "mime_type": image.mime_type} for image in answer.images],
            }
        )


def _caller(request: Request, services: Services) -> Caller:
    """Who asks: a person's program, or code in a kernel, for itself or for an agent."""
    agent, kernel_id = request.headers.get(AGENT_HEADER), request.headers.get(KERNEL_HEADER)
    own = next((each for each in services.sessions.all() if each.id == kernel_id), None)
    return Caller(
        agent or "user",
        notebook=unquote(request.headers.get(NOTEBOOK_HEADER, "")) or None if own is None else own.notebook,
        is_agent=agent is not None,
        kernel_id=kernel_id,
    )
