"""nbgrader's own example assignment through deploy and check, at a real learner's server."""

from __future__ import annotations

import pytest
from examples import LEARNERS, Examples

from hub import Hub

WAIT = 240


@pytest.fixture(scope="module")
def ada(hub: Hub) -> Hub:
    hub.run("ada")
    return hub


def test_the_examples_are_tasks_and_those_that_would_check_nothing_are_refused(ada: Hub) -> None:
    listed = ada.tutor(ada.token("prof"), "list_tasks")["tasks"]
    found = {each["template"]: each for each in listed}
    assert found["problem1.ipynb"]["format"] == "nbgrader"
    assert found["problem1.ipynb"]["max_points"] == 3
    assert "no cell for the learner to write" in found["problem2.ipynb"]["refused"]
    assert "AUTOTEST" in found["autotest.ipynb"]["refused"]


def test_what_a_learner_is_given_has_no_solution_and_gets_no_points_as_it_is(ada: Hub) -> None:
    token = ada.token("ada")
    ada.tutor(token, "deploy_task", learner="ada", task="problem1")
    status, given = ada.request("GET", f"{ada.url}/user/ada/api/contents/problem1.ipynb", token=token)
    assert status == 200
    sources = "\n".join(cell["source"] for cell in given["content"]["cells"])
    assert "def squares(n):" in sources
    assert "i ** 2" not in sources
    assert "sum(squares(n))" not in sources
    told = ada.tutor(token, "check_task", learner="ada", task="problem1", wait_seconds=WAIT)
    assert told["points"] == 0
    assert told["error"]["name"] == "NotImplementedError"


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_submission_comes_to_what_nbgrader_made_of_it(ada: Hub, examples: Examples, learner: str) -> None:
    token = ada.token("ada")
    url = f"{ada.url}/user/ada/api/contents/{learner}.ipynb"
    body = {"type": "notebook", "format": "json", "content": examples.submitted(learner)}
    assert ada.request("PUT", url, body, token)[0] == 201
    given = {"learner": "ada", "task": "problem1", "path": f"{learner}.ipynb", "wait_seconds": WAIT}
    told = ada.tutor(token, "check_task", **given)
    judged = examples.judged[learner]
    assert len(judged) == 4
    assert {each["label"]: each["state"] == "passed" for each in told["checks"]} == judged, told
