"""Who others in a live document see."""

from __future__ import annotations

import pytest

from mcp_server_jupyter.backends.jupyter.rooms.connection import user_of


def test_a_client_is_shown_by_the_name_that_it_gave_itself() -> None:
    shown = user_of("claude-code#1f2e3d")

    assert (shown["name"], shown["display_name"], shown["initials"]) == ("claude-code", "claude-code", "CL")


@pytest.mark.parametrize("author", ["user", "agent", "agent#1f2e3d", ""])
def test_a_caller_without_a_name_is_shown_as_this_server_and_not_as_anybody(author: str) -> None:
    assert user_of(author)["name"] == "mcp-server-jupyter"
