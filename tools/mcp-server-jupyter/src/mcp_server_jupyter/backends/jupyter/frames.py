"""Messages on a kernel's WebSocket: channel and frames, packed as `v1.kernel.websocket.jupyter.org`.

Source: jupyter-server docs, "WebSocket protocols" (the v1 protocol): a count of offsets, the offsets, each 8 bytes
little-endian, the channel's name, then the frames of the wire protocol from the header on, without a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast, get_args

from ...ports import Channel

PROTOCOL = "v1.kernel.websocket.jupyter.org"
_WORD = 8
_CHANNELS = frozenset(get_args(Channel))
# Header, parent, metadata, content.
_FEWEST = 4


def pack(channel: Channel, frames: Sequence[bytes]) -> bytes:
    """One message as it goes over the socket."""
    parts = [channel.encode(), *frames]
    count = len(parts) + 1
    offsets = accumulate((len(part) for part in parts), initial=_WORD * (count + 1))
    return b"".join([_number(count), *map(_number, offsets), *parts])


def unpack(data: bytes) -> tuple[Channel, list[bytes]] | None:
    """The channel and the frames of a message; None for what is none."""
    count = int.from_bytes(data[:_WORD], "little")
    if not _FEWEST + 2 <= count <= len(data) // _WORD:
        return None
    offsets = [int.from_bytes(data[_WORD * at : _WORD * (at + 1)], "little") for at in range(1, count + 1)]
    if offsets != sorted(offsets) or offsets[-1] > len(data):
        return None
    channel = data[offsets[0] : offsets[1]].decode("ascii", "replace")
    if channel not in _CHANNELS:
        return None
    frames = [data[start:end] for start, end in pairwise(offsets[1:])]
    return cast(Channel, channel), frames


def _number(value: int) -> bytes:
    return value.to_bytes(_WORD, "little")
