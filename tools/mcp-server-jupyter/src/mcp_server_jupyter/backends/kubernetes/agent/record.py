"""The stream on disk: bounded, the oldest dropped, read from any place that is still there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...shared import recording
from .protocol import KINDS

# Up to this, one write of joined parts is cheaper than several.
_JOINED = 256 << 10
_BATCH = 4 << 20
_MEMORY_SEGMENT, _MEMORY_SEGMENTS = 1 << 20, 8


class _Segment:
    """Records from one place of the stream on: in a file, or in memory where the disk takes no more."""

    def __init__(self, start: int, path: str | None) -> None:
        self.start = start
        self.size = 0
        self.path = path
        self.memory = bytearray()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.file = os.open(path, flags, 0o600) if path is not None else -1

    def append(self, parts: Sequence[bytes]) -> None:
        end = self.size
        try:
            for part in parts:
                if self.file < 0:
                    self.memory += part
                    end += len(part)
                view = memoryview(part)
                while self.file >= 0 and view:
                    written = os.pwrite(self.file, view, end)
                    view, end = view[written:], end + written
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.file, self.size)
            raise
        self.size = end

    def read(self, at: int, most: int) -> bytes:
        most = min(most, self.size - at)
        if self.file < 0:
            return bytes(self.memory[at : at + most])
        return os.pread(self.file, most, at)

    def drop(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            with suppress(OSError):
                os.unlink(self.path or "")


class Record:
    """One agent's stream.

    Args:
        folder: for its files; what lies there from before is removed.
        segment_bytes: of one file; a record that is bigger has a file of its own.
        segments: files kept, three at least. Twice `segment_bytes` is the biggest record taken.
    """

    def __init__(self, folder: str, segment_bytes: int, segments: int) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.most_bytes = segment_bytes * max(segments, 3)
        self._segments: list[_Segment] = []
        self.end = 0
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            if name.startswith("stream."):
                os.unlink(os.path.join(folder, name))

    @property
    def first(self) -> int:
        """The first place that can still be read; a record begins there."""
        return self._segments[0].start if self._segments else self.end

    def append(self, parts: Sequence[bytes]) -> bool:
        """Take whole records, in parts that need not be joined. False: they are too big, and nothing was taken."""
        size = sum(map(len, parts))
        if size > 2 * self.segment_bytes:
            return False
        last = self._segments[-1] if self._segments else None
        bound = self.segment_bytes if last is None or last.file >= 0 else _MEMORY_SEGMENT
        if last is None or last.size + size > bound:
            last = self._begin(size)
        try:
            last.append(parts)
        except OSError:
            # A full disk must cost neither the kernel nor who listens now.
            last = self._in_memory()
            last.append(parts)
        self.end += size
        return True

    def read(self, at: int, most: int) -> bytes:
        """Up to `most` bytes from a place between `first` and `end` on; none if a file cannot be read."""
        for segment in reversed(self._segments):
            if segment.start <= at:
                try:
                    return segment.read(at - segment.start, most)
                except OSError:
                    return b""
        return b""

    def _begin(self, size: int) -> _Segment:
        while self._segments and self.end - self.first + max(size, self.segment_bytes) > self.most_bytes:
            self._segments.pop(0).drop()
        try:
            segment = _Segment(self.end, os.path.join(self.folder, f"stream.{self.end}"))
        except OSError:
            return self._in_memory()
        self._segments.append(segment)
        return segment

    def _in_memory(self) -> _Segment:
        held = [segment for segment in self._segments if segment.file < 0]
        if len(held) >= _MEMORY_SEGMENTS:
            # All up to it: what is kept has no holes.
            while self._segments.pop(0) is not held[0]:
                pass
        segment = _Segment(self.end, None)
        self._segments.append(segment)
        return segment


class Batch:
    """Records on their way into a stream, written together: one after another would cost a write each."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._held: list[list[bytes]] = []
        self._bytes = 0

    def put(self, kind: str, frames: list[bytes]) -> None:
        """Take one; `write` writes it, at the latest when much is held."""
        size = 1 + sum(recording.LENGTH.size + len(part) for part in frames)
        if size < _JOINED:
            one = [recording.pack_body(KINDS[kind], frames)]
        else:
            # Not copied: what a kernel shows may be as big as what its container has left.
            one = [recording.LENGTH.pack(size) + KINDS[kind]]
            for part in frames:
                one += (recording.LENGTH.pack(len(part)), part)
        self._held.append(one)
        self._bytes += size
        if self._bytes >= _BATCH:
            self.write()

    def tell(self, event: str, **what: Any) -> None:
        """Take an event of the agent's own."""
        self.put("event", [_event(event, **what)])

    def write(self) -> None:
        """Write what is held. What is too big is left out, and said to be in its place."""
        if not self._held:
            return
        held, size = self._held, self._bytes
        self._held, self._bytes = [], 0
        parts = [part for one in held for part in one]
        if self._record.append([b"".join(parts)] if size < _JOINED else parts):
            return
        for one in held:
            if not self._record.append(one):
                # In its place: whoever waits for it may have its end before the next batch.
                told = _event("dropped", bytes=sum(map(len, one)))
                self._record.append([recording.pack_body(KINDS["event"], [told])])


def _event(event: str, **what: Any) -> bytes:
    return json.dumps({"event": event, "at": time.time(), **what}).encode()
