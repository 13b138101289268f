"""What a notebook is made of (nbformat 4): light checks that cost little, text that stands as a list of lines, ids."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidNotebook, InvalidRequest
from .nodes import new_id, node, node_type, shallow

if TYPE_CHECKING:
    from nbformat import NotebookNode

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")


def valid_id(value: object) -> bool:
    """Whether a value can be a cell's id (nbformat 4.5 schema)."""
    return isinstance(value, str) and _ID.match(value) is not None


def check_root(root: NotebookNode) -> None:
    """Check the whole notebook, and add what may be absent without harm.

    Raises:
        InvalidNotebook: names the first part that is not as it must be.
    """
    version, minor = root.get("nbformat"), root.get("nbformat_minor", 0)
    if type(version) is not int or type(minor) is not int or not isinstance(root.get("cells"), list):
        raise InvalidNotebook("The file is JSON, but not a notebook: nbformat or cells are missing.", hint=_OTHER)
    if version != 4:
        raise InvalidNotebook(f"The notebook's format {version} is not known.", hint="Formats 3 and 4 are.")
    if not isinstance(root.get("metadata", {}), dict):
        raise InvalidNotebook("The notebook's metadata are not an object.", hint=_REPAIR)
    for at, cell in enumerate(root["cells"]):
        check_cell(cell, at)
    root.setdefault("metadata", node({}))
    root.setdefault("nbformat_minor", 0)


_OTHER = "Name another file."
_REPAIR = "Repair it by hand, or restore it from a checkpoint or git."


MAX_LEVELS = 220
"""A kernel's JSON is taken up to 200 levels. Much that walks notebooks takes two frames of Python a level."""


def check_levels(value: Any) -> None:
    """Check that lists and objects do not stand in each other too deeply: over `MAX_LEVELS`.

    Raises:
        InvalidNotebook
    """
    level = [value]
    for _ in range(MAX_LEVELS + 1):
        inner = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return
    raise InvalidNotebook(f"The file's JSON is nested too deeply, over {MAX_LEVELS} levels.", hint=_REPAIR)


def check_cell(cell: Any, at: int | None = None) -> None:
    """Check one cell.

    Raises:
        InvalidNotebook
    """
    where = "The cell" if at is None else f"Cell {at}"
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        raise InvalidNotebook(f"{where} is not an object with a cell_type.", hint=_REPAIR)
    if not _is_text(cell.get("source")):
        raise InvalidNotebook(f"{where} has no source.", hint=_REPAIR)
    if not isinstance(cell.get("metadata", {}), dict):
        raise InvalidNotebook(f"{where} has metadata that are not an object.", hint=_REPAIR)
    attachments = cell.get("attachments", {})
    if not isinstance(attachments, dict) or not all(isinstance(value, dict) for value in attachments.values()):
        raise InvalidNotebook(f"{where} has attachments that are not objects.", hint=_REPAIR)
    if cell["cell_type"] != "code":
        return
    outputs, count = cell.get("outputs", []), cell.get("execution_count")
    if not isinstance(outputs, list) or not all(map(_is_output, outputs)):
        raise InvalidNotebook(f"{where} has outputs that are none.", hint=_REPAIR)
    if count is not None and type(count) is not int:
        raise InvalidNotebook(f"{where} has an execution_count that is no number.", hint=_REPAIR)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def _is_output(output: object) -> bool:
    if not isinstance(output, dict) or not isinstance(output.get("output_type"), str):
        return False
    kind = output["output_type"]
    if kind == "stream":
        return _is_text(output.get("text")) and isinstance(output.get("name", ""), str)
    if kind == "error":
        names = isinstance(output.get("ename", ""), str) and isinstance(output.get("evalue", ""), str)
        return names and isinstance(output.get("traceback", []), list) and _is_text(output.get("traceback", []))
    return isinstance(output.get("data", {}), dict) and isinstance(output.get("metadata", {}), dict)


def join_cell(cell: Mapping[str, Any]) -> NotebookNode:
    """The cell with its lists of lines joined; what the format demands is there, if empty. Values are shared."""
    joined = shallow(cell)
    if isinstance(joined.source, list):
        joined["source"] = "".join(joined.source)
    if "metadata" not in joined:
        joined["metadata"] = node({})
    if "attachments" in joined:
        joined["attachments"] = node({k: _join_data(v) for k, v in joined.attachments.items()})
    if joined.cell_type == "code":
        joined["outputs"] = _join_outputs(joined.get("outputs", []))
        joined.setdefault("execution_count", None)
    return joined


def _join_outputs(outputs: list[Any]) -> list[NotebookNode]:
    joined = [_join_output(output) for output in outputs]
    return outputs if all(map(operator.is_, joined, outputs)) else joined


def _join_output(output: Mapping[str, Any]) -> NotebookNode:
    joined = output if isinstance(output, node_type()) else node(output)
    data, text = joined.get("data"), joined.get("text")
    if isinstance(text, list):
        joined = shallow(joined, text="".join(text))
    if data and any(isinstance(value, list) for value in data.values()):
        joined = shallow(joined, data=_join_data(data))
    return joined


def _join_data(data: Mapping[str, Any]) -> NotebookNode:
    return shallow({mime: _join_mime(mime, value) for mime, value in data.items()})


def _join_mime(mime: str, value: Any) -> Any:
    if isinstance(value, list) and not _is_json_mime(mime) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _is_json_mime(mime: str) -> bool:
    return mime == "application/json" or (mime.startswith("application/") and mime.endswith("+json"))


def settle(notebook: NotebookNode, known: Iterable[NotebookNode]) -> NotebookNode:
    """What an edit left, checked and with an id for every cell.

    Args:
        known: the cells before the edit, which need no check.

    Raises:
        InvalidRequest: a cell that is none.
    """
    trusted = set(map(id, known))
    cells = [cell if id(cell) in trusted else _settle_cell(cell) for cell in notebook.cells]
    if len({cell["id"] for cell in cells}) < len(cells):
        taken: set[str] = set()
        for at, cell in enumerate(cells):
            if cell["id"] in taken:
                cells[at] = shallow(cell, id=new_id())
            taken.add(cells[at]["id"])
    return shallow(notebook, cells=cells)


def _settle_cell(cell: Any) -> NotebookNode:
    try:
        check_cell(cell)
    except InvalidNotebook as error:
        raise InvalidRequest(f"That is not a cell: {error.message}", hint=error.hint) from error
    settled = join_cell(cell)
    return settled if valid_id(settled.get("id")) else shallow(settled, id=new_id())
