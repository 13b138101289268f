"""The Model Context Protocol door, over the official SDK. Both eras of the protocol, any transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp.types as T
from mcp import MCPError
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import UnexpectedToolError
from pydantic import AnyUrl

from ... import __version__
from ...errors import JupyterMcpError
from ...operations import Answer, Caller, Operation, offered
from ...operations.bind import input_schema, invoke, resolve
from ...operations.call import Progress
from ...operations.uris import parse_handle
from ...places import Here
from . import prompts, resources
from .printable import escape_surrogates, printable
from .sdk_compat import caller_cancelled, caller_of
from .subscriptions import ChangeBus, Subscribers

INSTRUCTIONS = """Work in Jupyter notebooks on live kernels; people see the same notebooks and kernels.
- notebook_path is optional: absent, the default notebook. A cell is named by cell_index or cell_id (ids are stable, \
indexes shift).
- Start with get_notebook_info (outline, kernel state), then read_cell or read_all_cells.
- Running tools answer when the cell is done or after their wait (45 s), then with an execution_id: \
get_execution(execution_id, wait_seconds) goes on. Waiting never stops a cell; interrupt_kernel does.
- Long output is cut in the middle; get_execution(execution_id, cursor=0) pages through all of it.
- Edits: pass expected_hash (the hash you read) so that a person's change is never overwritten; a Conflict shows the \
diff. undo takes back your last edit; each edit names what undoes it.
- epoch rises when a kernel is restarted: variables of earlier epochs are gone. A dead kernel is never replaced \
silently: restart_kernel, then rerun the cells it names.
- list_variables and inspect_variable look at data without running a cell."""


class JupyterMcp(MCPServer[dict[str, Any]]):
    """An MCP server whose tools are the operations. More tools, resources and prompts can be added as to any."""

    def __init__(self, places: Here) -> None:
        self.places = places
        super().__init__(
            "mcp-server-jupyter",
            title="Jupyter",
            version=__version__,
            instructions=INSTRUCTIONS,
            lifespan=_transport,
            subscriptions=ChangeBus(places.events),
            middleware=[escape_surrogates],
            log_level="ERROR",
            cache_hints={"tools/list": CacheHint(ttl_ms=3_600_000, scope="public")},
        )
        self.subscribers = Subscribers(self, places)

    def caller(self, request: Any) -> Caller:
        """Who calls by this request of the SDK's, None for nobody that is known."""
        return caller_of(request)

    async def list_tools(self) -> list[T.Tool]:
        return [_tool(operation) for operation in offered(self.places.settings)] + await super().list_tools()

    async def list_resources(self) -> list[T.Resource]:
        """Every notebook, the first 500 by path; beyond that, the template and its completion."""
        async with self.places.using() as services:
            entries = await services.contents.list("", recursive=True)
        notebooks = [entry for entry in entries if entry.kind == "notebook"][:500]
        return [resources.listed(entry) for entry in notebooks] + await super().list_resources()

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> T.CallToolResult | T.InputRequiredResult:
        """Answer a call; an unknown tool is a protocol error (-32602), what the model can mend an `is_error` result."""
        if resolve(name) is None:
            if not any(tool.name == name for tool in await super().list_tools()):
                raise MCPError(code=T.INVALID_PARAMS, message=f"Unknown tool: {name}")
            return await super().call_tool(name, arguments, context)
        request = None if context is None else context.request_context
        try:
            async with self.places.using(arguments) as services:
                answer = await invoke(
                    services,
                    name,
                    arguments,
                    caller=self.caller(request),
                    progress=None if context is None else progress_of(context),
                    cancelled_by_caller=lambda: caller_cancelled(request),
                )
        except JupyterMcpError as error:
            return T.CallToolResult(content=[T.TextContent(type="text", text=str(error))], is_error=True)
        except Exception as error:  # logged by the SDK, with its traceback; the client learns no more than this
            raise UnexpectedToolError(f"The tool {name} failed; the server's log says how.") from error
        return _result(answer)

    async def notebooks_like(
        self, ref: T.PromptReference | T.ResourceTemplateReference, argument: T.CompletionArgument
    ) -> T.Completion | None:
        """See `resources.complete`."""
        async with self.places.using() as services:
            return await resources.complete(services, ref, argument)

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> T.GetPromptResult | T.InputRequiredResult:
        """Render a prompt; what it does not know is a protocol error (-32602), as for tools."""
        prompt = next((prompt for prompt in await self.list_prompts() if prompt.name == name), None)
        if prompt is None:
            raise MCPError(code=T.INVALID_PARAMS, message=f"Unknown prompt: {name}")
        known = [argument.name for argument in prompt.arguments or ()]
        if unknown := sorted(set(arguments or ()) - set(known)):
            raise MCPError(code=T.INVALID_PARAMS, message=f"{name} has no {unknown[0]!r}; it takes {', '.join(known)}.")
        return await super().get_prompt(name, arguments, context)

    async def list_resource_templates(self) -> list[T.ResourceTemplate]:
        return [*resources.TEMPLATES, *await super().list_resource_templates()]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | T.InputRequiredResult:
        """Read what a handle names; any other URI is looked up among the resources that were added."""
        try:
            handle = parse_handle(str(uri))
            if handle is None:
                return await super().read_resource(uri, context)
            text, mime_type = await resources.read(self.places, handle, Caller("resource"))
        except JupyterMcpError as error:
            raise MCPError(code=resources.failed(error), message=str(error), data={"uri": str(uri)}) from error
        return [ReadResourceContents(content=text, mime_type=mime_type)]


def create_mcp(places: Here) -> JupyterMcp:
    """The MCP server of these places."""
    return completed(JupyterMcp(places))


def completed(server: JupyterMcp) -> JupyterMcp:
    """The same server with its prompts and completions."""
    prompts.register(server)

    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(
        ref: T.PromptReference | T.ResourceTemplateReference,
        argument: T.CompletionArgument,
        context: T.CompletionContext | None,
    ) -> T.Completion | None:
        return await server.notebooks_like(ref, argument)

    return server


@asynccontextmanager
async def _transport(server: MCPServer[Any]) -> AsyncIterator[dict[str, Any]]:
    """What lasts as long as a transport is served: the tasks of its connections."""
    async with anyio.create_task_group() as tasks:
        yield {"tasks": tasks}
        tasks.cancel_scope.cancel()


def _tool(operation: Operation) -> T.Tool:
    return T.Tool(
        name=operation.name,
        title=operation.title,
        description=operation.doc,
        input_schema=_without_limits(input_schema(operation)),
        annotations=_annotations(operation),
    )


def _without_limits(schema: dict[str, Any]) -> dict[str, Any]:
    """The limits of numbers are told by the refusal, to the few who need them; every client pays for the list."""
    limits = ("minimum", "maximum")
    properties = {
        name: {key: value for key, value in each.items() if key not in limits}
        for name, each in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _annotations(operation: Operation) -> T.ToolAnnotations:
    """The four hints; those equal to the specification's defaults (false, true, false, true) stay off the wire."""
    return T.ToolAnnotations(
        read_only_hint=operation.read_only or None,
        destructive_hint=None if operation.destructive or operation.read_only else False,
        idempotent_hint=(operation.idempotent and not operation.read_only) or None,
        open_world_hint=None if operation.open_world else False,
    )


def progress_of(context: Context[Any, Any]) -> Progress:
    """Tells the client of a call how far it is."""

    async def report(value: float, text: str) -> None:
        await context.report_progress(value, None, printable(text))

    return report


def _result(answer: Answer) -> T.CallToolResult:
    """Text first, then images, then handles. Small status as structured content, but never beside images: a client
    was seen to drop the images then."""
    content: list[T.ContentBlock] = [T.TextContent(type="text", text=answer.text)]
    content += [T.ImageContent(type="image", data=p.data, mime_type=p.mime_type) for p in answer.images]
    content += [
        T.ResourceLink(type="resource_link", uri=link.uri, name=link.name, mime_type="text/plain")
        for link in answer.links
    ]
    status = answer.data if "execution_id" in answer.data and not answer.images else None
    return T.CallToolResult(content=content, structured_content=_small(status), is_error=answer.is_error)


def _small(status: dict[str, Any] | None) -> dict[str, Any] | None:
    if status is None:
        return None
    return {key: value for key, value in status.items() if isinstance(value, str | int | float)}
