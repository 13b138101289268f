"""What belongs to nobody any more: left by a cut start, an earlier generation, another version, a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from ...errors import JupyterMcpError
from . import objects
from .cluster import Cluster
from .left_runs import left_by_runs

logger = logging.getLogger(__name__)

Json = dict[str, Any]

SWEEP_SECONDS = 60.0


class Sweep:
    """Deletes what two looks in a row find without an owner: one that is just being made is not there yet.

    Args:
        generations: of every kernel that is known, by its id.
    """

    def __init__(self, cluster: Cluster, generations: Callable[[], Mapping[str, int]]) -> None:
        self._cluster = cluster
        self._generations = generations
        self._suspects: set[tuple[str, str, str, str]] = set()

    async def run(self) -> None:
        """Sweep every minute, for ever. A cluster that does not answer is swept later."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            try:
                await self.once()
            except JupyterMcpError as error:
                logger.warning("left objects could not be looked for: %s", error)

    async def once(self) -> list[str]:
        """One look; the names of what was deleted."""
        found: set[tuple[str, str, str, str]] = set()
        for resource in ("secrets", "services", "pods"):
            listing = await self._cluster.api.list(resource, labels=self._selector("kernel"))
            found |= {_key(resource, one) for one in listing.items if self._is_nobodys(resource, one)}
        found |= await self._old_code()
        found |= await left_by_runs(self._cluster)
        doomed, self._suspects = found & self._suspects, found
        # The anchors first: the cluster removes what they own.
        for resource, name, uid, _ in sorted(doomed, key=lambda key: (key[0] != "secrets", key)):
            logger.warning("removing the %s %s, which belongs to no kernel", resource.removesuffix("s"), name)
            try:
                await self._cluster.api.delete(resource, name, uid=uid)
            except JupyterMcpError as error:
                logger.warning("%s %s stays for now: %s", resource, name, error)
        return [name for _, name, _, _ in sorted(doomed)]

    def _selector(self, role: str) -> str:
        return objects.selector(self._cluster.own.instance, **{objects.ROLE_LABEL: role})

    def _is_nobodys(self, resource: str, obj: Json) -> bool:
        labels = obj["metadata"]["labels"]
        generation = self._generations().get(labels.get(objects.ID_LABEL, ""))
        if generation is None:
            return True
        return resource == "pods" and labels.get(objects.GENERATION_LABEL) != str(generation)

    async def _old_code(self) -> set[tuple[str, str, str, str]]:
        """The agents of other versions, once no pod has them mounted."""
        listing = await self._cluster.api.list("configmaps", labels=self._selector("agent"))
        current = self._cluster.code_name
        mounted = {
            volume["configMap"]["name"]
            for pod in self._cluster.pods.all()
            for volume in pod["spec"].get("volumes") or ()
            if "configMap" in volume
        }
        return {_key("configmaps", one) for one in listing.items if one["metadata"]["name"] not in mounted | {current}}


def _key(resource: str, obj: Json) -> tuple[str, str, str, str]:
    metadata = obj["metadata"]
    return resource, metadata["name"], metadata["uid"], ""
