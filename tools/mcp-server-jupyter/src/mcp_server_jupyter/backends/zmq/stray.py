"""Messages that come after their request has ended: what a thread or a task prints later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from ...ports import Message


class Stray:
    """A bounded buffer of late messages with one reader. What nobody takes is dropped, the oldest first.

    Args:
        most: messages kept.
        most_bytes: bytes of them kept, as they came over the wire.
    """

    def __init__(self, most: int = 1000, most_bytes: int = 8 << 20) -> None:
        self.dropped = 0
        self._most = most
        self._most_bytes = most_bytes
        self._kept: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def feed(self, message: Message, size: int) -> None:
        """Take one message of `size` bytes; the dispatcher's side."""
        self._kept.append((message, size))
        self._bytes += size
        while len(self._kept) > self._most or (self._bytes > self._most_bytes and len(self._kept) > 1):
            self._bytes -= self._kept.popleft()[1]
            self.dropped += 1
        self._changed.set()

    def forget(self, parent_id: str) -> None:
        """Drop what is kept of a request: whoever takes it up again has it from the recorder's log."""
        kept = [(message, size) for message, size in self._kept if message.parent_id != parent_id]
        self._kept = deque(kept)
        self._bytes = sum(size for _, size in kept)

    def end(self) -> None:
        """No more will come; what is kept is still delivered."""
        self._ended = True
        self._changed.set()

    async def messages(self) -> AsyncIterator[Message]:
        """Each message once, as they come."""
        while True:
            while self._kept:
                message, size = self._kept.popleft()
                self._bytes -= size
                yield message
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()
