"""The pods of one installation as they are now: a list, then a watch, for ever.

Whoever waits for a pod waits here and asks nobody. An API server that is away changes nothing: what was seen last
stands until it is known better.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import anyio

from ...errors import JupyterMcpError
from .api import Api, Listing
from .refusals import Expired

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_LONG_ENOUGH = 30.0
_REMEMBERED = 1_000


class Pods:
    """Kept current by `run`, which is one task of whoever owns this.

    Args:
        labels: the label selector.
    """

    def __init__(self, api: Api, labels: str) -> None:
        self.unreachable_since: float | None = None
        """Epoch seconds since when the API server has not answered; None while it does."""
        self._api = api
        self._labels = labels
        self._pods: dict[str, Json] = {}
        self._version = ""
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._last: dict[str, Json] = {}

    def get(self, name: str) -> Json | None:
        """A pod as it is now; None when there is none of this name."""
        return self._pods.get(name)

    def all(self) -> list[Json]:
        """Every pod."""
        return list(self._pods.values())

    async def until(self, name: str, test: Callable[[Json | None], bool]) -> Json | None:
        """Wait until the pod, or its absence, passes the test; the pod."""
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(name, set())
        waiting.add(changed)
        try:
            while not test(pod := self._pods.get(name)):
                changed.clear()
                await changed.wait()
            return pod
        finally:
            waiting.discard(changed)
            if not waiting:
                self._waiting.pop(name, None)

    def put(self, pod: Json) -> None:
        """Know a pod that the API server just answered with, before the watch says so."""
        name = pod["metadata"]["name"]
        known = self._pods.get(name)
        if known is None or _version(known) <= _version(pod):
            # Who wrote which field when: as much again as all the rest, and of use to nobody here.
            pod["metadata"].pop("managedFields", None)
            self._pods[name] = pod
            self._tell(name)

    def drop(self, pod: Json) -> None:
        """Know that a pod is gone."""
        name = pod["metadata"]["name"]
        known = self._pods.get(name)
        if known is not None and known["metadata"].get("uid") == pod["metadata"].get("uid"):
            del self._pods[name]
            self._tell(name)

    async def list(self) -> None:
        """Read all of them anew.

        Raises:
            JupyterMcpError: the API server does not answer, or refuses; nothing has changed.
        """
        listing = await self._api.list("pods", labels=self._labels)
        self._replace(listing)
        self._reached()

    async def run(self) -> None:
        """Follow the changes for ever."""
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                if not self._version:
                    await self.list()
                await self._follow()
                if time.monotonic() - started < 1:
                    # A server that ends every watch at once must not be asked in a circle.
                    await anyio.sleep(pause)
                pause = _FIRST_PAUSE
            except Expired:
                self._version = ""
                await anyio.sleep(_FIRST_PAUSE)
            except JupyterMcpError as error:
                if self.unreachable_since is None:
                    self.unreachable_since = time.time()
                    logger.warning("the pods cannot be watched: %s", error)
                pause = _FIRST_PAUSE if time.monotonic() - started > _LONG_ENOUGH else min(pause * 2, _LONGEST_PAUSE)
                await anyio.sleep(pause)

    async def _follow(self) -> None:
        """One watch; at its end the pods are listed again, so that nothing missed stays missed for long."""
        async for kind, pod in self._api.watch("pods", self._version, labels=self._labels):
            self._reached()
            self._version = pod["metadata"].get("resourceVersion", self._version)
            if kind in ("ADDED", "MODIFIED"):
                self.put(pod)
            elif kind == "DELETED":
                self._gone(pod)
        self._version = ""

    def last(self, name: str) -> Json | None:
        """A pod as it was when it went away, its last status with it. Asked once."""
        return self._last.pop(name, None)

    def _replace(self, listing: Listing) -> None:
        present = {pod["metadata"]["name"]: pod for pod in listing.items}
        for name, pod in list(self._pods.items()):
            # Made after the list was read: not missing.
            if name not in present and _version(pod) <= int(listing.version or 0):
                self._gone(pod)
        for pod in present.values():
            self.put(pod)
        self._version = listing.version

    def _gone(self, pod: Json) -> None:
        self._last[pod["metadata"]["name"]] = pod
        while len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        self.drop(pod)

    def _reached(self) -> None:
        if self.unreachable_since is not None:
            logger.info("the API server answers again")
            self.unreachable_since = None

    def _tell(self, name: str) -> None:
        for waiting in self._waiting.get(name, ()):
            waiting.set()


def _version(pod: Json) -> int:
    return int(pod["metadata"].get("resourceVersion") or 0)
