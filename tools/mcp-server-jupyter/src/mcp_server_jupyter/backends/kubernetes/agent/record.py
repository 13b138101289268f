"""The stream on disk: bounded, the oldest dropped, read from any place that is still there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

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
