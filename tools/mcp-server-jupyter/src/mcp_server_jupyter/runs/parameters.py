"""Parameters as papermill has them: a cell after the one tagged `parameters`, or at the top.

Source: papermill's documentation, "Parameterize".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Unsupported
from ..notebooks import language as language_of
from ..notebooks import new_cell
from ..notebooks.metadata import tags

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAG, INJECTED = "parameters", "injected-parameters"


def inject(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Put the parameters into a notebook: in the place of an earlier injected cell, where there is one.

    Raises:
        Unsupported: the notebook's language is not Python.
    """
    language = language_of(notebook) or "python"
    if language != "python":
        raise Unsupported(f"Parameters are written in Python; this is a {language} notebook.")
    source = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())])
    cell = new_cell("code", source)
    cell["metadata"]["tags"] = [INJECTED]
    found = [tags(other) for other in notebook.cells]
    for index, names in enumerate(found):
        if INJECTED in names:
            notebook.cells[index] = cell
            return
    after = next((index + 1 for index, names in enumerate(found) if TAG in names), 0)
    notebook.cells.insert(after, cell)


def undeclared(notebook: NotebookNode, parameters: Mapping[str, Any]) -> list[str]:
    """The parameters that the notebook does not declare: mostly slips of the pen. None where it declares none."""
    declaring = [cell.source for cell in notebook.cells if cell.cell_type == "code" and TAG in tags(cell)]
    if not declaring:
        return []
    known = {name for source in declaring for name in _assigned(source)}
    return [name for name in parameters if name not in known]


def _assigned(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
