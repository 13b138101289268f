"""What a notebook is made of (nbformat 4): light checks that cost little, and text that stands as a list of lines."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ... import notebooks
from ...errors import InvalidNotebook
from .json_text import Path

if TYPE_CHECKING:
    from nbformat import NotebookNode

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_SPLIT_MIMES = ("application/javascript", "image/svg+xml")


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
    root.setdefault("metadata", notebooks.node({}))
    root.setdefault("nbformat_minor", 0)


_OTHER = "Name another file."
_REPAIR = "Repair it by hand, or restore it from a checkpoint or git."


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
    if output["output_type"] == "stream":
        return _is_text(output.get("text"))
    return isinstance(output.get("data", {}), dict)


def join_cell(cell: Mapping[str, Any]) -> NotebookNode:
    """The cell with its lists of lines joined; what the format demands is there, if empty. Values are shared."""
    joined = notebooks.shallow(cell)
    if isinstance(joined.source, list):
        joined["source"] = "".join(joined.source)
    if "metadata" not in joined:
        joined["metadata"] = notebooks.node({})
    if "attachments" in joined:
        joined["attachments"] = notebooks.node({k: _join_data(v) for k, v in joined.attachments.items()})
    if joined.cell_type == "code":
        joined["outputs"] = _join_outputs(joined.get("outputs", []))
        joined.setdefault("execution_count", None)
    return joined


def _join_outputs(outputs: list[Any]) -> list[NotebookNode]:
    joined = [_join_output(output) for output in outputs]
    return outputs if all(map(operator.is_, joined, outputs)) else joined


def _join_output(output: Mapping[str, Any]) -> NotebookNode:
    joined = output if isinstance(output, notebooks.node_type()) else notebooks.node(output)
    data, text = joined.get("data"), joined.get("text")
    if isinstance(text, list):
        joined = notebooks.shallow(joined, text="".join(text))
    if data and any(isinstance(value, list) for value in data.values()):
        joined = notebooks.shallow(joined, data=_join_data(data))
    return joined


def _join_data(data: Mapping[str, Any]) -> NotebookNode:
    return notebooks.shallow({mime: _join_mime(mime, value) for mime, value in data.items()})


def _join_mime(mime: str, value: Any) -> Any:
    if isinstance(value, list) and not _is_json_mime(mime) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _is_json_mime(mime: str) -> bool:
    return mime == "application/json" or (mime.startswith("application/") and mime.endswith("+json"))


def is_split(path: Path) -> bool:
    """Whether nbformat writes the string at this path of a cell as a list of lines."""
    if path == ("source",):
        return True
    if path[:1] == ("outputs",) and len(path) == 3:
        return path[2] == "text"
    if (path[:1] == ("outputs",) and len(path) == 4 and path[2] == "data") or (
        path[:1] == ("attachments",) and len(path) == 3
    ):
        mime = str(path[-1])
        return mime.startswith("text/") or mime in _SPLIT_MIMES
    return False
