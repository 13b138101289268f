"""The service at a real JupyterHub, which starts it; in front of real servers."""

from __future__ import annotations

import json
from functools import partial

import pytest

from hub import SECONDS, SERVICE, Hub
from support import eventually


@pytest.fixture
def ada(hub: Hub) -> Hub:
    """The hub while ada's server runs."""
    hub.run("ada")
    return hub


def test_a_stopped_server_is_started_by_its_user_and_worked_in(hub: Hub) -> None:
    token = hub.token("ada")
    hub.stop("ada")
    assert "start_server" in hub.call(token, "/mcp", "list_notebooks")
    assert "runs" in hub.call(token, "/mcp", "start_server")
    hub.call(token, "/mcp", "create_notebook", notebook_path="exercise.ipynb")
    hub.call(token, "/mcp", "append_execute_code_cell", notebook_path="exercise.ipynb", cell_source="x = 41")
    assert "42" in hub.call(token, "/mcp", "execute_in_kernel", notebook_path="exercise.ipynb", code="print(x+1)")
    assert "x = 41" in hub.call(token, "/mcp", "read_notebook", notebook_path="exercise.ipynb")


def test_a_server_that_is_stopped_in_use_says_so_and_is_used_again(ada: Hub) -> None:
    token = ada.token("ada")
    ada.call(token, "/mcp", "list_notebooks")
    ada.stop("ada")
    assert "start_server" in ada.call(token, "/mcp", "list_notebooks")
    ada.call(token, "/mcp", "start_server")
    assert "start_server" not in ada.call(token, "/mcp", "list_notebooks")


def test_staff_and_the_operator_work_in_learners_servers_and_nobody_else_does(ada: Hub) -> None:
    for token in (ada.token("prof"), SERVICE):
        assert ada.mcp(token, "/user/ada/mcp", "tools/list")[0] == 200
        ada.call(token, "/user/ada/mcp", "list_notebooks")
        # Not a learner: the role does not cover them.
        assert ada.mcp(token, "/user/eve/mcp", "tools/list")[0] == 403
        assert ada.mcp(token, "/user/nobody/mcp", "tools/list")[0] == 403
    answers = [ada.mcp(ada.token("bob"), f"/user/{name}/mcp", "tools/list") for name in ("ada", "prof", "nobody")]
    assert {status for status, _ in answers} == {403}
    assert len({json.dumps(body) for _, body in answers}) == 1
    assert ada.mcp("no-token", "/mcp", "tools/list")[0] == 401


def test_a_servers_own_token_opens_that_server_and_no_other(ada: Hub) -> None:
    own = ada.token("ada", "access:servers!server=ada/")
    ada.call(own, "/mcp", "list_notebooks")
    of_staff = ada.token("prof", "access:servers!server=prof/")
    assert ada.mcp(of_staff, "/user/ada/mcp", "tools/list")[0] == 403
    assert ada.mcp(ada.token("ada", "read:users:name!user=ada"), "/mcp", "tools/list")[0] == 403


def test_the_services_token_opens_no_server_and_one_that_was_made_opens_one(ada: Hub) -> None:
    """The role has no access: what a learner might catch is a token for their own server."""
    ada.run("bob")
    assert ada.request("GET", f"{ada.url}/user/ada/api/contents", token=SERVICE)[0] == 403
    body = {"scopes": ["access:servers!server=ada/"], "expires_in": 900}
    status, made = ada.ask("POST", "users/ada/tokens", body, token=SERVICE)
    assert status == 201
    assert ada.request("GET", f"{ada.url}/user/ada/api/contents", token=made["token"])[0] == 200
    assert ada.request("GET", f"{ada.url}/user/bob/api/contents", token=made["token"])[0] == 403
    assert ada.ask("POST", "users/eve/tokens", body, token=SERVICE)[0] == 403
    assert ada.ask("GET", "users", token=made["token"])[0] == 403


def has_cell(hub: Hub, user: str, source: str) -> bool:
    """Whether a user's notebook on disk is of this cell alone."""
    try:
        cells = json.loads((hub.folder / "home" / user / "same.ipynb").read_text())["cells"]
    except ValueError:
        # Jupyter writes in place.
        return False
    # A live document that is empty is given an empty cell.
    return {"".join(cell["source"]) for cell in cells} - {""} == {source}


def test_equal_paths_of_two_learners_never_meet(ada: Hub) -> None:
    ada.run("bob")
    for user in ("ada", "bob"):
        token = ada.token(user)
        ada.call(token, "/mcp", "create_notebook", notebook_path="same.ipynb")
        ada.call(token, "/mcp", "append_execute_code_cell", notebook_path="same.ipynb", cell_source=f"who = '{user}'")
    for user in ("ada", "bob"):
        # A room reaches the disk a while after the answer.
        eventually(partial(has_cell, ada, user, f"who = '{user}'"), SECONDS, f"the notebook of {user} on disk")
        assert user in ada.call(SERVICE, f"/user/{user}/mcp", "execute_code", notebook_path="same.ipynb", code="who")
