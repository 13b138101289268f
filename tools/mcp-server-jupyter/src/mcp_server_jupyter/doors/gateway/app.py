"""The gateway's HTTP application. What each route takes and answers is described by `openapi.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ... import __version__
from ...errors import JupyterMcpError, TooLarge
from ...journal import RunRow
from ...runs import Failure, Refused, Runs, Sent, read_payload
from ...runs.payload import whole
from ..http.app import assembled
from ..http.events import HEADERS, HEARTBEAT_SECONDS, framed
from ..http.json_text import Json, read_json, write_json
from ..http.security import Guard, read_body, read_nothing
from .metrics import GatewayMetrics
from .openapi import document

OPEN_ROUTES = frozenset({"/", "/health"})
MOST_LISTED = 500
MOST_DISCARDED = 64 * 2**20
_MAX_KEY = 200
_MAX_DIGITS = 15


def create_gateway(runs: Runs, token: str | None, *, port: int | None = None) -> Starlette:
    """The app over these runs. `port` is the one it will listen on, None when it is not known."""
    routes = Gateway(runs)
    metrics = GatewayMetrics(runs)
    return assembled(
        [
            Route("/", routes.about, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/openapi.json", routes.openapi, methods=["GET"]),
            Route("/metrics", metrics.endpoint, methods=["GET"]),
            Route("/run", routes.run, methods=["POST"]),
            Route("/runs", routes.listed, methods=["GET"]),
            Route("/runs/{run_id}", routes.one, methods=["GET"]),
            Route("/runs/{run_id}", routes.cancel, methods=["DELETE"]),
            Route("/runs/{run_id}/notebook", routes.notebook, methods=["GET"]),
            Route("/runs/{run_id}/events", routes.events, methods=["GET"]),
            Route("/runs/{run_id}/resume", routes.resume, methods=["POST"]),
        ],
        [Middleware(Guard, settings=runs.settings, token=token, port=port, open_routes=OPEN_ROUTES)],
        handlers={Refused: _refused},
    )


class Gateway:
    """The routes."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def about(self, request: Request) -> Response:
        """Says what this is."""
        routes = ["/run", "/runs", "/metrics", "/health", "/openapi.json"]
        return Json({"service": "papermill-gateway", "status": "ok", "version": __version__, "routes": routes})

    async def health(self, request: Request) -> Response:
        return Json({"status": "ok", "service": "papermill-gateway", "version": __version__, **self._runs.counts})

    async def openapi(self, request: Request) -> Response:
        return Json(document(self._runs.settings))

    async def run(self, request: Request) -> Response:
        """Accept a notebook, and answer when it has run; at once where the client prefers that (RFC 7240)."""
        sent = await self._read(request)
        row = await self._runs.accept(sent, key=_key(request))
        return await self._answer(request, row)

    async def resume(self, request: Request) -> Response:
        body = await self._body(request)
        notebook = body.get("notebook") if isinstance(body, dict) else None
        row = await self._runs.resume(request.path_params["run_id"], None if notebook is None else whole(notebook))
        return await self._answer(request, row)

    async def _answer(self, request: Request, row: RunRow) -> Response:
        where = {"location": f"/runs/{row.id}"}
        if "respond-async" in request.headers.get("prefer", "").lower() and not row.ended:
            told = {"run_id": row.id, "status": row.status, "warnings": row.warnings}
            return Json(told, status_code=202, headers={**where, "preference-applied": "respond-async"})
        status, body = result(await self._runs.wait(row.id))
        return Json(body, status_code=status, headers=where)

    async def listed(self, request: Request) -> Response:
        given = request.query_params.get("limit", "100")
        limit = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 100
        rows = self._runs.latest(min(limit, MOST_LISTED))
        return Json({"runs": [self._shown(row) for row in rows]})

    async def one(self, request: Request) -> Response:
        row = self._runs.get(request.path_params["run_id"])
        shown = self._shown(row)
        if row.ended:
            shown |= {"http_status": result(row)[0], **result(row)[1]}
        return Json(shown)

    def _shown(self, row: RunRow) -> dict[str, Any]:
        done, total = self._runs.progress(row)
        return {
            "run_id": row.id,
            "status": row.status,
            "cells": {"done": done, "total": total},
            "attempt": row.attempt,
            "kernel": row.kernel_name,
            "accepted_at": row.accepted_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "resumable_until": row.kept_until,
            "warnings": row.warnings,
        }

    async def cancel(self, request: Request) -> Response:
        row = await self._runs.cancel(request.path_params["run_id"])
        return Json(self._shown(row))

    async def notebook(self, request: Request) -> Response:
        row = self._runs.get(request.path_params["run_id"])
        if not row.ended:
            await self._runs.services.contents.flush(self._runs.folders.path(row.id))
        try:
            file = await anyio.to_thread.run_sync(self._runs.folders.executed, row.id)
        except OSError as error:
            raise Refused(Failure("not_found", "The notebook of this run is gone.")) from error
        headers = {"content-disposition": f'attachment; filename="{row.id}.ipynb"'}
        return Response(file, media_type="application/x-ipynb+json", headers=headers)

    async def events(self, request: Request) -> Response:
        row = self._runs.get(request.path_params["run_id"])
        given = request.headers.get("last-event-id", "0")
        after = int(given) if given.isascii() and given.isdigit() and len(given) <= _MAX_DIGITS else 0
        return StreamingResponse(self._stream(row.id, after), media_type="text/event-stream", headers=HEADERS)

    async def _stream(self, run_id: str, after: int) -> AsyncIterator[bytes]:
        """Everything that has happened after event AFTER and that still happens; ends with the run."""
        yield framed(retry=1000)
        while True:
            for number, event in self._runs.events(run_id, after):
                after = number
                yield framed(id=str(number), event=event["status"], data=write_json(event).decode())
            try:
                if self._runs.get(run_id).ended and not self._runs.events(run_id, after):
                    return
            except Refused:
                return
            with anyio.move_on_after(HEARTBEAT_SECONDS) as silence:
                await self._runs.news(run_id)
            if silence.cancelled_caught:
                yield framed(comment="still here")

    # ------------------------------------------------------------------ bodies

    async def _read(self, request: Request) -> Sent:
        return read_payload(await self._body(request))

    async def _body(self, request: Request) -> Any:
        limit = int(self._runs.settings.max_notebook_size_mb * 2**20)
        try:
            body = await read_body(request.receive, limit)
        except TooLarge as error:
            # Most clients read no answer before they have sent all they have.
            with suppress(JupyterMcpError):
                await read_nothing(request.receive, MOST_DISCARDED)
            raise Refused(Failure("payload_too_large", f"The request is over {limit} bytes.")) from error
        try:
            return read_json(body or b"{}")
        except ValueError as error:
            raise Refused(Failure("invalid_notebook", "The body is not JSON, or nested too deep.")) from error


def result(row: RunRow) -> tuple[int, dict[str, Any]]:
    """What a run that has ended is answered with: status and body."""
    seconds = round((row.finished_at or 0.0) - (row.started_at or row.accepted_at), 3)
    about = {"run_id": row.id, "seconds": max(0.0, seconds), "warnings": row.warnings}
    outcome = row.outcome or {}
    if "error" in outcome:
        failure = Failure.of(outcome["error"])
        return failure.http_status, {**failure.body(), **about}
    return 200, {"results": outcome.get("results", {}), **about}


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise Refused(Failure("invalid_parameters", f"An Idempotency-Key has 1 to {_MAX_KEY} characters."))
    return key


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return Json(error.failure.body(), status_code=error.failure.http_status, headers=headers)
