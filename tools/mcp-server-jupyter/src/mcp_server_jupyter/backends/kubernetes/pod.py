"""One kernel's place in the cluster: its Secret, its Service, and the Pod of its current generation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio

from ...errors import JupyterMcpError, KernelStartFailed, NotFound, Unavailable
from ...ports import Death
from . import causes, objects
from .cluster import Cluster
from .delivery import agent_config
from .forward import Forwards
from .host import AGENT_PORT, Keys, Launch, Place
from .names import reaches
from .objects import Identity
from .profiles import Profile
from .quantities import amount
from .refusals import Exists, Missing

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_LOOK_SECONDS = 2.0
_EVENTS_SECONDS = 5.0
_REACH_SECONDS = {True: 30.0, False: 10.0}
# The kubelet tells of an end within a second or two of it.
_TOLD_SECONDS = 4.0
_REMOVE_GRACE_SECONDS = 2


class PodHost:
    """A `host.Host` made of Kubernetes objects.

    Args:
        forwards: where pods are reached through the API server; None where they are reached directly.
        secret: of a kernel that an earlier server has made.
        state: "warm" for one that waits for its first user.
    """

    def __init__(
        self,
        cluster: Cluster,
        identity: Identity,
        keys: Keys,
        *,
        cwd: str = "",
        name: str = "",
        forwards: Forwards | None = None,
        secret: Json | None = None,
    ) -> None:
        self.identity = identity
        self.cwd = cwd
        self.name = name
        self.secret = secret
        self._keys = keys
        self._cluster = cluster
        self._forwards = forwards
        self._found: tuple[str, str, int] | None = None
        self._seen: Json | None = None

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def keys(self) -> Keys:
        return self._keys

    @property
    def lease(self) -> int:
        return self._cluster.lease.number

    @property
    def place(self) -> Place:
        pod = self._pod() or self._seen
        if pod is None:
            return Place(f"pod {self.identity.pod}")
        node = pod["spec"].get("nodeName")
        limit = amount(str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "")))
        where = f"pod {self.identity.pod}" + (f" on {node}" if node else "")
        return Place(where, round(limit) if limit else None)

    def _pod(self) -> Json | None:
        pod = self._cluster.pods.get(self.identity.pod)
        if pod is not None:
            self._seen = pod
        return pod

    # ------------------------------------------------------------------ what to start

    async def plan(self, epoch: int) -> Launch:
        """See `host.Host.plan`."""
        profile = (await self._cluster.profiles()).get(self.name)
        ipykernel = any("ipykernel" in word for word in profile.command)
        return Launch(
            profile.name,
            profile.language,
            profile.command,
            self._folder(profile),
            env=profile.env,
            epoch=epoch,
            folder=self.cwd,
            interrupt_mode="message" if profile.interrupt_mode == "message" else "signal",
            ipc=ipykernel,
            fast=ipykernel and self._cluster.settings.fast_kernels,
        )

    def _folder(self, profile: Profile) -> str:
        files = self._cluster.own.files
        if files is None or profile.files == "none":
            return objects.HOME
        return f"{files.path}/{self.cwd}" if self.cwd else files.path

    async def fits(self, launch: Launch) -> bool:
        """See `host.Host.fits`."""
        pod = self._pod()
        if pod is None or causes.over(pod) or pod["metadata"].get("deletionTimestamp"):
            return False
        try:
            profile = (await self._cluster.profiles()).get(launch.name)
        except NotFound:
            return False
        wanted = objects.template(profile, self._cluster.own, self._cluster.image(profile))
        return bool((pod["metadata"].get("annotations") or {}).get(objects.TEMPLATE_ANNOTATION) == wanted)

    # ------------------------------------------------------------------ making it

    async def create(self, launch: Launch, progress: Callable[[str], None]) -> None:
        """See `host.Host.create`."""
        profile = (await self._cluster.profiles()).get(launch.name)
        async with self._cluster.turn(progress):
            # What has been asked for of the API server is there or not: a cancelled start must know which.
            with anyio.CancelScope(shield=True):
                await self._make(launch, profile)
            await self._run(profile, progress)
            if (own := self._cluster.own).files is None and profile.files == "root":
                progress(f"starting the kernel in an empty home: {own.no_files}")
            else:
                progress("starting the kernel")
            await self._reach()

    async def _make(self, launch: Launch, profile: Profile) -> None:
        api, own = self._cluster.api, self._cluster.own
        data = {objects.AGENT_JSON: self._agent_json(launch)}
        notes = {"profile": launch.name, "cwd": self.cwd, "epoch": str(launch.epoch), "language": launch.language}
        if self.secret is None:
            notes["gen"] = str(self.identity.generation)
            self.secret = await api.create("secrets", objects.secret(self.identity, own.owners, data, notes))
        else:
            await self._end_pod()
            self.identity = self.identity.next()
            notes["gen"] = str(self.identity.generation)
            made = objects.secret(self.identity, own.owners, data, notes)
            change = {"metadata": {"annotations": made["metadata"]["annotations"]}, "data": made["data"]}
            self.secret = await api.patch("secrets", self.identity.secret, change)
        await self._point_service()
        code = await self._cluster.code(self.secret)
        pod = objects.pod(self.identity, self.secret, profile, own, self._cluster.image(profile), code)
        self._seen = await api.create("pods", pod)
        self._cluster.pods.put(self._seen)

    def _agent_json(self, launch: Launch) -> bytes:
        config = agent_config(
            self._keys,
            launch,
            lease=self.lease,
            folder=objects.KEYS_FOLDER,
            record=f"{objects.RECORD_FOLDER}/stream",
            orphan_seconds=self._cluster.settings.orphan_hours * 3600,
            grace_seconds=objects.GRACE_SECONDS,
        )
        return json.dumps(config).encode()

    async def _point_service(self) -> None:
        assert self.secret is not None
        api = self._cluster.api
        service = objects.service(self.identity, self.secret)
        if self.identity.generation > 1:
            try:
                await api.patch("services", self.identity.service, {"spec": {"selector": service["spec"]["selector"]}})
            except Missing:
                logger.info("the Service of kernel %s was gone, and is made anew", self.id)
            else:
                return
        try:
            await api.create("services", service)
        except Exists:
            await api.patch("services", self.identity.service, {"spec": {"selector": service["spec"]["selector"]}})

    async def _run(self, profile: Profile, progress: Callable[[str], None]) -> None:
        """Wait until the container runs, as long as there is hope."""
        patience = profile.schedule_seconds or self._cluster.settings.schedule_seconds
        deadline = time.monotonic() + patience
        events: list[Json] = []
        asked = time.monotonic() - _EVENTS_SECONDS + _LOOK_SECONDS
        told = ""
        while not causes.running(pod := await self._living()):
            stage = causes.stage(pod, events)
            if stage.fatal:
                stage = causes.stage(pod, await self._cluster.events(self.identity.pod))
                raise KernelStartFailed(f"The kernel's pod cannot start: {stage.text}.", hint="Mend its profile.")
            if stage.waits_for_node and time.monotonic() > deadline:
                raise Unavailable(
                    f"No node ran the kernel's pod within {patience:.0f} s: {stage.text}.",
                    hint="Shut kernels down, ask for less in its profile, or allow more --schedule-seconds.",
                )
            if stage.text != told:
                told = stage.text
                progress(told)
            await self._changed(pod)
            if time.monotonic() - asked >= _EVENTS_SECONDS:
                asked = time.monotonic()
                events = list(await self._cluster.events(self.identity.pod))

    async def _living(self) -> Json:
        """The pod.

        Raises:
            KernelStartFailed: it has ended.
        """
        pod = self._pod()
        if pod is None:
            raise KernelStartFailed("The kernel's pod was deleted while it started.", hint="Start it again.")
        if causes.over(pod):
            death = causes.death(pod, pod)
            raise KernelStartFailed(
                f"The kernel's pod ended while it started: {death.reason}.",
                log=await self._cluster.api.log(self.identity.pod),
                hint="Its image needs Python 3.9 or newer with pyzmq, and the kernel that its profile names.",
            )
        return pod

    async def _changed(self, pod: Json) -> None:
        with anyio.move_on_after(_LOOK_SECONDS):
            await self._cluster.pods.until(self.identity.pod, lambda now: now is not pod)

    # ------------------------------------------------------------------ reaching it

    async def _reach(self) -> None:
        """Return once the agent takes connections and its address is known.

        DNS is asked last: it publishes a pod a moment after the pod has its address, and a question too early would
        be answered wrongly for seconds.
        """
        seconds = _REACH_SECONDS[self._cluster.api.in_cluster]
        end = time.monotonic() + seconds
        while self._forwards is None:
            address = str((await self._living())["status"].get("podIP") or "")
            if address and await reaches(address, AGENT_PORT, 0.5):
                break
            if time.monotonic() > end:
                raise self._unreachable(address)
        await self.address()

    def _unreachable(self, address: str) -> Unavailable:
        what = f"The kernel's pod runs, but {address} port {AGENT_PORT} cannot be reached from here"
        if self._cluster.api.in_cluster:
            return Unavailable(
                f"{what}.",
                hint="The NetworkPolicy lets in pods with the label app: mcp-server-manager only: has the server its "
                "label? `mcp-server-jupyter doctor kubernetes` looks.",
            )
        return Unavailable(
            f"{what}: this machine is outside the cluster's network.",
            hint="Connect it by Telepresence or a VPN, or give --kernel-access port-forward.",
        )

    async def address(self) -> tuple[str, int]:
        """See `host.Host.address`."""
        pod = self._pod()
        ip = ((pod or {}).get("status") or {}).get("podIP", "")
        if pod is None or not ip or causes.over(pod):
            raise Unavailable(f"The pod {self.identity.pod} has no address now.", hint="Wait, or restart the kernel.")
        if self._found is None or self._found[0] != pod["metadata"]["uid"]:
            if self._forwards is not None:
                self._found = (pod["metadata"]["uid"], *await self._forwards.open(self.identity.pod))
            else:
                found = await self._cluster.names.find(self.identity.service, objects.AGENT_PORT_NAME, ip)
                if found.degraded:
                    logger.warning(
                        "kernel %s: the cluster's DNS was no help (%s); going by the API server's address for its pod",
                        self.id,
                        found.reason,
                    )
                self._found = (pod["metadata"]["uid"], found.address, AGENT_PORT)
        return self._found[1], self._found[2]

    # ------------------------------------------------------------------ its end

    async def ended(self) -> Death:
        """See `host.Host.ended`."""
        name = self.identity.pod

        def is_over(pod: Json | None) -> bool:
            self._seen = pod or self._seen
            return pod is None or causes.over(pod)

        pod = await self._cluster.pods.until(name, is_over)
        return self._death(name, pod, None)

    async def cause(self, told: Death, *, ending: bool = False) -> Death:
        """See `host.Host.cause`."""
        name = self.identity.pod
        if ending:
            with anyio.move_on_after(_TOLD_SECONDS):
                await self._cluster.pods.until(name, lambda pod: pod is None or causes.explained(pod))
            told = replace(told, reason="its pod was told to end, and the cluster does not say why")
        return self._death(name, self._pod(), told)

    def _death(self, name: str, pod: Json | None, told: Death | None) -> Death:
        last = self._cluster.pods.last(name) or self._seen
        if last is None:
            return told or Death(None, "its pod is gone")
        if pod is not None and told is None and not causes.over(pod):
            return Death(None, "its agent does not answer any more")
        return causes.death(pod, last, told)

    async def remove(self) -> None:
        """See `host.Host.remove`."""
        # The anchor first: should it be all that can be deleted, the cluster removes what it owns.
        left = (("secrets", self.identity.secret), ("pods", self.identity.pod), ("services", self.identity.service))
        with anyio.CancelScope(shield=True):
            for resource, name in left:
                try:
                    await self._cluster.api.delete(resource, name, grace_seconds=_REMOVE_GRACE_SECONDS)
                except JupyterMcpError as error:
                    logger.warning("%s %s goes with the next sweep: %s", resource, name, error)
            if self._forwards is not None:
                await self._forwards.close(self.identity.pod)

    async def _end_pod(self) -> None:
        await self._cluster.api.delete("pods", self.identity.pod, grace_seconds=_REMOVE_GRACE_SECONDS)
        if self._forwards is not None:
            self._forwards.move(self.identity.pod, self.identity.next().pod)

    async def note(self, **annotations: str) -> None:
        """See `host.Host.note`."""
        change = {objects.PREFIX + name: value for name, value in annotations.items()}
        self.secret = await self._cluster.api.patch(
            "secrets", self.identity.secret, {"metadata": {"annotations": change}}
        )

    async def claim(self, cwd: str) -> None:
        """Take a warm one for a first user: one write, which only one server's can be.

        Raises:
            Changed: another server was faster.
            Missing: it is gone.
        """
        assert self.secret is not None
        change = {
            "metadata": {
                "resourceVersion": self.secret["metadata"]["resourceVersion"],
                "labels": {objects.STATE_LABEL: "used"},
                "annotations": {f"{objects.PREFIX}cwd": cwd},
            }
        }
        self.secret = await self._cluster.api.patch("secrets", self.identity.secret, change)
        self.identity = replace(self.identity, state="used")
        self.cwd = cwd

    def was_cut_short(self) -> bool:
        """Whether the server that made it ended before its pod ran: nothing is lost with it."""
        pod = self._pod()
        return pod is not None and not causes.running(pod) and not causes.over(pod)
