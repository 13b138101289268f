"""Server-sent events for user interfaces (WHATWG HTML, "Server-sent events"): what happens here, as it happens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...events import Event, Events
from .json_text import write_json

HEARTBEAT_SECONDS = 15.0
KEPT = 2_000
_MAX_DIGITS = 18
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventLog:
    """The last events, numbered, so that a client that was cut off goes on where it was.

    An id is `<start of the server>-<number>`; one of an earlier server, or older than what is kept, is answered with
    a `reset` event first: the client has missed something and should read the state anew.
    """

    def __init__(self, events: Events, *, kept: int = KEPT) -> None:
        self._events = events
        self._start = f"{time.time_ns() // 1_000_000:x}"
        self._kept: deque[tuple[int, Event]] = deque(maxlen=kept)
        self._number = 0
        self._news = anyio.Event()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep what happens meanwhile."""
        stop = self._events.listen(self._append)
        try:
            yield
        finally:
            stop()

    def _append(self, event: Event) -> None:
        self._number += 1
        self._kept.append((self._number, event))
        self._news.set()

    def _position(self, last_id: str | None) -> tuple[int, bool]:
        """The number to go on after, and whether something was missed."""
        if last_id is None:
            return self._number, False
        found = Position.parse(last_id)
        oldest = self._kept[0][0] if self._kept else self._number + 1
        if found is not None and found.start == self._start and oldest - 1 <= found.number <= self._number:
            return found.number, False
        return oldest - 1, True

    async def stream(self, last_id: str | None) -> AsyncIterator[bytes]:
        """Everything after `last_id` (absent: from now on), with a comment every 15 s of silence."""
        position, missed = self._position(last_id)
        yield framed(retry=1000)
        if missed:
            yield framed(event="reset", data="{}")
        while True:
            for number, event in list(self._kept):
                if number > position:
                    position = number
                    yield self._event(number, event)
            if self._number > position:
                continue
            if self._news.is_set():
                self._news = anyio.Event()
            with anyio.move_on_after(HEARTBEAT_SECONDS) as silence:
                await self._news.wait()
            if silence.cancelled_caught:
                yield framed(comment="still here")

    def _event(self, number: int, event: Event) -> bytes:
        data = write_json({"at": event.at, **event.data}).decode()
        return framed(id=f"{self._start}-{number}", event=event.kind, data=data)

    async def endpoint(self, request: Request) -> Response:
        if request.method == "HEAD":  # an endless body would never end, though nobody is to get it
            return Response(media_type="text/event-stream", headers=HEADERS)
        stream = self.stream(request.headers.get("last-event-id"))
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


@dataclass(frozen=True, slots=True)
class Position:
    """An event's id, `<start of the server>-<number>`, read."""

    start: str
    number: int

    @classmethod
    def parse(cls, event_id: str) -> Position | None:
        """None for what is no id of ours."""
        start, _, digits = event_id.rpartition("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
            return None
        return cls(start, int(digits))


def framed(
    *,
    id: str | None = None,
    event: str | None = None,
    data: str | None = None,
    retry: int | None = None,
    comment: str | None = None,
) -> bytes:
    """One event of a stream, as it is sent."""
    return ServerSentEvent(data, event=event, id=id, retry=retry, comment=comment, sep="\n").encode()
