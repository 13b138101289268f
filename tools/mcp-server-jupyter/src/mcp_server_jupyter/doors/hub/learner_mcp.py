"""The MCP server of one user's server at a hub, and the tool that starts it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mcp.types as T
from mcp.server.mcpserver import Context

from ...errors import JupyterMcpError
from ...events import Events
from ...hub import Learners, Person
from ...operations import Caller
from ...services import Services
from ..mcp.sdk_compat import caller_of
from ..mcp.server import JupyterMcp, completed, progress_of

PERSON = "mcp_server_jupyter.person"
"""Where a request's scope says who sent it."""
_START = "start_server"
_START_DOC = "Starts the user's Jupyter server, and waits for it."


class LearnerPlace:
    """One user's place as a door sees it; see `places.Here`."""

    def __init__(self, learners: Learners, user: str) -> None:
        self.user = user
        self.learners = learners
        self.events: Events = learners.events(user)

    @asynccontextmanager
    async def using(self, arguments: object = None) -> AsyncIterator[Services]:
        """See `places.Here.using`."""
        async with self.learners.using(self.user) as services:
            yield services


class LearnerMcp(JupyterMcp):
    """The tools of notebooks, in one user's server, and `start_server`."""

    def __init__(self, place: LearnerPlace, wait_seconds: float) -> None:
        super().__init__(place)
        self._place = place
        self._wait_seconds = wait_seconds
        self.add_tool(
            self._start_server,
            name=_START,
            title="Start server",
            description=_START_DOC,
            annotations=T.ToolAnnotations(destructive_hint=False, idempotent_hint=True, open_world_hint=False),
            structured_output=False,
        )

    def caller(self, request: Any) -> Caller:
        """See `JupyterMcp.caller`. Edits are journaled for the person and the client's name together."""
        caller = caller_of(request)
        person = _person(request)
        if person is None:
            return caller
        name, mark, connection = caller.author.partition("#")
        return dataclasses.replace(caller, author=f"{name} of {person.shown}{mark}{connection}")

    async def _start_server(self, ctx: Context[Any, Any]) -> T.CallToolResult:
        report = progress_of(ctx)
        count = 0

        async def told(text: str) -> None:
            nonlocal count
            count += 1
            await report(count, text)

        try:
            runs = await self._place.learners.start(self._place.user, told, self._wait_seconds)
        except JupyterMcpError as error:
            return _said(str(error), is_error=True)
        if runs:
            return _said(f"The server of {self._place.user} runs.")
        return _said(f"The server of {self._place.user} is still starting; {_START} again waits on.")


def create_learner_mcp(learners: Learners, user: str, wait_seconds: float) -> JupyterMcp:
    """The MCP server of a user's server."""
    return completed(LearnerMcp(LearnerPlace(learners, user), wait_seconds))


def _person(request: Any) -> Person | None:
    carried = None if request is None else request.request
    scope = getattr(carried, "scope", None)
    return scope.get(PERSON) if isinstance(scope, Mapping) else None


def _said(text: str, *, is_error: bool = False) -> T.CallToolResult:
    return T.CallToolResult(content=[T.TextContent(type="text", text=text)], is_error=is_error)
