"""Putting the agent's stream together again from its pieces."""

from __future__ import annotations

from collections.abc import Iterator

from ..shared import recording
from .agent.protocol import NAMES


class Pieces:
    """A place in the stream, and what has come from there on but is no whole record yet."""

    def __init__(self) -> None:
        self.at = 0
        """Up to here, all records have been taken."""
        self._buffer = bytearray()

    @property
    def have(self) -> int:
        """Up to here, all bytes have come."""
        return self.at + len(self._buffer)

    def begin(self, at: int) -> None:
        """Go on at another place, where a record begins."""
        self.at = at
        self._buffer.clear()

    def add(self, data: bytes) -> Iterator[tuple[str, list[bytes]]]:
        """The records that these bytes, which follow what has come, make whole; each is taken as it is given."""
        self._buffer += data
        # Not looked through again for every piece of a big record.
        if len(self._buffer) < recording.LENGTH.size + self._needed():
            return
        whole = list(recording.records(bytes(self._buffer)))
        begin = self.at
        del self._buffer[: whole[-1][0]]
        for end, body in whole:
            self.at = begin + end
            yield NAMES.get(body[:1], ""), recording.frames(body[1:])

    def _needed(self) -> int:
        if len(self._buffer) < recording.LENGTH.size:
            return 0
        return int(recording.LENGTH.unpack_from(self._buffer)[0])
