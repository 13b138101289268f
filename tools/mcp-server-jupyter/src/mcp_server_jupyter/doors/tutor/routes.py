"""The tutor over REST: `POST /NAME` for every operation, and the progress as CSV. Mounted below a path."""

from __future__ import annotations

import csv
import io
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...tutor.results import COLUMNS
from ...tutor.service import Tutor
from ..http.body import read_object
from ..http.json_text import Json
from .operations import OPERATIONS, Allow, invoke

MAX_BODY_BYTES = 2**20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def tutor_routes(tutor: Tutor, allow: Allow) -> list[Route]:
    """The routes: `POST /deploy_task` … with a JSON object of arguments, `GET /learner_progress?learner=…&task=…`.

    Errors are `JupyterMcpError`s, for the handlers of the application that they are mounted in.
    """
    door = _Door(tutor, allow)
    routes = [Route(f"/{name}", partial(door.operate, name), methods=["POST"]) for name in OPERATIONS]
    return [
        *routes,
        Route("/learner_progress", door.progress, methods=["GET"]),
        Route("/list_tasks", door.tasks, methods=["GET"]),
    ]


class _Door:
    def __init__(self, tutor: Tutor, allow: Allow) -> None:
        self._tutor, self._allow = tutor, allow

    async def operate(self, name: str, request: Request) -> Response:
        arguments = await read_object(request, MAX_BODY_BYTES)
        answer = await invoke(self._tutor, name, arguments, partial(self._allow, request))
        return Json(answer.data)

    async def tasks(self, request: Request) -> Response:
        return Json((await invoke(self._tutor, "list_tasks", {}, partial(self._allow, request))).data)

    async def progress(self, request: Request) -> Response:
        given = {key: value for key, value in request.query_params.items() if value}
        answer = await invoke(self._tutor, "learner_progress", given, partial(self._allow, request))
        if "text/csv" not in request.headers.get("accept", ""):
            return Json(answer.data)
        columns = (*COLUMNS, "best_points")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows([_safe(row[name]) for name in columns] for row in answer.data["progress"])
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8")


def _safe(value: object) -> object:
    """A text that a spreadsheet would take for a formula, quoted as one (OWASP, "CSV injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
