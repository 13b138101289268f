"""What happened, told to whoever listens: user interfaces, metrics, resource subscriptions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio


@dataclass(frozen=True, slots=True)
class Event:
    """One happening. `kind` is dotted, as "execution.finished"; `at` is seconds since the epoch."""

    kind: str
    data: dict[str, Any]
    at: float = field(default_factory=time.time)


Listener = Callable[[Event], None]


class Subscription:
    """An async iterator over the events since it was made. The oldest of more than `limit` unread ones are dropped."""

    def __init__(self, limit: int) -> None:
        self._unread: deque[Event] = deque(maxlen=limit)
        self._arrived = anyio.Event()

    def put(self, event: Event) -> None:
        self._unread.append(event)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._unread:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._unread.popleft()


class Events:
    """Fan-out within the process. Publishing never waits and costs nothing while nobody listens."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def publish(self, kind: str, **data: Any) -> None:
        if self._listeners:
            event = Event(kind, data)
            for listener in list(self._listeners.values()):
                listener(event)

    def pass_on(self, event: Event) -> None:
        """Tell what was published elsewhere."""
        for listener in list(self._listeners.values()):
            listener(event)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; it must neither wait nor raise.

        Returns what ends it, which may be called more than once.
        """
        token = object()
        self._listeners[token] = listener

        def stop() -> None:
            self._listeners.pop(token, None)

        return stop

    @contextmanager
    def subscribe(self, limit: int = 1_000) -> Iterator[Subscription]:
        subscription = Subscription(limit)
        stop = self.listen(subscription.put)
        try:
            yield subscription
        finally:
            stop()
