"""The tutor's tools over the Model Context Protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

import mcp.types as T
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from starlette.requests import Request

from ... import __version__
from ...errors import JupyterMcpError, NotAllowed
from ...operations.bind import input_schema
from ...tutor.service import Tutor
from .operations import OPERATIONS, Allow, invoke

INSTRUCTIONS = """Give learners tasks and check their work.
- list_tasks names the tasks; deploy_task gives one to a learner; check_task checks what the learner has written so far.
- Checks are blind: you are told states, points and the instructor's messages, never tests or expected values.
- check_task answers within its wait; while state is queued or running, call it again."""


class TutorMcp(MCPServer[Any]):
    """An MCP server whose tools are the tutor's. Made by `create_tutor_mcp`."""

    def __init__(self, tutor: Tutor, allow: Allow) -> None:
        self._tutor, self._allow = tutor, allow
        super().__init__(
            "mcp-server-jupyter-tutor", title="Tutor", version=__version__, instructions=INSTRUCTIONS, log_level="ERROR"
        )

    async def list_tools(self) -> list[T.Tool]:
        return [
            T.Tool(
                name=each.name,
                title=each.title,
                description=each.doc,
                input_schema=input_schema(each),
                annotations=T.ToolAnnotations(read_only_hint=each.read_only, destructive_hint=False),
            )
            for each in OPERATIONS.values()
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> T.CallToolResult | T.InputRequiredResult:
        """Answer a call; an unknown tool is a protocol error (-32602), what the model can mend an `is_error` result."""
        if name not in OPERATIONS:
            raise MCPError(code=T.INVALID_PARAMS, message=f"Unknown tool: {name}")
        request = None if context is None else context.request_context.request
        try:
            if not isinstance(request, Request):
                raise NotAllowed("The tutor is served over HTTP.")
            answer = await invoke(self._tutor, name, arguments, partial(self._allow, request))
        except JupyterMcpError as error:
            return T.CallToolResult(content=[T.TextContent(type="text", text=str(error))], is_error=True)
        return T.CallToolResult(
            content=[T.TextContent(type="text", text=answer.text)], structured_content=answer.data, is_error=False
        )


def create_tutor_mcp(tutor: Tutor, allow: Allow) -> TutorMcp:
    """The MCP server of a tutor, to be served over HTTP: `allow` is asked about the request of each call."""
    return TutorMcp(tutor, allow)
