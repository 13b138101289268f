"""Others may use the machine too: wait for a quiet moment before a sample, and say how often there was none."""

from __future__ import annotations

import asyncio
from pathlib import Path


class Quiet:
    """`await quiet()` returns when under 15 % of the CPU was used for 0.1 s, or after `seconds` (0: at once)."""

    def __init__(self, seconds: float = 0.5) -> None:
        self._seconds = seconds
        self.samples = 0
        self.never = 0

    async def __call__(self) -> None:
        self.samples += 1
        for _ in range(int(self._seconds / 0.1)):
            total, idle = _ticks()
            await asyncio.sleep(0.1)
            later, later_idle = _ticks()
            if later == total or (later_idle - idle) / (later - total) > 0.85:
                return
        self.never += 1


def _ticks() -> tuple[int, int]:
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except FileNotFoundError:  # not Linux: every moment counts as quiet
        return 0, 0
    return sum(fields), fields[3] + fields[4]
