"""What the service's role at the hub lets it do: see docs/jupyterhub.md."""

from __future__ import annotations

from collections.abc import Collection

ACCESS = "access:servers"
_NEEDED = {
    "read:servers": "no user is known, and every call is refused",
    "start:servers": "start_server is refused",
    "list:users": "list_learners is refused",
    "read:users:activity": "list_learners does not say when a learner was last there",
}


def has(scopes: Collection[str], name: str) -> bool:
    """Whether there is a scope of that name, for whomever."""
    return any(scope.partition("!")[0] == name for scope in scopes)


def sends_own_token(scopes: Collection[str]) -> bool:
    """Whether the service can work in servers by its own token alone: it may make none for them."""
    return has(scopes, ACCESS) and not has(scopes, "tokens")


def complaints(scopes: Collection[str]) -> list[str]:
    """What is amiss with a role of these scopes, a sentence each."""
    found = [f"Without the scope {name}, {effect}." for name, effect in _NEEDED.items() if not has(scopes, name)]
    if sends_own_token(scopes):
        found.append(
            f"With {ACCESS} and without the scope tokens, the service's own token is sent to users' servers, and "
            "whoever controls one can open all the others with it. Give the role tokens instead."
        )
    elif not has(scopes, "tokens"):
        found.append("Without the scope tokens, no server can be worked in.")
    return found
