"""What the kernels of one installation share: the API server, the pods as they are, the names, the Lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from ...errors import JupyterMcpError
from ...settings import Settings
from . import objects
from .api import Api, open_api
from .delivery import agent_files
from .lease import Lease
from .names import Names
from .own import Own, look_around
from .profiles import Profile, Profiles, load_profiles
from .refusals import Changed, Exists, Missing
from .watch import Pods

if TYPE_CHECKING:
    import dns.asyncresolver

logger = logging.getLogger(__name__)

Json = dict[str, Any]

STARTS_AT_ONCE = 32


class Cluster:
    """Made by `open_cluster`."""

    def __init__(self, settings: Settings, api: Api, own: Own, names: Names, *, lease_scale: float) -> None:
        self.settings = settings
        self.api = api
        self.own = own
        self.names = names
        self.pods = Pods(api, objects.selector(own.instance))
        self.lease = Lease(
            api,
            objects.lease_name(own.instance),
            own.identity,
            labels=objects.labels(own.instance),
            owners=own.owners,
            scale=lease_scale,
        )
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._code: Json | None = None

    async def profiles(self) -> Profiles:
        """Read anew, so that a changed file counts from the next start on."""
        return await anyio.to_thread.run_sync(load_profiles, self.settings)

    def image(self, profile: Profile) -> str:
        """The image of a profile's pods."""
        return profile.image or self.settings.kernel_image

    async def code(self, kernel: Json) -> Json:
        """The ConfigMap of the agent's files, made where it is not there yet.

        Args:
            kernel: the Secret of a kernel. Where the installation does not last, the ConfigMap goes with its last one.
        """
        if self._code is None or not self.own.lasts:
            self._code = await self._kept_code([] if self.own.lasts else [objects.reference(kernel)])
        return self._code

    async def _kept_code(self, kernels: Sequence[Json]) -> Json:
        while True:
            wanted = objects.agent_code(
                self.own.instance, self.own.owners if self.own.lasts else kernels, agent_files()
            )
            name = wanted["metadata"]["name"]
            try:
                found = await self.api.find("configmaps", name)
                if found is None:
                    return await self.api.create("configmaps", wanted)
                owners = found["metadata"].get("ownerReferences") or []
                missing = [one for one in kernels if one not in owners]
                if missing:
                    version = found["metadata"]["resourceVersion"]
                    change = {"metadata": {"resourceVersion": version, "ownerReferences": [*owners, *missing]}}
                    await self.api.patch("configmaps", name, change)
            except (Exists, Changed, Missing):
                logger.debug("%s was changed by another start", name)
            else:
                return wanted

    @property
    def code_name(self) -> str:
        """Of the ConfigMap that kernels started now have."""
        return str(objects.agent_code(self.own.instance, [], agent_files())["metadata"]["name"])

    async def events(self, pod_name: str) -> Sequence[Json]:
        """What the cluster says of a pod; nothing where that may not be read."""
        try:
            return (await self.api.list("events", fields=f"involvedObject.name={pod_name}")).items
        except JupyterMcpError as error:
            logger.debug("the events of %s cannot be read: %s", pod_name, error)
            return ()

    @asynccontextmanager
    async def turn(self, progress: Callable[[str], None]) -> AsyncIterator[None]:
        """One of 32 starts at once."""
        if self._starting.locked():
            progress(f"waiting for its turn: {STARTS_AT_ONCE} kernels are starting")
        async with self._starting:
            yield


@asynccontextmanager
async def open_cluster(
    settings: Settings, *, resolver: dns.asyncresolver.Resolver | None = None, lease_scale: float = 1.0
) -> AsyncIterator[Cluster]:
    """Connect, and look where this server is. `Pods.list` and `Pods.run` are for the caller.

    Args:
        resolver: whom to ask for names; None, the servers of /etc/resolv.conf.
        lease_scale: of the Lease's times, for tests.

    Raises:
        Unavailable: there is no cluster, or it does not answer; `Denied` with the line that the server's Role lacks.
        InvalidRequest: no namespace, or the state folder is where kernels would see it.
    """
    async with open_api(settings) as api:
        own = await look_around(api, settings)
        yield Cluster(settings, api, own, Names(api.namespace, resolver=resolver), lease_scale=lease_scale)
