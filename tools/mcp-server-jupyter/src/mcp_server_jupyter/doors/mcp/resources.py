"""Resources: notebooks by path, and the whole output of an execution by handle."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import mcp.types as T
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from ...errors import JupyterMcpError, NotFound
from ...notebooks import exceeds
from ...operations import Caller
from ...operations.bind import invoke
from ...services import Services

MAX_NOTEBOOK_CHARS = 1_000_000


def register(server: MCPServer[Any], services: Services) -> None:
    """Add the resource templates, the list of notebooks and the completion of paths to a server."""

    @server.resource("notebook://{+path}", title="Notebook", mime_type="application/x-ipynb+json")
    async def notebook(path: str) -> str:
        """A notebook as nbformat JSON; over 1 MB, its outline."""
        return await _or_resource_error(_notebook(services, path))

    @server.resource("output://{execution_id}", title="Output of an execution", mime_type="text/plain")
    async def output(execution_id: str) -> str:
        """The first page of an execution's text and the cursor of the next."""
        return await _or_resource_error(_output(services, execution_id, 0))

    @server.resource("output://{execution_id}/{cursor}", title="Output from a cursor", mime_type="text/plain")
    async def output_page(execution_id: str, cursor: int) -> str:
        """An execution's text from a cursor on."""
        return await _or_resource_error(_output(services, execution_id, cursor))

    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(
        ref: T.PromptReference | T.ResourceTemplateReference,
        argument: T.CompletionArgument,
        context: T.CompletionContext | None,
    ) -> T.Completion | None:
        if argument.name not in ("path", "notebook_path"):
            return None
        entries = await services.contents.list("", recursive=True)
        paths = [e.path for e in entries if e.kind == "notebook" and e.path.startswith(argument.value)]
        return T.Completion(values=paths[:100], total=len(paths), has_more=len(paths) > 100)


async def _notebook(services: Services, path: str) -> str:
    node = await services.contents.read(path)
    if not exceeds(node, MAX_NOTEBOOK_CHARS):
        text = await anyio.to_thread.run_sync(_write, node)
        if len(text) <= MAX_NOTEBOOK_CHARS:
            return text
    answer = await invoke(services, "get_notebook_info", {"notebook_path": path}, caller=Caller("resource"))
    return f"More than {MAX_NOTEBOOK_CHARS:,} characters are too many for one resource; the outline:\n{answer.text}"


def _write(node: Any) -> str:
    import nbformat  # noqa: PLC0415 - half of the start-up time, and only this resource writes whole notebooks

    return str(nbformat.writes(node))  # type: ignore[no-untyped-call]


async def _output(services: Services, execution_id: str, cursor: int) -> str:
    answer = await invoke(
        services, "get_execution", {"execution_id": execution_id, "cursor": cursor}, caller=Caller("resource")
    )
    following = answer.data.get("next_cursor")
    return f"{answer.text}\noutput://{execution_id}/{following}" if following is not None else answer.text


async def _or_resource_error(reading: Any) -> str:
    try:
        text: str = await reading
    except NotFound as error:
        raise ResourceNotFoundError(str(error)) from error
    except JupyterMcpError as error:
        raise ResourceError(str(error)) from error
    return text
