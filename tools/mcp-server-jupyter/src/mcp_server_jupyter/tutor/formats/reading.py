"""Reading one template from its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...notebooks import node
from ..template import RefusedTemplate, Template, unique
from . import nbgrader, otter, tagged

if TYPE_CHECKING:
    from nbformat import NotebookNode


def load_template(path: Path) -> Template:
    """Read a template, in whichever format it is. Blocking, for threads.

    Raises:
        RefusedTemplate: it is none that can be used; it has not been checked against its own solution yet.
    """
    notebook = _read(path)
    if nbgrader.speaks(notebook):
        return nbgrader.read(path.name, notebook)
    if otter.speaks(notebook, path):
        return otter.read(path.name, notebook, path.parent)
    return tagged.read(path.name, notebook)


def _read(path: Path) -> NotebookNode:
    import nbformat  # noqa: PLC0415  (100 ms that a server without tasks spares)

    try:
        raw = json.loads(path.read_bytes())
        version = raw["nbformat"]
        notebook = node(raw)
        if version != 4:
            raise RefusedTemplate(path.name, f"it is nbformat {version}; save it as nbformat 4.")
        _join(notebook)
        unique(path.name, enumerate(cell["id"] for cell in notebook["cells"]))
        nbformat.validate(notebook, relax_add_props=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        raise RefusedTemplate(path.name, f"it is no notebook ({reason}).") from error
    return notebook


def _join(notebook: Any) -> None:
    for at, cell in enumerate(notebook["cells"]):
        if isinstance(cell["source"], list):
            cell["source"] = "".join(cell["source"])
        if notebook.get("nbformat_minor", 0) < 5:
            # The format has no ids then; these stay the same as long as the file does.
            cell["id"] = f"cell-{at}"
        if not isinstance(cell.setdefault("metadata", {}), Mapping):
            raise TypeError("metadata")
    notebook["nbformat_minor"] = max(5, notebook.get("nbformat_minor", 0))
