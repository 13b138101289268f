"""What is said of the role that a hub gives the service."""

from __future__ import annotations

import pytest

from mcp_server_jupyter.hub.role import complaints

WHOLE = frozenset(
    f"{name}!group=learners"
    for name in ("read:servers", "start:servers", "tokens", "list:users", "read:users:activity", "read:users:name")
)


def test_a_whole_role_is_not_complained_of() -> None:
    assert complaints(WHOLE) == []
    assert complaints({scope.partition("!")[0] for scope in WHOLE}) == []


@pytest.mark.parametrize("name", ["read:servers", "start:servers", "tokens", "list:users", "read:users:activity"])
def test_what_a_role_lacks_is_named_with_what_it_costs(name: str) -> None:
    (complaint,) = complaints(WHOLE - {f"{name}!group=learners"})
    assert f"scope {name}," in complaint


def test_a_role_that_has_the_services_own_token_sent_to_users_servers_is_warned_of() -> None:
    (complaint,) = complaints(WHOLE - {"tokens!group=learners"} | {"access:servers!group=learners"})
    assert "own token is sent" in complaint
    # With both, its own stays at the hub.
    assert complaints(WHOLE | {"access:servers!group=learners"}) == []
