"""What an API server refuses, as errors of this project, by status code and never by text."""

from __future__ import annotations

from typing import Any

from ...errors import AlreadyExists, Conflict, InvalidRequest, JupyterMcpError, NotFound, Unavailable

_GROUPS = {"deployments": "apps", "replicasets": "apps", "leases": "coordination.k8s.io"}


class Missing(NotFound):
    """There is no such object."""


class Exists(AlreadyExists):
    """There is an object of this name."""


class Changed(Conflict):
    """The object is not the one that was read."""


class Expired(Unavailable):
    """A list or watch asks for a version that the server has forgotten."""


class Unauthenticated(Unavailable):
    """The server does not know who asks."""

    def __init__(self, told: str) -> None:
        super().__init__(
            f"The Kubernetes API server does not accept the credentials ({told}).", hint="Log in to the cluster again."
        )


class Hopeless(Unavailable):
    """No waiting mends this."""


class Denied(Hopeless):
    """The account may not do this: a line of its Role is missing."""


class NotAdmitted(Unavailable):
    """The account may, but the cluster's rules (quota, pod security, a webhook) do not let this object in."""


class Invalid(InvalidRequest):
    """The server takes no such object."""


def role_rule(verb: str, resource: str) -> str:
    """The line that a Role lacks."""
    return f'- {{apiGroups: ["{_GROUPS.get(resource, "")}"], resources: ["{resource}"], verbs: ["{verb}"]}}'


def refusal(
    status: int, told: dict[str, Any], verb: str, resource: str, *, allowed: bool | None = None
) -> JupyterMcpError:
    """The error for a status code of 400 or more.

    Args:
        told: the Status object.
        allowed: for 403, whether the account's roles allow the verb; None when that is not known.
    """
    text = str(told.get("message") or told.get("reason") or status)
    if status == 403:
        return _forbidden(text, verb, resource, allowed)
    if status == 404:
        return Missing(f"The cluster has no such object: {text}.")
    if status == 409:
        return Exists(text) if told.get("reason") == "AlreadyExists" else Changed(text)
    if status == 410:
        return Expired(f"The list is too old: {text}.")
    if status in (400, 405, 406, 413, 415, 422):
        return Invalid(f"The API server refused to {verb} {resource}: {text}")
    return Unavailable(f"The Kubernetes API server answered {status} to {verb} {resource}: {text}", hint="Try again.")


def _forbidden(text: str, verb: str, resource: str, allowed: bool | None) -> JupyterMcpError:
    if allowed:
        return NotAdmitted(
            f"The cluster does not admit this: {text}",
            hint="Shut kernels down, ask for less in the profile, or have the namespace's rules changed.",
        )
    return Denied(
        f"The server's account may not {verb} {resource}: {text}",
        hint=f"Add to its Role: {role_rule(verb, resource)}",
    )
