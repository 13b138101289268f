"""Templates are read in three formats, and nothing that a learner must not see reaches them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from learners import code, graded, notebook, raw, squares, text, write
from mcp_server_jupyter.tutor.formats import load_template
from mcp_server_jupyter.tutor.formats.otter import solved
from mcp_server_jupyter.tutor.template import RefusedTemplate, Template, sources_of

SECRET = "s3cret"


def read(folder: Path, made: dict[str, Any], name: str = "a.ipynb") -> Template:
    return load_template(write(folder / name, made))


def shown(template: Template) -> list[str]:
    return [cell["source"] for cell in template.learner.cells]


def leaking(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell with a secret wherever a cell can hold one besides its source."""
    cell["metadata"] |= {"note": SECRET, "jupyter": {"source_hidden": SECRET}, "message": SECRET}
    if cell["cell_type"] == "code":
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": SECRET}]
        cell["execution_count"] = 3
    return cell


def test_a_learner_gets_no_hidden_test_no_solution_no_metadata_and_no_output(tmp_path: Path) -> None:
    made = notebook(
        leaking(text("Read this.", "task:t")),
        leaking(code("x = 1", "setup")),
        leaking(code(f"def f():\n    return '{SECRET}'", "task:t", "solution")),
        leaking(code(f"def g():\n    ### BEGIN SOLUTION\n    return '{SECRET}'\n    ### END SOLUTION", "task:t")),
        leaking(code(f"assert f() == '{SECRET}'", "task:t", "hidden-test")),
        author=SECRET,
    )
    template = read(tmp_path, made)
    assert SECRET not in json.dumps(template.learner)
    placeholder = "# YOUR CODE HERE\nraise NotImplementedError()"
    indented = "def g():\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    assert shown(template) == ["Read this.", "x = 1", placeholder, indented]
    assert [cell["metadata"].get("tags") for cell in template.learner.cells][2:] == [["task:t"], ["task:t"]]


def test_an_nbgrader_assignment_is_a_task_with_its_points_and_without_its_hidden_tests(tmp_path: Path) -> None:
    hidden = f"assert f() == 1\n### BEGIN HIDDEN TESTS\nassert f() != '{SECRET}'\n### END HIDDEN TESTS"
    made = notebook(
        code("import math"),
        graded(f"### BEGIN SOLUTION\ndef f():\n    '{SECRET}'\n    return 1\n### END SOLUTION", "f", solution=True),
        graded(hidden, "test_f", 2.5, grade=True, locked=True),
    )
    template = read(tmp_path, made, "week1.ipynb")
    assert template.format == "nbgrader"
    assert SECRET not in json.dumps(template.learner)
    assert shown(template)[2] == "assert f() == 1"
    task = template.tasks["week1"]
    assert [(check.label, check.points) for check in task.checks] == [("test_f", 2.5)]
    assert SECRET in task.checks[0].examples[0][0]


def test_an_otter_source_notebook_keeps_its_public_cases_only(tmp_path: Path) -> None:
    shows = [{"output_type": "execute_result", "metadata": {}, "execution_count": 1, "data": {"text/plain": "9"}}]
    made = notebook(
        raw("# ASSIGNMENT CONFIG\ninit_cell: false"),
        raw("# BEGIN QUESTION\nname: q1\npoints: 4"),
        text("Square it."),
        raw("# BEGIN SOLUTION"),
        code("def square(x):\n    y = x * x # SOLUTION\n    return y"),
        raw("# END SOLUTION"),
        raw("# BEGIN TESTS"),
        {**code("square(3)"), "outputs": shows},
        code(
            f'""" # BEGIN TEST CONFIG\nhidden: true\nfailure_message: Not always.\n""" # END TEST CONFIG\n{SECRET} = 1'
        ),
        code(f"# HIDDEN\nassert square(5) == 25, '{SECRET}'"),
        raw("# END TESTS"),
        raw("# END QUESTION"),
    )
    template = read(tmp_path, made)
    assert template.format == "otter"
    assert SECRET not in json.dumps(template.learner)
    assert shown(template) == ["Square it.", "def square(x):\n    y = ...\n    return y"]
    cases = template.learner.metadata["otter"]["tests"]["q1"]["suites"][0]["cases"]
    assert [case["code"] for case in cases] == [">>> square(3)\n9"]
    checks = template.tasks["a"].checks
    assert [check.points for check in checks] == pytest.approx([4 / 3] * 3)
    assert [check.message for check in checks] == ["", "Not always.", ""]
    assert checks[0].examples == (("square(3)", "9"),)


@pytest.mark.parametrize("where", ["metadata", "files"])
def test_otters_generated_tests_are_taken_from_metadata_or_from_files(tmp_path: Path, where: str) -> None:
    cases = [{"code": ">>> square(3)\n9"}, {"code": f">>> square(5) == 25 # {SECRET}\nTrue", "hidden": True}]
    test = {"name": "q1", "points": 2, "suites": [{"cases": cases, "scored": True, "type": "doctest"}]}
    cells = [code("def square(x):\n    return x * x # SOLUTION"), code('grader.check("q1")'), code("x = 1")]
    said = {"otter": {"OK_FORMAT": True, "tests": {"q1": test}}} if where == "metadata" else {}
    if where == "files":
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "q1.py").write_text(f"OK_FORMAT = True\ntest = {test!r}\n")
    template = read(tmp_path, notebook(*cells, **said))
    assert SECRET not in json.dumps(template.learner)
    assert [len(step.checks) for step in template.tasks["a"].steps] == [0, 2, 0]
    assert [check.points for check in template.tasks["a"].checks] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("x = 5 # SOLUTION", "x = ..."),
        ("    return x # SOLUTION", "    return ..."),
        ("print(x) # SOLUTION", "..."),
        ("a\nb # SOLUTION NO PROMPT\nc", "a\nc"),
        ("if x:\n    # BEGIN SOLUTION\n    y\n    z\n    # END SOLUTION\nw", "if x:\n    ...\nw"),
        (
            'def f():\n    # BEGIN SOLUTION NO PROMPT\n    y\n    # END SOLUTION\n    """ # BEGIN PROMPT\n'
            '    # Next.\n    pass\n    """; # END PROMPT',
            "def f():\n    # Next.\n    pass",
        ),
    ],
)
def test_otters_marks_of_solutions_are_taken_out(source: str, wanted: str) -> None:
    assert solved(source) == wanted


@pytest.mark.parametrize(
    ("cells", "cell", "reason"),
    [
        ([code("f", "task:t", "solution", id="a"), code("f()", "task:t", "hidden-test", id="a")], 1, "id 'a'"),
        ([graded("f", "g", solution=True), graded("f", "g", 1, grade=True)], 1, "grade_id g"),
        ([code("f", "task:t", "solution"), code("%time f()", "task:t", "hidden-test")], 1, "magics"),
        ([code("f", "task:t", "solution")], None, "no test"),
        ([code("assert 1", "task:t", "hidden-test")], None, "no cell for the learner"),
        ([code("assert 1", "hidden-test")], 0, "needs one task:ID"),
        ([code("x")], None, "belongs to a task"),
        ([code("f", "task:t", "setup", "solution")], 0, "setup and solution"),
        ([code("### BEGIN SOLUTION\nf", "task:t")], 0, "no other end"),
        ([code("f", "task:t"), code("f()", "task:t", "hidden-test", points="many")], 1, "points"),
        ([code("f", nbgrader={"schema_version": 1, "solution": True})], 0, "nbgrader update"),
        ([graded("### HASHED AUTOTEST f(1)", "t", 1, grade=True)], 0, "anything would pass"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_cell_and_reason(
    tmp_path: Path, cells: list[dict[str, Any]], cell: int | None, reason: str
) -> None:
    with pytest.raises(RefusedTemplate, match=reason) as refused:
        read(tmp_path, notebook(*cells))
    assert refused.value.cell == cell


def test_without_pyyaml_an_otter_assignment_is_refused_naming_it_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    asked = notebook(raw("# BEGIN QUESTION\nname: q1"), code("f = 1 # SOLUTION"), raw("# END QUESTION"))
    with pytest.raises(RefusedTemplate, match="pip install pyyaml"):
        read(tmp_path, asked)
    assert read(tmp_path, squares()).tasks


@pytest.mark.parametrize("content", ["", "[]", '{"nbformat": 3}', '{"nbformat": 4, "cells": [{}]}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(RefusedTemplate, match=r"nbformat|no notebook"):
        load_template(tmp_path / "a.ipynb")


def test_a_notebook_in_another_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedTemplate, match="julia"):
        read(tmp_path, {**squares(), "metadata": {"language_info": {"name": "julia"}}})


def test_ids_that_the_format_does_not_have_are_the_same_each_time(tmp_path: Path) -> None:
    made = {**squares(), "nbformat_minor": 4}
    for cell in made["cells"]:
        del cell["id"]
    ids = [[cell["id"] for cell in read(tmp_path, made).learner.cells] for _ in range(2)]
    assert ids[0] == ids[1]


def test_the_learners_words_are_their_solution_cells_and_what_they_added_behind_them(tmp_path: Path) -> None:
    template = read(tmp_path, squares())
    task = template.tasks["squares"]
    title, setup, solution = (dict(cell) for cell in template.learner.cells)
    work = [
        title,
        {**setup, "source": "import os; os.remove('/')"},
        {**code("before()", id="x1")},
        {**solution, "source": "mine"},
        code("added()", id="x2"),
        text("between", id="x3"),
        code("more()", id="x4"),
    ]
    at = next(at for at, step in enumerate(task.steps) if step.own)
    assert sources_of(task, template, {"cells": work}) == {at: ["mine", "added()", "more()"]}
    tagged = [title, code("pasted()", "task:squares", id="x5"), setup, code("elsewhere()", id="x6")]
    assert sources_of(task, template, {"cells": tagged}) == {at: ["pasted()"]}


def test_work_on_another_task_of_the_notebook_is_left_alone(tmp_path: Path) -> None:
    cells = [code("a", "task:a", id="a"), code("a", "task:a", "hidden-test", id="ta")]
    cells += [code("b", "task:b", id="b"), code("b", "task:b", "hidden-test", id="tb")]
    template = read(tmp_path, notebook(*cells))
    work = {"cells": [code("mine", "task:a", id="a"), code("other", "task:b", id="b"), code("behind", id="x")]}
    assert list(sources_of(template.tasks["a"], template, work).values()) == [["mine"]]
    assert list(sources_of(template.tasks["b"], template, work).values()) == [["other", "behind"]]
