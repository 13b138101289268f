"""Resources: notebooks by path, the outputs of a cell, and the whole output of an execution, by handle."""

from __future__ import annotations

import anyio.to_thread
import mcp.types as T

from ...errors import JupyterMcpError, NotFound
from ...notebooks import exceeds, find_cell
from ...operations import Answers, Caller
from ...operations.bind import invoke
from ...operations.uris import NotebookHandle, OutputHandle, cell_uri, notebook_uri, output_uri, quote_path
from ...outputs import slice_text
from ...places import Here
from ...ports import Entry
from ...services import Services

MAX_NOTEBOOK_CHARS = 1_000_000
NOTEBOOK_TYPE = "application/x-ipynb+json"
TEXT_TYPE = "text/plain"
_MAX_COMPLETIONS = 100

TEMPLATES = (
    T.ResourceTemplate(
        uri_template="notebook://{+path}",
        name="notebook",
        title="Notebook",
        description="A notebook as nbformat JSON; over 1 MB, its outline.",
        mime_type=NOTEBOOK_TYPE,
    ),
    T.ResourceTemplate(
        uri_template="notebook://{+path}{?cell,cursor}",
        name="cell_outputs",
        title="Outputs of a cell",
        description="The text a cell has put out, page by page; the last line of a page is the URI of the next.",
        mime_type=TEXT_TYPE,
    ),
    T.ResourceTemplate(
        uri_template="output://{execution_id}",
        name="output",
        title="Output of an execution",
        description="The first page of an execution's text and the URI of the next.",
        mime_type=TEXT_TYPE,
    ),
    T.ResourceTemplate(
        uri_template="output://{execution_id}/{cursor}",
        name="output_page",
        title="Output from a cursor",
        description="An execution's text from a cursor on.",
        mime_type=TEXT_TYPE,
    ),
)


def listed(entry: Entry) -> T.Resource:
    """A notebook as `resources/list` names it."""
    return T.Resource(uri=notebook_uri(entry.path), name=entry.path, mime_type=NOTEBOOK_TYPE, size=entry.size)


async def read(places: Here, handle: NotebookHandle | OutputHandle, caller: Caller) -> tuple[str, str]:
    """The text behind a handle, and its MIME type.

    Raises:
        JupyterMcpError
    """
    if isinstance(handle, OutputHandle):
        async with places.using({"execution_id": handle.execution_id}) as services:
            return await _output(services, handle, caller), TEXT_TYPE
    async with places.using() as services:
        if handle.cell is not None:
            return await _cell(services, handle, handle.cell, caller), TEXT_TYPE
        return await _notebook(services, handle.path, caller), NOTEBOOK_TYPE


async def _notebook(services: Services, path: str, caller: Caller) -> str:
    from nbformat import v4  # noqa: PLC0415 - 0.1 s, and only this resource writes whole notebooks

    node = await services.contents.read(path)
    if not exceeds(node, MAX_NOTEBOOK_CHARS):
        # Not `nbformat.writes`, which compiles a schema to validate: 10 MB, for a notebook that was read just now.
        return str(await anyio.to_thread.run_sync(v4.writes, node))
    answer = await invoke(services, "get_notebook_info", {"notebook_path": path}, caller=caller)
    return f"Over {MAX_NOTEBOOK_CHARS} characters are too many for one resource; the outline:\n{answer.text}"


async def _cell(services: Services, handle: NotebookHandle, cell_id: str, caller: Caller) -> str:
    notebook = await services.contents.read(handle.path)
    cell = notebook.cells[find_cell(notebook, cell_id=cell_id)]
    limit = (caller.answers or Answers.of(services.settings)).max_chars
    outputs = list(cell.get("outputs", ()))
    text, following = await anyio.to_thread.run_sync(slice_text, outputs, handle.cursor, limit)
    return text if following is None else f"{text}\n{cell_uri(handle.path, cell_id, following)}"


async def _output(services: Services, handle: OutputHandle, caller: Caller) -> str:
    arguments = {"execution_id": handle.execution_id, "cursor": handle.cursor}
    answer = await invoke(services, "get_execution", arguments, caller=caller)
    following = answer.data.get("next_cursor")
    return answer.text if following is None else f"{answer.text}\n{output_uri(handle.execution_id, following)}"


async def complete(
    services: Services, ref: T.PromptReference | T.ResourceTemplateReference, argument: T.CompletionArgument
) -> T.Completion | None:
    """Notebooks whose path begins with what was typed: as a URI spells it for a template, as it is for a prompt."""
    if argument.name not in ("path", "notebook_path"):
        return None
    entries = await services.contents.list("", recursive=True)
    in_uri = isinstance(ref, T.ResourceTemplateReference)
    spelled = [(e.path, quote_path(e.path) if in_uri else e.path) for e in entries if e.kind == "notebook"]
    found = [text for path, text in spelled if path.startswith(argument.value) or text.startswith(argument.value)]
    return T.Completion(values=found[:_MAX_COMPLETIONS], total=len(found), has_more=len(found) > _MAX_COMPLETIONS)


def failed(error: JupyterMcpError) -> int:
    """The JSON-RPC code of a reading that failed."""
    return T.INTERNAL_ERROR if error.http_status >= 500 and not isinstance(error, NotFound) else T.INVALID_PARAMS
