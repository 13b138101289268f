"""What is written down of runs, and who waits to hear of it."""

from __future__ import annotations

from typing import Any

import anyio

from ..journal import Journal, RunRow


class Record:
    """The rows and events of runs: each change is in the journal before anybody is told."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._news: dict[str, anyio.Event] = {}

    def change(self, row: RunRow, *names: str, event: dict[str, Any] | None = None) -> None:
        """Write down these columns of a run and an event, and tell of the event."""
        self._journal.change_run(row, *names, event=event)
        if event is not None:
            self.tell(row.id)

    def tell(self, run_id: str) -> None:
        """Wake whoever waits for news of a run."""
        if (news := self._news.pop(run_id, None)) is not None:
            news.set()

    async def news(self, run_id: str) -> None:
        """Return when something has happened to a run since this was called."""
        await self._news.setdefault(run_id, anyio.Event()).wait()
