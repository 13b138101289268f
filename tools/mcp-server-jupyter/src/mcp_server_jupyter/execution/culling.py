"""When an idle kernel is to be shut down. The clock starts when the last cell has ended, not when it began."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from ..events import Events
from .session import Session

MOST_NOTICE_SECONDS = 60.0


class Culling:
    """Shuts down what has been idle for `seconds` (0: nothing), and says so before: a tenth of that, at most a minute.

    `shut_down(session, idle)` must not wait; `idle` is for people: "30 minutes".
    """

    def __init__(self, seconds: float, events: Events, shut_down: Callable[[Session, str], None]) -> None:
        self._seconds = seconds
        self._notice = min(seconds / 10, MOST_NOTICE_SECONDS)
        self._events = events
        self._shut_down = shut_down

    async def follow(self, session: Session) -> None:
        """Return once the session has been shut down; never where nothing is to be."""
        while self._seconds:
            if _works_for_others(session):
                # Nobody says when that ends: looked at now and then, only as long as it goes on.
                session.touch()
                await anyio.sleep(self._notice)
                continue
            left = self._seconds - session.idle_seconds
            if left <= 0:
                self._shut_down(session, in_words(self._seconds))
                return
            if left <= self._notice and session.ends_at is None:
                self._give_notice(session, left)
            await anyio.sleep(left if left <= self._notice else left - self._notice)
        await anyio.sleep_forever()

    def _give_notice(self, session: Session, left: float) -> None:
        session.ends_at = time.time() + left
        self._events.publish(
            "kernel.culling", kernel_id=session.id, notebook=session.notebook, seconds_left=round(left, 3)
        )


def _works_for_others(session: Session) -> bool:
    """Whether it does what came past our queue, or whether nobody can tell."""
    kernel = session.kernel
    busy = session.idle_seconds > 0 and kernel.state in ("busy", "starting")
    return busy or bool(session.ending) or kernel.unreachable_since is not None


def in_words(seconds: float) -> str:
    """A length of time for people, from two of a unit on: "90 seconds", "30 minutes", "12 hours"."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:.4g} seconds"
