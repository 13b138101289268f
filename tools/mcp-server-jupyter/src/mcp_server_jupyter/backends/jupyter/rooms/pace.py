"""How fast a live document is written. Browsers draw what they are sent, and keep it."""

from __future__ import annotations

import anyio

BYTES_A_SECOND = 1_000_000
_LONGEST_SECONDS = 2.0


class Pace:
    """Of one document."""

    def __init__(self) -> None:
        self._free_at = anyio.current_time()

    def spend(self, size: int) -> None:
        """So many bytes were sent."""
        self._free_at = max(self._free_at, anyio.current_time()) + size / BYTES_A_SECOND

    async def wait(self) -> None:
        """Wait as long as what was sent keeps those busy who are in the room; what comes meanwhile goes together."""
        left = self._free_at - anyio.current_time()
        if left > 0:
            await anyio.sleep(min(left, _LONGEST_SECONDS))
