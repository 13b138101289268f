"""Pure: a notebook as Jupyter's REST API shows it, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import notebooks
from ...errors import InvalidNotebook, InvalidRequest

if TYPE_CHECKING:
    from nbformat import NotebookNode

_CONVERT = "Convert it first: jupyter nbconvert --to notebook --inplace FILE"


@dataclass(frozen=True, slots=True)
class Document:
    """A notebook as Jupyter has it.

    Attributes:
        version: see `contents_api.State`.
        untrusted: cells that Jupyter does not trust, with their outputs.
    """

    notebook: NotebookNode
    version: str
    size: int = 0
    untrusted: Mapping[str, Any] | None = None


def parse(content: Mapping[str, Any], previous: NotebookNode | None, version: str, size: int) -> Document:
    """What an answer holds. Cells that are as they were in `previous` are the same objects.

    Raises:
        InvalidNotebook
    """
    notebook = notebooks.node(content)
    notebooks.check_root(notebook)
    known: Sequence[NotebookNode] = () if previous is None else previous.cells
    cells = [notebooks.join_cell(cell) for cell in notebook.cells]
    trusted = [cell.metadata.get("trusted") is True for cell in cells]
    cells = [_without_trust(cell) for cell in cells]
    _identify(cells, known)
    before = {cell["id"]: cell for cell in known}
    cells = [before[cell["id"]] if before.get(cell["id"]) == cell else cell for cell in cells]
    notebook["cells"] = cells
    if previous is not None and previous.metadata == notebook.metadata:
        notebook["metadata"] = previous.metadata
    untrusted = {
        cell["id"]: cell.outputs
        for cell, is_trusted in zip(cells, trusted, strict=True)
        if cell.cell_type == "code" and not is_trusted and cell.outputs
    }
    return Document(notebook, version, size, untrusted)


def edited_copy(notebook: NotebookNode) -> NotebookNode:
    """What whoever edits a notebook is given: its cells are shared, its list of them and its metadata are not.

    Raises:
        InvalidNotebook: it can be read only.
    """
    require_editable(notebook)
    copy = notebooks.shallow(notebook, cells=list(notebook.cells))
    copy["metadata"] = notebooks.shallow(notebook.metadata)
    return copy


def settled(before: NotebookNode, copy: NotebookNode) -> NotebookNode:
    """What an edit has made of its copy.

    Raises:
        InvalidRequest, InvalidNotebook: Jupyter cannot write it.
    """
    after = notebooks.settle(copy, before.cells)
    require_whole(before, after)
    return after


def require_editable(notebook: NotebookNode) -> None:
    """Refuse what can be read only.

    Raises:
        InvalidNotebook
    """
    original = notebook.metadata.get("orig_nbformat", notebook.get("orig_nbformat", 4))
    if isinstance(original, int) and original < 4:
        raise InvalidNotebook(
            f"The notebook's file has the old format {original}: it can be read, but not edited.", hint=_CONVERT
        )


def _without_trust(cell: NotebookNode) -> NotebookNode:
    """Jupyter adds its trust to what it answers, and leaves it out of what it writes."""
    if "trusted" not in cell.metadata:
        return cell
    metadata = {key: value for key, value in cell.metadata.items() if key != "trusted"}
    return notebooks.shallow(cell, metadata=notebooks.shallow(metadata))


def _identify(cells: list[NotebookNode], known: Sequence[NotebookNode]) -> None:
    """Give each cell that has no id of its own one, the same as before if it can be told."""
    taken: set[str] = set()
    without: list[int] = []
    for index, cell in enumerate(cells):
        if not notebooks.valid_id(cell.get("id")) or cell["id"] in taken:
            without.append(index)
        else:
            taken.add(cell["id"])
    if not without:
        return
    origin = notebooks.align(known, cells)
    for index in without:
        at = origin[index]
        same = None if at is None else known[at]["id"]
        chosen = notebooks.new_id() if same is None or same in taken else same
        taken.add(chosen)
        cells[index] = notebooks.shallow(cells[index], id=chosen)


def render(document: Document, notebook: NotebookNode) -> dict[str, Any]:
    """What Jupyter is to write. What we ran counts as run by its user, as it does in JupyterLab."""
    content = {key: value for key, value in notebook.items() if key != "cells"}
    has_ids = notebook.get("nbformat_minor", 0) >= 5
    content["cells"] = [_rendered(document, cell, has_ids) for cell in notebook.cells]
    return content


def _rendered(document: Document, cell: NotebookNode, has_ids: bool) -> dict[str, Any]:
    rendered = dict(cell)
    if not has_ids:
        del rendered["id"]
    untrusted = document.untrusted or {}
    if cell.cell_type == "code" and untrusted.get(cell["id"], None) != cell.get("outputs"):
        rendered["metadata"] = {**cell.metadata, "trusted": True}
    return rendered


def require_whole(before: NotebookNode, after: NotebookNode) -> None:
    """Refuse sources and metadata that Jupyter cannot write.

    Raises:
        InvalidRequest: they hold half a character.
    """
    known = set(map(id, before.cells))
    changed = [(cell.source, cell.metadata) for cell in after.cells if id(cell) not in known]
    if after.metadata is not before.metadata:
        changed.append(("", after.metadata))
    try:
        json.dumps(changed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "Jupyter cannot write half a character (a lone surrogate).", hint="Write it as an escape: '\\ud800'."
        ) from error


def same(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks say the same; identical cells are not looked into."""
    if one is other:
        return True
    outside = [{k: v for k, v in each.items() if k != "cells"} for each in (one, other)]
    return outside[0] == outside[1] and one.cells == other.cells
