"""What a `run` that was killed has left: it had an installation of its own, which no server comes back to."""

from __future__ import annotations

from typing import Any

from ...settings import RUN_INSTANCE
from . import objects
from .cluster import Cluster
from .own import INSTANCE_LABEL

Json = dict[str, Any]

_LIVING = ("Running", "Unknown")
"""What only waits for a node or an image has nothing to lose."""


async def left_by_runs(cluster: Cluster) -> set[tuple[str, str, str, str]]:
    """Resource, name and uid of what belongs to runs none of whose kernels lives, with when the run last said it did.

    A run says so every two seconds: one that has said nothing between two looks is gone. Its kernels end by
    themselves, and until then they keep what is theirs.
    """
    made = ",".join(f"{name}={value}" for name, value in {**objects.MANAGED_BY, objects.ROLE_LABEL: "kernel"}.items())
    listing = await cluster.api.list("secrets", labels=made)
    runs: dict[str, list[Json]] = {}
    for secret in listing.items:
        instance = secret["metadata"]["labels"].get(INSTANCE_LABEL, "")
        if RUN_INSTANCE.fullmatch(instance) and instance != cluster.own.instance:
            runs.setdefault(instance, []).append(secret)
    found: set[tuple[str, str, str, str]] = set()
    for instance, secrets in runs.items():
        pods = await cluster.api.list("pods", labels=objects.selector(instance))
        if any((pod.get("status") or {}).get("phase") in _LIVING for pod in pods.items):
            continue
        lease = await cluster.api.find("leases", objects.lease_name(instance))
        said = "" if lease is None else str((lease.get("spec") or {}).get("renewTime"))
        left = [("secrets", secret) for secret in secrets] + ([] if lease is None else [("leases", lease)])
        found |= {(resource, one["metadata"]["name"], one["metadata"]["uid"], said) for resource, one in left}
    return found
