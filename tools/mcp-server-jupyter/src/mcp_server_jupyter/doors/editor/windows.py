"""The windows that have a stream."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import anyio

from ...errors import InvalidRequest
from ...services import Services
from .stream import WindowEvents

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(eq=False)
class Window:
    """One window's stream, until it ends or the window opens another one."""

    id: str
    is_open: bool = True
    speaking: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while something that the window has said is taken in: one at a time, in order."""


class Windows:
    """Every window of the root by its id. One of them has one stream at a time."""

    def __init__(self, services: Services, events: WindowEvents) -> None:
        self._services = services
        self._events = events
        self._windows: dict[str, Window] = {}

    def open(self, window_id: str) -> Window:
        """Begin a window's stream; an earlier one of the same window ends.

        Raises:
            InvalidRequest: that is no window's id.
        """
        if not _ID.match(window_id):
            raise InvalidRequest("That is no window's id.", hint="1 to 64 letters, digits, - and _.")
        window = Window(window_id)
        earlier = self._windows.get(window_id)
        self._windows[window_id] = window
        if earlier is not None:
            earlier.is_open = False
            self._events.wake()
        self._services.editors.joined(window_id)
        self._services.events.publish("window.opened", window=window_id)
        return window

    def close(self, window: Window) -> None:
        """The end of a stream."""
        window.is_open = False
        if self._windows.get(window.id) is window:
            del self._windows[window.id]
            self._services.editors.left(window.id)
            self._services.events.publish("window.closed", window=window.id)

    def get(self, window_id: str) -> Window | None:
        return self._windows.get(window_id)
