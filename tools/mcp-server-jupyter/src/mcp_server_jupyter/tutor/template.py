"""A task's template, whichever format it was read from: what the learner gets, what is run, what is checked."""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidNotebook
from ..notebooks import kernelspec_name, language, new_notebook, node

if TYPE_CHECKING:
    from nbformat import NotebookNode

Role = Literal["text", "setup", "solution", "test", "left_out"]
Format = Literal["tags", "nbgrader", "otter"]
PLACEHOLDER = "# YOUR CODE HERE\nraise NotImplementedError()"
TEXT_PLACEHOLDER = "YOUR ANSWER HERE"
_NBGRADER_KEYS = ("grade", "solution", "locked", "task", "grade_id", "points", "schema_version", "cell_type")


class RefusedTemplate(InvalidNotebook):
    """A template that cannot be used, with cell and reason. `cell` counts from 0; None where it is all of it."""

    code = "refused_template"

    def __init__(self, template: str, reason: str, *, cell: int | None = None) -> None:
        where = template if cell is None else f"{template}, cell {cell}"
        super().__init__(f"The template {where} is refused: {reason}", hint="Mend the template, then start again.")
        self.template, self.reason, self.cell = template, reason, cell


@dataclass(frozen=True, slots=True)
class Check:
    """Something that is put to a learner's work, blind.

    Attributes:
        label: what the learner knows it by.
        examples: source, and what it has to show; None, nothing has to be shown and nothing may be raised.
        message: the instructor's, for when it fails and says nothing itself.
        cell: where it stands in the template.
    """

    label: str
    examples: tuple[tuple[str, str | None], ...] = field(repr=False)
    points: float = 1.0
    message: str = ""
    cell: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A cell of a template, as its format reads it.

    Attributes:
        at: which one it is.
        tasks: those it belongs to; none, all of the notebook's.
        shown: the source that the learner gets; None where they get no such cell.
        key: how the learner's cell is known, besides by its id.
    """

    at: int
    cell: NotebookNode = field(repr=False)
    role: Role
    tasks: tuple[str, ...] = ()
    shown: str | None = None
    checks: tuple[Check, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done for a check, in the order of the notebook: a cell is run, or checks are put.

    Attributes:
        source: the template's wording.
        own: the learner's wording is run instead, of the cells with this id or key.
    """

    cell_id: str
    source: str = field(repr=False)
    own: bool = False
    key: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What a learner is given to do and what is checked of it.

    Attributes:
        imported: names that the template imports, as module and attribute: tests use them here, not in the kernel.
        defined: names that it defines, though they may be builtins.
    """

    id: str
    template: str
    steps: tuple[Step, ...]
    imported: Mapping[str, tuple[str, str]]
    defined: frozenset[str]
    hash: str

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for step in self.steps for check in step.checks)

    @property
    def max_points(self) -> float:
        return sum(check.points for check in self.checks)

    @property
    def solution(self) -> dict[int, list[str]]:
        """The template's own wording of what learners write, as `sources_of` gives theirs."""
        return {at: [step.source] for at, step in enumerate(self.steps) if step.own}


@dataclass(frozen=True, slots=True)
class Template:
    """A notebook of the folder of tasks.

    Attributes:
        name: its file's name.
        learner: what a learner gets: no hidden test, no solution, no output.
        kernel: the kernelspec it asks for.
    """

    name: str
    format: Format
    learner: NotebookNode = field(repr=False)
    tasks: Mapping[str, Task]
    kernel: str | None


def make_template(
    name: str,
    notebook: NotebookNode,
    format_: Format,
    parts: Sequence[Part],
    task_ids: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> Template:
    """Put a template together from its parts.

    Args:
        extra: metadata that the learner's notebook is to have besides.

    Raises:
        RefusedTemplate
    """
    _check_ids(name, parts)
    spoken = (language(notebook) or "python").lower()
    if spoken != "python":
        raise RefusedTemplate(name, f"its code is {spoken}; only Python can be checked.")
    if not task_ids:
        raise RefusedTemplate(name, "no cell of it belongs to a task (tag task:ID).")
    tasks = {task_id: _task(name, task_id, parts) for task_id in task_ids}
    kernel = kernelspec_name(notebook)
    # As Jupyter takes it (jupyter_client, KernelManager).
    kernel = "python3" if kernel == "python" else kernel
    return Template(name, format_, _learner(notebook, parts, extra or {}), tasks, kernel)


def _check_ids(name: str, parts: Sequence[Part]) -> None:
    unique(name, [(part.at, part.cell["id"]) for part in parts])
    unique(name, [(part.at, f"grade_id {part.key}") for part in parts if part.key])


def unique(name: str, ids: Iterable[tuple[int, str]]) -> None:
    """Refuse an id that two cells have.

    Raises:
        RefusedTemplate
    """
    seen: dict[str, int] = {}
    for at, each in ids:
        if each in seen:
            raise RefusedTemplate(name, f"the id {each!r} is that of cell {seen[each]} as well.", cell=at)
        seen[each] = at


def _task(name: str, task_id: str, parts: Sequence[Part]) -> Task:
    mine = [part for part in parts if not part.tasks or task_id in part.tasks]
    steps = [
        Step(part.cell["id"], part.cell["source"], part.role == "solution", part.key, part.checks)
        for part in mine
        if part.role in ("setup", "solution", "test") and (part.cell["cell_type"] == "code" or part.checks)
    ]
    if not any(step.own for step in steps):
        raise RefusedTemplate(name, f"task {task_id} has no cell for the learner to write.")
    if not any(step.checks for step in steps):
        raise RefusedTemplate(name, f"task {task_id} has no test.")
    for part in mine:
        for check in part.checks:
            _check_syntax(name, check)
    imported: dict[str, tuple[str, str]] = {}
    defined: set[str] = set()
    for step in steps:
        if not step.checks:
            _names(step.source, imported, defined)
    named = [
        [step.cell_id, step.source, step.own, [list(map(list, c.examples)) for c in step.checks]] for step in steps
    ]
    digest = hashlib.sha256(json.dumps([task_id, named]).encode()).hexdigest()
    return Task(task_id, name, tuple(steps), imported, frozenset(defined & set(dir(builtins))), digest)


def _check_syntax(name: str, check: Check) -> None:
    for source, _ in check.examples:
        try:
            ast.parse(source)
        except (SyntaxError, ValueError) as error:
            reason = "a test of it is not plain Python, and magics cannot be put blind"
            raise RefusedTemplate(name, f"{reason} ({type(error).__name__}).", cell=check.cell) from error


def _names(source: str, imported: dict[str, tuple[str, str]], defined: set[str]) -> None:
    """What a cell imports and defines at its top level; magics say nothing."""
    lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n")]
    try:
        tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError):
        return
    for statement in tree.body:
        for made in _made(statement):
            imported.pop(made, None)
            defined.add(made)
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                imported[alias.asname or whole] = (whole, "")
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for alias in statement.names:
                imported[alias.asname or alias.name] = (statement.module, alias.name)


def _made(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


# --------------------------------------------------------------------------- the learner's version


def _learner(notebook: NotebookNode, parts: Sequence[Part], extra: Mapping[str, Any]) -> NotebookNode:
    made = new_notebook("python3")
    kept = {key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata}
    made.metadata = node({**made.metadata, **kept, **extra})
    made.cells = [_shown(part) for part in parts if part.shown is not None]
    return made


def _shown(part: Part) -> NotebookNode:
    """A cell as the learner gets it: only what is known to be for them."""
    before = part.cell["metadata"]
    metadata: dict[str, Any] = {}
    tags = [tag for tag in before.get("tags", ()) if tag not in ("hidden-test", "solution")]
    if tags:
        metadata["tags"] = tags
    graded = before.get("nbgrader")
    if isinstance(graded, Mapping):
        metadata["nbgrader"] = {key: graded[key] for key in _NBGRADER_KEYS if key in graded}
    for key in ("deletable", "editable"):
        if isinstance(before.get(key), bool):
            metadata[key] = before[key]
    cell: dict[str, Any] = {
        "cell_type": part.cell["cell_type"],
        "id": part.cell["id"],
        "metadata": metadata,
        "source": part.shown,
    }
    if cell["cell_type"] == "code":
        cell |= {"execution_count": None, "outputs": []}
    elif "attachments" in part.cell:
        cell["attachments"] = part.cell["attachments"]
    return node(cell)


# --------------------------------------------------------------------------- the learner's own words


def sources_of(task: Task, template: Template, notebook: Mapping[str, Any]) -> dict[int, list[str]]:
    """What the learner wrote for each step of theirs: the step's cell, cells with the task's tag, and cells they added
    right behind those."""
    own = {at: step for at, step in enumerate(task.steps) if step.own}
    known = {cell["id"] for cell in template.learner.cells}
    found: dict[int, list[str]] = {at: [] for at in own}
    first = next(iter(own))
    current: int | None = None
    for cell in notebook["cells"]:
        key = _key(cell)
        at = next((at for at, step in own.items() if cell["id"] == step.cell_id or (key and key == step.key)), None)
        if at is None and cell["id"] not in known and not key:
            at = current if current is not None else first if f"task:{task.id}" in _tags(cell) else None
        current = at
        if at is not None and cell["cell_type"] == "code":
            found[at].append(cell["source"])
    return found


def _key(cell: Mapping[str, Any]) -> str:
    graded = cell["metadata"].get("nbgrader")
    return str(graded.get("grade_id", "")) if isinstance(graded, Mapping) else ""


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    tags = cell["metadata"].get("tags")
    return tags if isinstance(tags, list) else ()
