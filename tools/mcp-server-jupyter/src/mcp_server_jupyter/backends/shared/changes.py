"""Telling subscribers which notebooks changed, without waiting for slow ones."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator

import anyio


class Subscription(AsyncIterator[str]):
    """Paths as they change. A path that changes again before it was taken is told once, so nothing piles up."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._wake = anyio.Event()
        self._closed = False

    async def __anext__(self) -> str:
        while not self._paths:
            if self._closed:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        path = next(iter(self._paths))
        del self._paths[path]
        return path

    def tell(self, path: str) -> None:
        self._paths[path] = None
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()


class Changes:
    """The subscribers of one backend; one that is no longer held falls out by itself."""

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._closed = False

    def subscribe(self) -> AsyncIterator[str]:
        """From now on, until `close`."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.close()
        return subscription

    def tell(self, path: str) -> None:
        for subscription in self._subscriptions:
            subscription.tell(path)

    def close(self) -> None:
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
