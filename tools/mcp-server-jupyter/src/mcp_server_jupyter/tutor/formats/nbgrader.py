"""Assignments of nbgrader, schema 3 (nbgrader docs, "Creating and grading assignments"). A notebook is one task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..template import TEXT_PLACEHOLDER, Check, Part, RefusedTemplate, Template, make_template
from .regions import Unbalanced, solved_by_learner, without

if TYPE_CHECKING:
    from nbformat import NotebookNode

SCHEMA = 3
HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
SCHEME = ("### BEGIN MARK SCHEME", "### END MARK SCHEME")
_AUTOTEST = re.compile(r"^\s*###\s*(HASHED\s+)?AUTOTEST\b", re.M)


def speaks(notebook: NotebookNode) -> bool:
    """Whether any cell says what nbgrader is to do with it."""
    return any(_said(cell) is not None for cell in notebook.cells)


def read(name: str, notebook: NotebookNode) -> Template:
    """Read an assignment's source version.

    Raises:
        RefusedTemplate
    """
    parts = []
    for at, cell in enumerate(notebook.cells):
        try:
            parts.append(_part(name, at, cell))
        except Unbalanced as error:
            raise RefusedTemplate(name, f"a region has no other end: {error}", cell=at) from error
    return make_template(name, notebook, "nbgrader", parts, [name.removesuffix(".ipynb")])


def _said(cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    said = cell["metadata"].get("nbgrader")
    return said if isinstance(said, Mapping) else None


def _part(name: str, at: int, cell: NotebookNode) -> Part:
    said = _said(cell)
    is_code, source = cell["cell_type"] == "code", cell["source"]
    if said is None:
        return Part(at, cell, "setup" if is_code else "text", (), source)
    if said.get("schema_version") != SCHEMA:
        reason = f"its nbgrader schema is {said.get('schema_version')}, not {SCHEMA}: run `nbgrader update`."
        raise RefusedTemplate(name, reason, cell=at)
    key = str(said.get("grade_id", ""))
    shown = without(without(source, *SCHEME, None)[0], *HIDDEN, None)[0]
    if said.get("solution"):
        shown = solved_by_learner(shown) if is_code else TEXT_PLACEHOLDER
        return Part(at, cell, "solution", (), shown, key=key)
    if said.get("grade") and is_code:
        return Part(at, cell, "test", (), shown, (_check(name, at, cell, said),), key)
    return Part(at, cell, "setup" if is_code else "text", (), shown, key=key)


def _check(name: str, at: int, cell: NotebookNode, said: Mapping[str, Any]) -> Check:
    points = said.get("points", 0)
    if _AUTOTEST.search(cell["source"]):
        reason = "its tests are still to be made by nbgrader (### AUTOTEST): as it stands, anything would pass."
        raise RefusedTemplate(name, reason, cell=at)
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 <= points < 1e6:
        raise RefusedTemplate(name, f"points cannot be {points!r}.", cell=at)
    return Check(str(said.get("grade_id", f"cell {at}")), ((cell["source"], None),), float(points), "", at)
