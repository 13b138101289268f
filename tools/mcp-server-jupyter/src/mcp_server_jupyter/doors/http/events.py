"""Server-sent events for user interfaces (WHATWG HTML, "Server-sent events"): what happens here, as it happens."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncIterator

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...events import Event, Events

HEARTBEAT_SECONDS = 15.0
KEPT = 2_000


class EventLog:
    """The last events, numbered, so that a client that was cut off goes on where it was.

    An id is `<start of the server>-<number>`; one of an earlier server, or older than what is kept, is answered with
    a `reset` event first: the client has missed something and should read the state anew.
    """

    def __init__(self, events: Events, *, kept: int = KEPT) -> None:
        self._events = events
        self._start = f"{time.time_ns() // 1_000_000:x}"
        self._kept: deque[tuple[int, str, str]] = deque(maxlen=kept)
        self._number = 0
        self._news = anyio.Event()

    async def follow(self) -> None:
        """Collect until cancelled."""
        with self._events.subscribe(limit=KEPT) as subscription:
            async for event in subscription:
                self._append(event)

    def _append(self, event: Event) -> None:
        self._number += 1
        text = json.dumps({"at": event.at, **event.data}, ensure_ascii=False, default=str)
        self._kept.append((self._number, event.kind, text))
        self._news.set()
        self._news = anyio.Event()

    def _position(self, last_id: str | None) -> tuple[int, bool]:
        """The number to go on after, and whether something was missed."""
        if last_id is None:
            return self._number, False
        start, _, number = last_id.rpartition("-")
        oldest = self._kept[0][0] if self._kept else self._number + 1
        if start == self._start and number.isdecimal() and oldest - 1 <= int(number) <= self._number:
            return int(number), False
        return oldest - 1, True

    async def stream(self, last_id: str | None) -> AsyncIterator[bytes]:
        """Everything after `last_id` (absent: from now on), with a comment every 15 s of silence."""
        position, missed = self._position(last_id)
        yield b"retry: 1000\n\n"
        if missed:
            yield b"event: reset\ndata: {}\n\n"
        while True:
            news = self._news
            for number, kind, text in list(self._kept):
                if number > position:
                    position = number
                    yield f"id: {self._start}-{number}\nevent: {kind}\ndata: {text}\n\n".encode()
            if self._number > position:
                continue
            with anyio.move_on_after(HEARTBEAT_SECONDS) as silence:
                await news.wait()
            if silence.cancelled_caught:
                yield b": still here\n\n"

    async def endpoint(self, request: Request) -> Response:
        return StreamingResponse(
            self.stream(request.headers.get("last-event-id")),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
