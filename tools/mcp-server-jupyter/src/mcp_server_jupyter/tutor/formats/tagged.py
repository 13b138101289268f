"""Our own format: cells say by tags what they are.

`task:ID` on every cell of a task; `setup` is run before it, in the template's wording; `solution` is what the learner
writes, all of it or what stands between `### BEGIN SOLUTION` and `### END SOLUTION`; `hidden-test` is a check. A code
cell with `task:ID` alone is the learner's as well. A check's cell may say its `label`, its `points` and its `message`
in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...notebooks.metadata import tags
from ..template import TEXT_PLACEHOLDER, Check, Part, RefusedTemplate, Role, Template, make_template
from .regions import Unbalanced, solved_by_learner, without

if TYPE_CHECKING:
    from nbformat import NotebookNode

PREFIX = "task:"


def read(name: str, notebook: NotebookNode) -> Template:
    """Read a template.

    Raises:
        RefusedTemplate
    """
    ids: list[str] = []
    parts = []
    for at, cell in enumerate(notebook.cells):
        part = _part(name, at, cell)
        ids += [each for each in part.tasks if each not in ids]
        parts.append(part)
    return make_template(name, notebook, "tags", parts, ids)


def _part(name: str, at: int, cell: NotebookNode) -> Part:
    said = tags(cell)
    tasks = tuple(sorted(tag.removeprefix(PREFIX) for tag in said if tag.startswith(PREFIX) and tag != PREFIX))
    role = _role(name, at, cell, said, tasks)
    try:
        shown = _shown(cell, role, said)
    except Unbalanced as error:
        raise RefusedTemplate(name, f"a region has no other end: {error}", cell=at) from error
    checks = (_check(name, at, cell),) if role == "test" else ()
    return Part(at, cell, role, tasks, shown, checks)


def _role(name: str, at: int, cell: NotebookNode, said: frozenset[str], tasks: tuple[str, ...]) -> Role:
    kinds = said & {"setup", "solution", "hidden-test"}
    if len(kinds) > 1:
        raise RefusedTemplate(name, f"it cannot be {' and '.join(sorted(kinds))}.", cell=at)
    if kinds - {"setup"} and not tasks:
        raise RefusedTemplate(name, f"a cell with the tag {next(iter(kinds))} needs one task:ID.", cell=at)
    if "hidden-test" in kinds:
        if cell["cell_type"] != "code":
            raise RefusedTemplate(name, "only code can test.", cell=at)
        return "test"
    if "setup" in kinds:
        return "setup"
    is_work = "solution" in kinds or (tasks and cell["cell_type"] == "code")
    return "solution" if is_work else "text"


def _shown(cell: NotebookNode, role: Role, said: frozenset[str]) -> str | None:
    source: str = cell["source"]
    if role == "test":
        return None
    if role != "solution":
        return source
    if cell["cell_type"] != "code":
        return TEXT_PLACEHOLDER
    if "solution" in said:
        return solved_by_learner(source)
    return solved_by_learner(source) if without(source, "### BEGIN SOLUTION", "### END SOLUTION", "")[1] else source


def _check(name: str, at: int, cell: NotebookNode) -> Check:
    metadata: Mapping[str, Any] = cell["metadata"]
    points = metadata.get("points", 1)
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 <= points < 1e6:
        raise RefusedTemplate(name, f"points cannot be {points!r}.", cell=at)
    label, message = metadata.get("label", f"check in cell {at}"), metadata.get("message", "")
    if not isinstance(label, str) or not isinstance(message, str):
        raise RefusedTemplate(name, "label and message are texts.", cell=at)
    return Check(label, ((cell["source"], None),), float(points), message, at)
