"""What is sent to be run: a notebook by itself, with parameters, or wrapped as n8n wraps it; made whole or refused."""

from __future__ import annotations

import hashlib
import json
import keyword
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidNotebook
from ..notebooks import check_root, is_skipped, join_cell, kernelspec_name, language, new_id, node, valid_id
from .failures import refuse

if TYPE_CHECKING:
    from nbformat import NotebookNode

_WRAPPERS = ("json", "body")
_DEEPEST_WRAP = 4


@dataclass(frozen=True, slots=True)
class Sent:
    """A notebook of format 4.5 without outputs, and the values of its parameters."""

    notebook: NotebookNode
    parameters: dict[str, Any]

    @property
    def digest(self) -> str:
        """What tells two requests apart: ids that were made up here do not."""
        cells = [(*kind_and_source(cell), cell["metadata"]) for cell in self.notebook.cells]
        text = json.dumps([cells, self.notebook.metadata, self.parameters], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_run(cell: NotebookNode) -> bool:
    """Whether a run executes the cell."""
    return cell.cell_type == "code" and bool(cell.source.strip()) and not is_skipped(cell)


def kind_and_source(cell: NotebookNode) -> tuple[str, str]:
    """What makes a cell the same as another."""
    return cell.cell_type, cell.source


def read_payload(body: Any) -> Sent:
    """The notebook and parameters of a request's JSON.

    Raises:
        Refused: invalid_notebook or invalid_parameters.
    """
    found = _unwrapped(body)
    parameters = found.get("parameters", {}) if "notebook" in found else {}
    notebook = found.get("notebook", found)
    if isinstance(notebook, str):
        try:
            notebook = json.loads(notebook)
        except (ValueError, RecursionError) as error:
            raise refuse("invalid_notebook", "The notebook is a text that is not JSON.") from error
    return Sent(whole(notebook), checked_parameters(parameters))


def _unwrapped(body: Any) -> dict[str, Any]:
    for _ in range(_DEEPEST_WRAP):
        if isinstance(body, list):
            if len(body) != 1:
                raise refuse("invalid_notebook", f"One notebook a request: the list has {len(body)} items.")
            body = body[0]
        elif isinstance(body, dict) and "notebook" not in body and "cells" not in body:
            inner = next((body[name] for name in _WRAPPERS if isinstance(body.get(name), dict | list)), None)
            if inner is None:
                break
            body = inner
        else:
            break
    if not isinstance(body, dict) or not ("notebook" in body or "cells" in body):
        raise refuse(
            "invalid_notebook",
            'There is no notebook in the request. Send {"notebook": {"cells": [...]}} or a notebook.',
        )
    return body


def checked_parameters(parameters: Any) -> dict[str, Any]:
    """The values of parameters.

    Raises:
        Refused: invalid_parameters.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise refuse("invalid_parameters", "parameters must be an object of names and values.")
    for name in parameters:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise refuse("invalid_parameters", f"{name!r} is not a Python name.")
    return parameters


def whole(notebook: Any) -> NotebookNode:
    """A notebook of format 4.5 with all that may be absent, and without outputs.

    Raises:
        Refused: invalid_notebook.
    """
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise refuse("invalid_notebook", "The notebook has no list of cells.")
    filled = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, **notebook}
    filled["cells"] = [_filled(cell) if isinstance(cell, dict) else cell for cell in filled["cells"]]
    try:
        made = node(filled)
        check_root(made)
        cells = [join_cell(cell) for cell in made.cells]
    except InvalidNotebook as error:
        raise refuse("invalid_notebook", error.message) from error
    taken: set[str] = set()
    for cell in cells:
        if not valid_id(cell.get("id")) or cell["id"] in taken:
            cell["id"] = new_id()
        taken.add(cell["id"])
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        else:
            for name in ("outputs", "execution_count"):
                cell.pop(name, None)
    made["cells"], made["nbformat_minor"] = cells, max(5, made["nbformat_minor"])
    return made


def _filled(cell: dict[str, Any]) -> dict[str, Any]:
    filled = {"cell_type": "code", "source": "", "metadata": {}, **cell}
    # Outputs that were sent are not kept: whether they are well-formed does not matter.
    filled.pop("outputs", None)
    filled.pop("execution_count", None)
    return filled


def check_kernel(
    notebook: Mapping[str, Any], default: str, kernels: Collection[str], languages: Collection[str]
) -> str:
    """The kernelspec to run it with.

    Raises:
        Refused: invalid_kernel, where it or the language is not allowed.
    """
    name = kernelspec_name(notebook) or default
    if name not in kernels:
        raise refuse("invalid_kernel", f"The kernel {name!r} is not allowed. Allowed are: {', '.join(kernels)}.")
    spoken = language(notebook)
    if spoken is not None and spoken.lower() not in {each.lower() for each in languages}:
        raise refuse("invalid_kernel", f"The language {spoken!r} is not allowed. Allowed are: {', '.join(languages)}.")
    return name
