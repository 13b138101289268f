"""The routes of editors. Each method's first line is what docs/http.md says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...errors import Conflict, InvalidRequest, NotFound
from ...operations import Caller
from ...operations.batch import run_cells
from ...services import Services
from ..http.body import read_object
from ..http.events import HEADERS
from ..http.json_text import Json
from . import shapes
from .messages import field, said
from .stream import WindowEvents
from .windows import Windows

PERSON = Caller("user")
MOST_ACTIVITY = 1_000


class UnsupportedApi(InvalidRequest):
    """A window that speaks another number of the protocol."""

    code = "unsupported_api"


class NotDetached(Conflict):
    """A server that somebody runs in the foreground."""

    code = "not_detached"


class EditorRoutes:
    """What editors' windows ask of one server."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._events = WindowEvents(services)
        self._windows = Windows(services, self._events)
        self._limit = services.settings.max_body_bytes

    @contextmanager
    def following(self) -> Iterator[None]:
        """Tell windows what happens meanwhile."""
        with self._events.following():
            yield

    def routes(self) -> list[Route]:
        return [
            Route("/api/editor/{window}", self.stream, methods=["GET"]),
            Route("/api/editor/{window}", self.say, methods=["POST"]),
            Route("/api/activity", self.activity, methods=["GET"]),
            Route("/api/agents", self.agents, methods=["GET"]),
            Route("/api/agents", self.change_agents, methods=["PUT"]),
            Route("/api/approvals/{id}", self.decide, methods=["POST"]),
            Route("/api/executions", self.run, methods=["POST"]),
            Route("/api/executions/{id}/outputs", self.outputs, methods=["GET"]),
            Route("/api/notebooks/{path:path}/kernel", self.bind, methods=["PUT"]),
            Route("/api/shutdown", self.shutdown, methods=["POST"]),
        ]

    async def stream(self, request: Request) -> Response:
        """Server-sent events for one window of an editor, which is registered by it."""
        if request.query_params.get("api", str(shapes.API)) != str(shapes.API):
            raise UnsupportedApi(
                f"This server speaks number {shapes.API} of the editor's protocol, not another.",
                hint="Install the extension and the server of one version; `Set Up / Repair` in the editor does.",
            )
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=HEADERS)
        window = self._windows.open(request.path_params["window"])
        stream = self._events.stream(window.id, request.headers.get("last-event-id"), lambda: window.is_open)
        return _Stream(stream, lambda: self._windows.close(window))

    async def say(self, request: Request) -> Response:
        """What a window says of the notebooks it has open: opened, changed, saved, renamed, closed, and replies."""
        window = self._windows.get(request.path_params["window"])
        if window is None:
            raise NotFound("This window has no stream.", hint="GET the same path first, and keep it open.")
        body = await read_object(request, self._limit)
        async with window.speaking:
            return Json(await said(self._services, window.id, body))

    async def run(self, request: Request) -> Response:
        """Run cells as one batch; their executions at once."""
        body = await read_object(request, self._limit)
        return Json(await run_cells(self._services, PERSON, body))

    async def bind(self, request: Request) -> Response:
        """Run a notebook on a kernel that other notebooks may run on too, or on none."""
        services = self._services
        body = await read_object(request, self._limit)
        path = services.path(request.path_params["path"])
        kernel_id = field(body, "kernel_id", str, "")
        await services.contents.read(path)
        session = services.sessions.get(kernel_id) if kernel_id else None
        services.sessions.bind(path, session)
        return Json(None if session is None else shapes.kernel(session, await self._events.names()))

    async def outputs(self, request: Request) -> Response:
        """All outputs of an execution, and the number of the last `output` event that is in them."""
        execution_id = request.path_params["id"]
        execution = self._services.executions.get(execution_id)
        if execution is not None:
            self._services.executions.feed.advance(execution)
            known: dict[str, Any] = {"status": execution.status, "seq": execution.seq, "outputs": execution.shown}
            known |= {"execution_count": execution.reducer.execution_count, "note": execution.note}
        else:
            row = await self._services.journal.recall(execution_id)
            if row is None:
                raise NotFound(f"No execution {execution_id!r}.", hint="The journal forgets the oldest ones.")
            known = {"status": row.status, "seq": 0, "outputs": row.outputs or []}
            known |= {"execution_count": row.execution_count, "note": row.events_lost or ""}
        return Json({"execution_id": execution_id, **known})

    async def activity(self, request: Request) -> Response:
        """Who did what, the newest first: executions and edits."""
        given, limit = request.query_params, request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:6]) <= MOST_ACTIVITY):
            raise InvalidRequest(f"limit must be a number from 1 to {MOST_ACTIVITY}.")
        path = self._services.path(given["notebook_path"]) if given.get("notebook_path") else None
        return Json({"activity": self._services.journal.activity(path, int(limit))})

    async def agents(self, request: Request) -> Response:
        """What agents may do."""
        return Json(self._services.agents.data())

    async def change_agents(self, request: Request) -> Response:
        """Set what agents may do, in one notebook or in all."""
        body = await read_object(request, self._limit)
        path = field(body, "notebook_path", str, "")
        notebook = self._services.path(path) if path else None
        changed: dict[str, Any] = {}
        if body.get("paused") is not None:
            changed["paused"] = field(body, "paused", bool)
        if "run" in body:
            changed["run"] = body["run"]
            if body["run"] not in ("allow", "ask", "deny") and (body["run"] is not None or notebook is None):
                raise InvalidRequest("run must be allow, ask or deny.")
        await self._services.agents.change(notebook, changed)
        return Json(self._services.agents.data())

    async def decide(self, request: Request) -> Response:
        """Approve or deny an agent's run that waits for it."""
        body = await read_object(request, self._limit)
        decision, scope = body.get("decision"), body.get("for", "once")
        if decision not in ("approve", "deny") or scope not in ("once", "turn", "notebook"):
            raise InvalidRequest("decision must be approve or deny, for must be once, turn or notebook.")
        approval = await self._services.agents.decide(request.path_params["id"], decision, scope)
        return Json(approval.data())

    async def shutdown(self, request: Request) -> Response:
        """End a server that was started in the background, now or once it is idle; its kernels are left."""
        body = await read_object(request, self._limit)
        when = body.get("when", "idle")
        if when not in ("idle", "now"):
            raise InvalidRequest(f"when cannot be {when!r}.", hint="Give idle or now.")
        retire = self._services.retire
        if retire is None:
            raise NotDetached(
                "Somebody runs this server in the foreground.", hint="End it where it was started, or by `down`."
            )
        # After the answer: the end of the server takes what is being answered with it.
        task = BackgroundTask(retire, when == "now")
        waits = when == "idle" and bool(self._services.executions.active())
        return Json({"status": "waiting" if waits else "stopping"}, background=task)


class _Stream(StreamingResponse):
    """A stream of events; `ended` is called at its end, whoever ends it."""

    def __init__(self, content: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers=HEADERS)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
