"""The MCP server of one user's server at a hub, and the tool that starts it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mcp.types as T
from mcp import MCPError
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from pydantic import AnyUrl

from ...errors import JupyterMcpError
from ...events import Events
from ...hub import Extension, Learners, Person, Refused
from ...operations import Caller
from ...operations.bind import require_offered, resolve
from ...operations.uris import parse_handle
from ...services import Services
from ..mcp.resources import failed
from ..mcp.sdk_compat import caller_cancelled, caller_of
from ..mcp.server import JupyterMcp, completed, progress_of

PERSON = "mcp_server_jupyter.person"
"""Where a request's scope says who sent it."""
READER = "resource"
"""Who reads resources, for the extension: nothing of a reader is kept."""
_START = "start_server"
_START_DOC = "Starts the user's Jupyter server, and waits for it."


class LearnerPlace:
    """One user's place as a door sees it; see `places.Here`."""

    def __init__(self, learners: Learners, user: str) -> None:
        self.user = user
        self.learners = learners
        self.events: Events = learners.events(user)
        self.settings = learners.settings

    @asynccontextmanager
    async def using(self, arguments: object = None) -> AsyncIterator[Services]:
        """See `places.Here.using`."""
        async with self.learners.using(self.user) as services:
            yield services


class LearnerMcp(JupyterMcp):
    """The tools of notebooks, in one user's server, and `start_server`.

    Where that server has our extension, it is the one that works: calls are passed on to it.
    """

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

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> T.CallToolResult | T.InputRequiredResult:
        """See `JupyterMcp.call_tool`."""
        if (operation := resolve(name)) is not None:
            try:
                require_offered(operation, self._place.settings)
                async with self._place.learners.extension(self._place.user) as extension:
                    if extension is not None:
                        return await self._passed_on(extension, name, arguments, context)
            except JupyterMcpError as error:
                return _said(str(error), is_error=True)
        return await super().call_tool(name, arguments, context)

    async def _passed_on(
        self, extension: Extension, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None
    ) -> T.CallToolResult:
        request = None if context is None else context.request_context
        try:
            result = await extension.request(
                self.caller(request).author,
                "tools/call",
                {"name": name, "arguments": arguments},
                progress=None if context is None else progress_of(context),
                cancelled_by_caller=lambda: caller_cancelled(request),
            )
        except Refused as error:
            raise MCPError(code=error.code, message=error.message, data=error.data) from error
        return T.CallToolResult.model_validate(result)

    async def list_resources(self) -> list[T.Resource]:
        """See `JupyterMcp.list_resources`."""
        result = await self._asked("resources/list", {})
        if result is None:
            return await super().list_resources()
        return T.ListResourcesResult.model_validate(result).resources

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | T.InputRequiredResult:
        """See `JupyterMcp.read_resource`. What a handle names is text."""
        result = None if _handle(uri) is None else await self._asked("resources/read", {"uri": str(uri)})
        if result is None:
            return await super().read_resource(uri, context)
        contents = T.ReadResourceResult.model_validate(result).contents
        return [
            ReadResourceContents(content=each.text, mime_type=each.mime_type)
            for each in contents
            if isinstance(each, T.TextResourceContents)
        ]

    async def notebooks_like(
        self, ref: T.PromptReference | T.ResourceTemplateReference, argument: T.CompletionArgument
    ) -> T.Completion | None:
        """See `JupyterMcp.notebooks_like`."""
        params = {"ref": ref.model_dump(mode="json", by_alias=True), "argument": argument.model_dump(mode="json")}
        result = await self._asked("completion/complete", params)
        if result is None:
            return await super().notebooks_like(ref, argument)
        return T.CompleteResult.model_validate(result).completion

    async def _asked(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """What the extension answers, None where there is none."""
        try:
            async with self._place.learners.extension(self._place.user) as extension:
                return None if extension is None else await extension.request(READER, method, params)
        except Refused as error:
            raise MCPError(code=error.code, message=error.message, data=error.data) from error
        except JupyterMcpError as error:
            raise MCPError(code=failed(error), message=str(error)) from error

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


def _handle(uri: AnyUrl | str) -> object | None:
    try:
        return parse_handle(str(uri))
    except JupyterMcpError:
        # Whoever reads it refuses it in words.
        return None


def _person(request: Any) -> Person | None:
    carried = None if request is None else request.request
    scope = getattr(carried, "scope", None)
    return scope.get(PERSON) if isinstance(scope, Mapping) else None


def _said(text: str, *, is_error: bool = False) -> T.CallToolResult:
    return T.CallToolResult(content=[T.TextContent(type="text", text=text)], is_error=is_error)
