"""What is left of the service in a server that it has worked in: nothing."""

from __future__ import annotations

import sqlite3

import pytest

from hub import NAME, SECONDS, Hub
from support import eventually

USERS = ("ada", "dora")


@pytest.fixture(scope="module")
def worked_in(culled: Hub) -> Hub:
    """The hub once its service has worked in two servers, in one of which our extension is."""
    for user in USERS:
        culled.run(user)
        token = culled.token(user)
        culled.call(token, "/mcp", "create_notebook", notebook_path="used.ipynb")
        ran = culled.call(token, "/mcp", "append_execute_code_cell", notebook_path="used.ipynb", cell_source="6 * 7")
        assert "42" in ran
    return culled


def test_a_role_that_only_opens_servers_works_with_its_hook_and_is_warned_of(worked_in: Hub) -> None:
    """values.yaml with access-role.yaml over it; without its hook the servers would answer 403."""
    warned = "the service's own token is sent to users' servers"
    eventually(lambda: warned in worked_in.log.read_text(errors="replace"), SECONDS, "the warning")
    made = [each["note"] for each in worked_in.ask("GET", "users/ada/tokens")[1]["api_tokens"]]
    assert "mcp-server-jupyter hub" not in made


def test_a_learner_whom_the_service_worked_for_is_culled_when_idle(worked_in: Hub) -> None:
    """Rooms, sockets and streams that stayed open would count as activity, and keep the server for ever."""
    for user in USERS:
        eventually(lambda user=user: not worked_in.server(user), SECONDS, f"the culling of {user}")
    culled = "culling server"
    assert culled in worked_in.log.read_text(errors="replace").lower()


def test_a_token_is_taken_back_when_its_server_is_left(hub: Hub, culled: Hub) -> None:
    """The hub's own list says so. The server was worked in before the other hub started."""

    def made() -> list[str]:
        listed = hub.ask("GET", "users/cal/tokens")[1]["api_tokens"]
        return [each["id"] for each in listed if each["note"] == "mcp-server-jupyter hub"]

    eventually(lambda: not made(), SECONDS, "the token's end")
    assert hub.is_running("cal")
    journals = list((hub.folder / "state" / "roots").glob(f"{NAME}*/journal.sqlite3"))
    journals = journals or list((hub.folder / "state" / "roots").glob("hub-*/journal.sqlite3"))
    assert journals
    for journal in journals:
        # Tokens are in memory alone.
        assert sqlite3.connect(journal).execute("PRAGMA integrity_check").fetchone() == ("ok",)
