"""What is answered before the server is open: it is alive, it is not ready, and why."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...errors import Unavailable
from ...settings import Settings
from .json_text import Json
from .rest import alive
from .security import Guard, error_response

_RETRY_SECONDS = 2


class Waiting:
    """The application of a server that is not open yet; `why` is a sentence. It knows nothing, so it needs no token."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.why = "The server is starting."
        self._app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/api/healthz", self._healthz),
                Route("/api/readyz", self._readyz),
            ],
            middleware=[Middleware(Guard, settings=settings, token=None, port=port)],
        )
        self._app.router.default = self._refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _health(self, request: Request) -> Response:
        return alive()

    async def _healthz(self, request: Request) -> Response:
        return Json({"status": "healthy", "kernel_status": "none"})

    async def _readyz(self, request: Request) -> Response:
        return Json({"status": "not_ready", "reasons": [self.why]}, status_code=503)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every other route, whatever its method."""
        error = Unavailable(self.why, hint="Try again soon; /api/readyz says when it is ready.")
        await error_response(error, {"retry-after": str(_RETRY_SECONDS)})(scope, receive, send)
