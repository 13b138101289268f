"""One server at a time: a Lease says whose the kernels are, and its number goes with every command to an agent.

The holder writes the time every 2 s; who finds it unchanged for 15 s takes it over. Clocks are never compared: each
server counts from when it saw the last change itself. A holder that cannot reach the API server goes on, as nobody can
take the Lease there either, and agents refuse a number lower than one they have met.
Source: kubernetes.io, "Leases"; client-go's leader election.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio

from ...errors import JupyterMcpError, Unavailable
from .api import Api
from .refusals import Changed, Denied, Exists

logger = logging.getLogger(__name__)

Json = dict[str, Any]

DURATION_SECONDS = 15.0
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
_NUMBER = "mcp-jupyter/number"


class Lease:
    """The Lease of one installation, and whether it is ours.

    Args:
        identity: of this server's process; no other one ever has it.
        labels: of the object.
        scale: of all the times; tests cannot wait for 15 s.
    """

    def __init__(
        self, api: Api, name: str, identity: str, *, labels: Json, owners: list[Json], scale: float = 1.0
    ) -> None:
        self.name = name
        self.identity = identity
        self.number = 0
        """Rises with every holder, 0 while we are none."""
        self._api = api
        self._metadata: Json = {"name": name, "labels": labels, "ownerReferences": owners}
        self._scale = scale
        self._lease: Json = {}
        self._superseded: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def acquire(self, waiting: Callable[[str], None]) -> None:
        """Return once it is ours.

        Args:
            waiting: told what is waited for, whenever that changes: "held by server-5f4d".

        Raises:
            Denied: the account may not; it never will by waiting.
        """
        seen: tuple[str, str] | None = None
        since = time.monotonic()
        told = ""
        while True:
            try:
                lease = await self._api.find("leases", self.name)
                holder = _holder(lease)
                if (mark := (holder, _renewed(lease))) != seen:
                    seen, since = mark, time.monotonic()
                if not holder or time.monotonic() - since >= DURATION_SECONDS * self._scale:
                    await self._take(lease)
                    return
                why = f"held by {holder.partition('/')[0]}"
            except Denied:
                raise
            except (Changed, Exists):
                continue
            except Unavailable as error:
                why = str(error)
            if why != told:
                told = why
                waiting(why)
            await anyio.sleep(RETRY_SECONDS * self._scale)

    async def keep(self) -> None:
        """Renew it for ever; returns when it is another's."""
        while not self._superseded.done():
            await anyio.sleep(RETRY_SECONDS * self._scale)
            try:
                self._lease = await self._api.replace("leases", self.name, self._held(self._lease))
            except Changed:
                await self._look()
            except JupyterMcpError as error:
                if isinstance(error, Unavailable):
                    logger.debug("the Lease cannot be renewed now: %s", error)
                    continue
                # Deleted: whoever makes it next has a higher number.
                await self._look()

    async def superseded(self) -> str:
        """Return with the identity of whoever has it now, once that is not us."""
        return await asyncio.shield(self._superseded)

    def supersede(self, holder: str) -> None:
        """Know from elsewhere (an agent that has met a higher number) that it is another's."""
        if not self._superseded.done():
            self._superseded.set_result(holder)

    @property
    def is_lost(self) -> bool:
        """Whether another server has it."""
        return self._superseded.done()

    async def release(self, *, remove: bool = False) -> None:
        """Let the next server take it at once; `remove` it where none will come."""
        if self.number == 0 or self._superseded.done():
            return
        if remove:
            try:
                await self._api.delete("leases", self.name, uid=self._lease["metadata"]["uid"])
            except JupyterMcpError as error:
                logger.debug("the Lease cannot be removed, and is let go: %s", error)
            else:
                self.number = 0
                return
        lease = {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
        try:
            await self._api.replace("leases", self.name, lease)
        except JupyterMcpError as error:
            logger.warning("the Lease is left to run out: %s", error)
        self.number = 0

    async def _look(self) -> None:
        try:
            lease = await self._api.find("leases", self.name)
        except JupyterMcpError:
            return
        if lease is None:
            try:
                await self._take(None)
            except JupyterMcpError:
                return
        elif _holder(lease) == self.identity:
            self._lease = lease
        else:
            self.supersede(_holder(lease) or "another server")

    async def _take(self, lease: Json | None) -> None:
        """Raises `Changed` or `Exists` when another was faster."""
        spec = (lease or {}).get("spec") or {}
        annotations = ((lease or {}).get("metadata") or {}).get("annotations") or {}
        # Rises also over a Lease that somebody deleted, whose last number nobody knows.
        number = max(int(annotations.get(_NUMBER, 0)) + 1, self.number + 1, int(time.time()))
        taken: Json = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**self._metadata, "annotations": {**annotations, _NUMBER: str(number)}},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(DURATION_SECONDS),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (1 if lease else 0),
            },
        }
        if lease is None:
            self._lease = await self._api.create("leases", taken)
        else:
            taken["metadata"]["resourceVersion"] = lease["metadata"]["resourceVersion"]
            self._lease = await self._api.replace("leases", self.name, taken)
        self.number = number

    def _held(self, lease: Json) -> Json:
        return {**lease, "spec": {**lease["spec"], "holderIdentity": self.identity, "renewTime": _now()}}


def _holder(lease: Json | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")


def _renewed(lease: Json | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("renewTime") or "")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
