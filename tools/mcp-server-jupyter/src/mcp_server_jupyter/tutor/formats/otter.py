"""Assignments of Otter-Grader (its docs, "Creating assignments", "Test files"). A notebook is one task.

Read are source notebooks with raw cells (`# BEGIN QUESTION` …), and notebooks with solutions whose tests are in
`metadata.otter.tests` or in `tests/*.py` beside them, in the OK format.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..template import TEXT_PLACEHOLDER, Check, Part, RefusedTemplate, Template, make_template
from .regions import Unbalanced

if TYPE_CHECKING:
    from nbformat import NotebookNode

_MARK = re.compile(r"\s*#\s*(ASSIGNMENT CONFIG|BEGIN \w+|END \w+|EXPORT CELL)\b", re.I)
_CONFIG = re.compile(
    r'\A\s*(?:"""|\'\'\')\s*# BEGIN TEST CONFIG\n(.*?)\n(?:"""|\'\'\');?\s*# END TEST CONFIG\n?', re.S | re.I
)
_PROMPT = re.compile(r'^[ \t]*(?:"""|\'\'\') # BEGIN PROMPT\n(.*?)\n[ \t]*(?:"""|\'\'\');? # END PROMPT$', re.S | re.M)
_SOLUTION_LINE = re.compile(r"#\s*SOLUTION( NO PROMPT)?\s*$")
_ASSIGNED = re.compile(r"^(\s*(?:return\s+|[^=#]*[^=<>!#+\-*/%&|^@:]=\s*))[^=].*$")
_OTTER_CELL = re.compile(r"^\s*(?:grader\s*=\s*otter\.|grader\.(?:check|check_all|export)\(|import otter\b)", re.M)


def speaks(notebook: NotebookNode, path: Path) -> bool:
    """Whether it is Otter's."""
    if isinstance(notebook.metadata.get("otter"), Mapping):
        return True
    return any(_mark(cell) or _OTTER_CELL.search(cell["source"]) for cell in notebook.cells) and (
        any(_mark(cell) == "BEGIN QUESTION" for cell in notebook.cells) or (path.parent / "tests").is_dir()
    )


def read(name: str, notebook: NotebookNode, folder: Path) -> Template:
    """Read an assignment.

    Raises:
        RefusedTemplate: also where PyYAML is missing, which reads its raw cells.
    """
    reading = _Reading(name)
    for at, cell in enumerate(notebook.cells):
        try:
            reading.take(at, cell)
        except Unbalanced as error:
            raise RefusedTemplate(name, f"a region has no other end: {error}", cell=at) from error
    if not reading.questions:
        given = _given_tests(name, notebook, folder)
        _put_given(name, reading, given)
    shown = {key: question.public() for key, question in reading.questions.items()}
    extra = {"otter": {"OK_FORMAT": True, "tests": shown}}
    return make_template(name, notebook, "otter", reading.parts, [name.removesuffix(".ipynb")], extra)


def _mark(cell: Mapping[str, Any]) -> str:
    found = _MARK.match(cell["source"]) if cell["cell_type"] == "raw" else None
    return found[1].upper() if found else ""


@dataclass
class _Case:
    examples: tuple[tuple[str, str | None], ...]
    hidden: bool
    points: float | None
    message: str
    at: int


@dataclass
class _Question:
    name: str
    points: Any
    cases: list[_Case] = field(default_factory=list)
    manual: bool = False

    def public(self) -> dict[str, Any]:
        """Its public cases, in the OK format."""
        cases = [
            {"code": _as_doctest(case.examples), "hidden": False, "locked": False}
            for case in self.cases
            if not case.hidden
        ]
        suite = {"cases": cases, "scored": True, "setup": "", "teardown": "", "type": "doctest"}
        return {"name": self.name, "points": None, "suites": [suite]}

    def checks(self) -> tuple[Check, ...]:
        """One a case: points of its own, or an even share of what is left of the question's."""
        listed = self.points if isinstance(self.points, list) else []
        own = [listed[at] if at < len(listed) else case.points for at, case in enumerate(self.cases)]
        total = (
            float(self.points)
            if isinstance(self.points, int | float)
            else sum(each or 0.0 for each in own)
            if listed
            else 1.0
        )
        rest = max(0.0, total - sum(each for each in own if each is not None))
        open_ = sum(each is None for each in own) or 1
        return tuple(
            Check(
                f"{self.name}, case {at + 1}",
                case.examples,
                rest / open_ if points is None else float(points),
                case.message,
                case.at,
            )
            for at, (case, points) in enumerate(zip(self.cases, own, strict=True))
        )


class _Reading:
    """Goes through a source notebook's cells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[Part] = []
        self.questions: dict[str, _Question] = {}
        self._question: _Question | None = None
        self._inside = ""

    def take(self, at: int, cell: NotebookNode) -> None:
        mark = _mark(cell)
        if mark:
            self._marked(at, cell, mark)
            self.parts.append(Part(at, cell, "left_out"))
        elif self._inside == "TESTS" and self._question is not None:
            if cell["cell_type"] == "code":
                self._question.cases.append(_case(self.name, at, cell))
            self.parts.append(Part(at, cell, "left_out"))
        else:
            self.parts.append(self._part(at, cell))

    def _marked(self, at: int, cell: NotebookNode, mark: str) -> None:
        word, _, what = mark.partition(" ")
        if mark == "BEGIN QUESTION":
            said = _yaml(self.name, at, cell["source"])
            name = str(said.get("name") or f"q{len(self.questions) + 1}")
            if name in self.questions:
                raise RefusedTemplate(self.name, f"the question {name!r} is there already.", cell=at)
            self._question = self.questions[name] = _Question(name, said.get("points", 1))
            self._question.manual = bool(said.get("manual"))
        elif mark == "END QUESTION":
            self._end_question(at, cell)
        elif word == "BEGIN":
            self._inside = what
        elif word == "END":
            self._inside = ""

    def _end_question(self, at: int, cell: NotebookNode) -> None:
        question, self._question, self._inside = self._question, None, ""
        if question is not None and question.cases:
            self.parts.append(Part(at, _named(cell, "tests"), "test", checks=question.checks()))

    def _part(self, at: int, cell: NotebookNode) -> Part:
        source, is_code = cell["source"], cell["cell_type"] == "code"
        if not is_code:
            return Part(at, cell, "text", (), TEXT_PLACEHOLDER if self._inside == "SOLUTION" else source)
        shown = solved(source)
        if shown != source or self._inside == "SOLUTION":
            return Part(at, cell, "solution", (), shown if shown != source else "...")
        if _OTTER_CELL.search(source):
            return Part(at, cell, "text", (), source)
        return Part(at, cell, "setup", (), source)


def _named(cell: NotebookNode, suffix: str) -> Any:
    """A cell that stands for what is no cell: never run, never shown."""
    return {"id": f"{cell['id']}-{suffix}", "cell_type": "code", "source": "", "metadata": {}}


def solved(source: str) -> str:
    """A cell as the learner gets it (Otter's docs, "Solution removal").

    Raises:
        Unbalanced
    """
    source = _PROMPT.sub(lambda found: found[1], source)
    source = _regions(source)
    lines = []
    for line in source.split("\n"):
        found = _SOLUTION_LINE.search(line)
        if found is None:
            lines.append(line)
        elif not found[1]:
            assigned = _ASSIGNED.match(line)
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{assigned[1]}..." if assigned else f"{indent}...")
    return "\n".join(lines)


def _regions(source: str) -> str:
    kept: list[str] = []
    inside = False
    for line in source.split("\n"):
        word = line.strip().upper()
        if word.startswith("# BEGIN SOLUTION"):
            if inside:
                raise Unbalanced("# BEGIN SOLUTION")
            inside = True
            if not word.endswith("NO PROMPT"):
                kept.append(line[: len(line) - len(line.lstrip())] + "...")
        elif word.startswith("# END SOLUTION"):
            if not inside:
                raise Unbalanced("# END SOLUTION")
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise Unbalanced("# BEGIN SOLUTION")
    return "\n".join(kept)


# --------------------------------------------------------------------------- tests


def _case(name: str, at: int, cell: NotebookNode) -> _Case:
    source, said = cell["source"], {}
    config = _CONFIG.match(source)
    if config:
        said, source = _yaml(name, at, config[1]), source[config.end() :]
    first, _, rest = source.partition("\n")
    hidden = bool(said.get("hidden"))
    if first.strip().upper().replace(" ", "") == "#HIDDEN":
        hidden, source = True, rest
    points = said.get("points")
    if points is not None and (isinstance(points, bool) or not isinstance(points, int | float)):
        raise RefusedTemplate(name, f"points cannot be {points!r}.", cell=at)
    return _Case(((source, _shown(cell)),), hidden, points, str(said.get("failure_message") or ""), at)


def _shown(cell: NotebookNode) -> str | None:
    """What the test's cell shows, which is what it has to show; None where it shows nothing."""
    texts = []
    for output in cell.get("outputs", ()):
        text = output.get("text") if output.get("output_type") == "stream" else None
        text = output.get("data", {}).get("text/plain") if text is None else text
        texts.append("".join(text) if isinstance(text, list) else str(text or ""))
    return "".join(texts) or None


def _as_doctest(examples: Sequence[tuple[str, str | None]]) -> str:
    lines = []
    for source, wanted in examples:
        first, *more = source.strip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in more)]
        lines += [wanted.rstrip("\n")] if wanted else []
    return "\n".join(lines)


def _yaml(name: str, at: int, text: str) -> dict[str, Any]:
    """The keys of a configuration, whose lines may be comments."""
    try:
        import yaml  # noqa: PLC0415  (not among what is always installed)
    except ImportError as error:
        raise RefusedTemplate(name, "what its raw cells say is read by PyYAML: pip install pyyaml", cell=at) from error
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    try:
        said = yaml.safe_load("\n".join(lines))
    except yaml.YAMLError as error:
        raise RefusedTemplate(name, "its configuration is no YAML.", cell=at) from error
    return said if isinstance(said, dict) else {}


def _given_tests(name: str, notebook: NotebookNode, folder: Path) -> dict[str, Mapping[str, Any]]:
    """Tests in the OK format: of the notebook's metadata, else of the files beside it."""
    said = notebook.metadata.get("otter")
    tests = said.get("tests") if isinstance(said, Mapping) else None
    if isinstance(tests, Mapping):
        return {str(key): test for key, test in tests.items()}
    found = {}
    for path in sorted((folder / "tests").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        values = {
            target.id: each.value
            for each in tree.body
            if isinstance(each, ast.Assign)
            for target in each.targets
            if isinstance(target, ast.Name)
        }
        try:
            found[path.stem] = ast.literal_eval(values["test"])
        except (KeyError, ValueError) as error:
            raise RefusedTemplate(name, f"tests/{path.name} is not in the OK format, as literals.") from error
    return found


def _put_given(name: str, reading: _Reading, given: Mapping[str, Mapping[str, Any]]) -> None:
    """Put each question's cases where `grader.check` stands, the others at the end."""
    for key, test in given.items():
        question = _Question(str(test.get("name", key)), test.get("points", 1))
        try:
            for suite in test["suites"]:
                for case in suite["cases"]:
                    message = str(case.get("failure_message") or "")
                    examples = _examples(case["code"])
                    question.cases.append(_Case(examples, bool(case.get("hidden")), case.get("points"), message, 0))
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedTemplate(name, f"the test {key!r} is not in the OK format.") from error
        reading.questions[question.name] = question
        place = next(
            (i for i, part in enumerate(reading.parts) if _checks(part, question.name)), len(reading.parts) - 1
        )
        cell = reading.parts[place].cell
        stands = Part(reading.parts[place].at, _named(cell, question.name), "test", checks=question.checks())
        reading.parts.insert(place + 1, stands)


def _checks(part: Part, name: str) -> bool:
    return re.search(rf"grader\.check\(\s*[\"']{re.escape(name)}[\"']", part.cell["source"]) is not None


def _examples(code: str) -> tuple[tuple[str, str | None], ...]:
    """A doctest's examples. One that raises what is wanted cannot be put as its text."""
    found = doctest.DocTestParser().get_examples(code)
    if any(example.exc_msg is not None for example in found):
        raise ValueError("an exception is wanted")
    return tuple((example.source, example.want) for example in found)
