"""Cells as they are in a Y document (the schema of jupyter-ydoc), and back; each change as small as it can be.

What is written anew in a Y document is kept for ever beside what it replaces, so that outputs are appended to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .... import notebooks
from .texts import splices

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from pycrdt import Map, Text

_OWN = ("id", "cell_type", "source", "metadata", "outputs", "execution_count", "execution_state")


def plain(value: Any) -> Any:
    """A value of Y as JSON has it: there every number is a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: plain(below) for key, below in value.items()}
    return [plain(below) for below in value] if isinstance(value, list | tuple) else value


def read_cell(ycell: Map[Any]) -> NotebookNode:
    """A cell of the notebook. Outputs may be Y values or plain ones.

    Raises:
        InvalidNotebook: it is no cell.
    """
    value = plain(ycell.to_py())
    value.pop("execution_state", None)
    metadata = value.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("trusted", None)
    if value.get("cell_type") != "code":
        for key in ("outputs", "execution_count"):
            value.pop(key, None)
        if not value.get("attachments"):
            value.pop("attachments", None)
    cell = notebooks.node(value)
    notebooks.check_cell(cell)
    return notebooks.join_cell(cell)


def make_cell(cell: NotebookNode) -> Map[Any]:
    """A new cell for a Y document. What we made counts as made by its user."""
    from pycrdt import Array, Map, Text  # noqa: PLC0415  (an extra)

    value = {key: below for key, below in cell.items() if key not in ("source", "metadata", "outputs")}
    value["source"] = Text(cell.source)
    value["metadata"] = Map(dict(cell.metadata))
    if cell.cell_type == "code":
        value["metadata"] = Map({**cell.metadata, "trusted": True})
        value["outputs"] = Array([make_output(output) for output in cell.outputs])
        value["execution_state"] = "idle"
    return Map(value)


def make_output(output: Mapping[str, Any]) -> Map[Any]:
    """A new output; the text of a stream is one that can grow."""
    from pycrdt import Map, Text  # noqa: PLC0415

    value = dict(output)
    if value.get("output_type") == "stream":
        value["text"] = Text(value.get("text", ""))
    return Map(value)


def change_cell(ycell: Map[Any], before: NotebookNode, after: NotebookNode) -> None:
    """Change a cell of the same type; within a transaction."""
    if before.source != after.source:
        change_text(ycell["source"], before.source, after.source)
    if before.metadata != after.metadata:
        _change_metadata(ycell, before.metadata, after.metadata)
    if after.cell_type == "code":
        if before.outputs is not after.outputs and before.outputs != after.outputs:
            _change_outputs(ycell, before.outputs, after.outputs)
        if before.get("execution_count") != after.get("execution_count"):
            ycell["execution_count"] = after.get("execution_count")
    for key in {**before, **after}:
        if key in _OWN or before.get(key) == after.get(key):
            continue
        if key in after:
            ycell[key] = after[key]
        elif key in ycell:
            del ycell[key]


def change_text(text: Text, before: str, after: str) -> None:
    """Splice a text; Y counts in bytes of UTF-8."""
    for change in reversed(splices(before, after)):
        start = len(before[: change.start].encode())
        end = start + len(before[change.start : change.end].encode())
        if end > start:
            del text[start:end]
        if change.text:
            text.insert(start, change.text)


def change_map(ymap: Map[Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Set what differs."""
    for key in {**before, **after}:
        if key in after:
            if key not in before or before[key] != after[key]:
                ymap[key] = after[key]
        elif key in ymap:
            del ymap[key]


def _change_metadata(ycell: Map[Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    from pycrdt import Map  # noqa: PLC0415

    there = ycell.get("metadata")
    if isinstance(there, Map):
        change_map(there, before, after)
    else:
        ycell["metadata"] = Map(dict(after))


def _change_outputs(ycell: Map[Any], before: list[Any], after: list[Any]) -> None:
    """Keep what is there as far as it is the same; a stream that has grown grows."""
    from pycrdt import Array, Map  # noqa: PLC0415

    there = ycell.get("outputs")
    if not isinstance(there, Array):
        ycell["outputs"] = Array([make_output(output) for output in after])
    else:
        kept = 0
        for old, new in zip(before, after, strict=False):
            if old is not new and old != new and not _grown(there[kept], old, new):
                break
            kept += 1
        if len(there) > kept:
            del there[kept:]
        for output in after[kept:]:
            there.append(make_output(output))
    metadata = ycell.get("metadata")
    if after and isinstance(metadata, Map) and metadata.get("trusted") is not True:
        # As Jupyter's own front ends do for what has run.
        metadata["trusted"] = True


def _grown(youtput: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Change the text of a stream in place, if that is all that differs."""
    from pycrdt import Map, Text  # noqa: PLC0415

    if old.get("output_type") != "stream" or {**old, "text": ""} != {**new, "text": ""}:
        return False
    text = youtput.get("text") if isinstance(youtput, Map) else None
    if not isinstance(text, Text):
        return False
    if new["text"].startswith(old["text"]):
        text += new["text"][len(old["text"]) :]
    else:
        change_text(text, old["text"], new["text"])
    return True
