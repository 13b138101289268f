"""What our server and the agent say to each other, and how it is sealed. Both sides import this.

A command is one ZMQ message: a seal, a JSON header, and frames that go with it. Its header has

* `do`: `hello`, `read`, `fetch`, `find`, `send`, `signal`, `spawn`, `stats`, `stop`;
* `id`: a number that its answer repeats;
* `lease`: the Lease's number. A lower one than the agent has met is refused (`error`: `lease`, with `lease`).

The stream is everything the kernel published, replied to us or asked us for, and the agent's own events, as records
one after the other; a place in it is its distance in bytes from the stream's beginning, and never means anything
else. A record is a length and a body; the body is one of the kinds below and then frames.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

VERSION = 1
PIECE = 1 << 20
"""At most so many bytes of the stream in one message."""
WINDOW = 4 << 20
"""The agent sends so many bytes of the stream beyond what our server said it has."""

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
KINDS = {"shell": b"s", "iopub": b"i", "stdin": b"n", "control": b"c", "event": b"e"}
NAMES = {code: name for name, code in KINDS.items()}

TO_AGENT, FROM_AGENT = b"to agent", b"from agent"
DELIMITER = b"<IDS|MSG>"


def seal(key: bytes, way: bytes, header: dict[str, Any], payload: Sequence[bytes] = ()) -> list[bytes]:
    """One message as frames."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return [_seal(key, way, head, payload), head, *payload]


def unseal(key: bytes, way: bytes, frames: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Header and payload of a message, or None for one that the other side has not sent."""
    if len(frames) < 2:
        return None
    given, head, *payload = frames
    if not hmac.compare_digest(given, _seal(key, way, head, payload)):
        return None
    try:
        header = json.loads(head)
    except ValueError:
        return None
    return (header, payload) if isinstance(header, dict) else None


def _seal(key: bytes, way: bytes, head: bytes, payload: Sequence[bytes]) -> bytes:
    made = hmac.new(key, way, hashlib.sha256)
    # With its length before each: what ends where is part of what is sealed.
    for frame in (head, *payload):
        made.update(b"%d " % len(frame))
        made.update(frame)
    return made.digest()


def is_signed(key: bytes, frames: Sequence[bytes]) -> bool:
    """Whether a Jupyter message (jupyter-client docs, "The wire protocol") was signed with the kernel's key."""
    try:
        at = frames.index(DELIMITER)
    except ValueError:
        return False
    if len(frames) < at + 6:
        return False
    return hmac.compare_digest(frames[at + 1], signature(key, frames[at + 2 : at + 6]))


def signature(key: bytes, parts: Sequence[bytes]) -> bytes:
    """Of a Jupyter message's header, parent header, metadata and content."""
    return hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
