"""How big a notebook is, without writing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def exceeds(value: Any, characters: int) -> bool:
    """Whether a notebook's texts and items together are more than that, which its JSON then is, too.

    Looks no further than that many, so a notebook of any size costs a few milliseconds at most.
    """
    return _room_left(value, characters) < 0


def _room_left(value: Any, room: int) -> int:
    if isinstance(value, str):
        return room - len(value) - 2
    room -= 1
    below = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in below:
        if room < 0:
            return room
        room = _room_left(inner, room - (len(key) if isinstance(key, str) else 0))
    return room
