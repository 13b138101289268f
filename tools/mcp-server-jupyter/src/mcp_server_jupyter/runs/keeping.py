"""What is left of runs that have ended: kernels of failed ones for a while, folders and rows for longer."""

from __future__ import annotations

import logging
import time

import anyio
import anyio.to_thread

from ..errors import JupyterMcpError
from ..journal import RunRow
from ..services import Services
from .folders import Folders

logger = logging.getLogger(__name__)

_HOUR = 3600.0


class Keeper:
    """Ends kernels when their time is over, and forgets the oldest runs."""

    def __init__(self, services: Services, folders: Folders, most_kept: int) -> None:
        self._services = services
        self._folders = folders
        self._journal = services.journal
        self._settings = services.settings
        self._most_kept = most_kept
        self._changed = anyio.Event()
        self._claimed: set[str] = set()

    # ------------------------------------------------------------------ kernels

    def keep(self, row: RunRow) -> bool:
        """Keep the kernel of a run that has failed; whether that is done. Its row is not written yet."""
        session = self._services.sessions.find(self._folders.path(row.id))
        if not self._settings.keep_failed_seconds or session is None or session.death is not None:
            return False
        self._claimed.discard(row.id)
        row.kept_until = time.time() + self._settings.keep_failed_seconds
        self._wake()
        return True

    def claim(self, row: RunRow) -> bool:
        """A resumed run takes its kernel: from now on its time is not over. False where another request was faster."""
        if row.id in self._claimed:
            return False
        self._claimed.add(row.id)
        return True

    def keep_on(self, row: RunRow) -> None:
        """It was not resumed after all."""
        self._claimed.discard(row.id)
        self._wake()

    async def let_go(self, row: RunRow) -> None:
        """End a kernel that is kept."""
        row.kept_until = None
        self._journal.change_run(row, "kept_until")
        await self.end_kernel(row)

    async def end_kernel(self, row: RunRow) -> None:
        """End the kernel of a run, if it has one, whatever it does."""
        self._claimed.discard(row.id)
        session = self._services.sessions.find(self._folders.path(row.id))
        if session is not None:
            try:
                await self._services.sessions.shutdown(session, "the gateway")
            except JupyterMcpError as error:
                logger.warning("the kernel of run %s could not be ended: %s", row.id, error)

    async def recover(self, going_on: set[str]) -> None:
        """End the kernels of an earlier gateway that no run needs."""
        kept = {self._folders.path(row.id) for row in self._journal.kept_runs()}
        for session in self._services.sessions.all():
            if session.notebook not in going_on | kept:
                await self._services.sessions.shutdown(session, "the gateway")
        known = {row.id for row in (*self._journal.open_runs(), *self._journal.ended_runs())}
        for name in await anyio.to_thread.run_sync(lambda: list(self._folders.strange(known))):
            await anyio.to_thread.run_sync(self._folders.remove, name)

    async def watch(self) -> None:
        """End each kept kernel when its time is over, and forget old runs now and then."""
        while True:
            self._changed = anyio.Event()
            kept = [row for row in self._journal.kept_runs() if row.id not in self._claimed]
            for row in kept[: max(0, len(kept) - self._most_kept)]:
                await self.let_go(row)
            kept = kept[max(0, len(kept) - self._most_kept) :]
            pause = min(_HOUR, max(0.0, (kept[0].kept_until or 0.0) - time.time())) if kept else _HOUR
            with anyio.move_on_after(pause) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                for row in self._journal.kept_runs():
                    if row.id not in self._claimed and (row.kept_until or 0.0) <= time.time():
                        await self.let_go(row)
                await self.forget_old()

    def _wake(self) -> None:
        self._changed.set()

    # ------------------------------------------------------------------ folders and rows

    async def forget_old(self) -> None:
        """Forget the runs that are older than is kept, and the oldest of more bytes than are kept."""
        rows = self._journal.ended_runs()
        too_old = time.time() - self._settings.run_keep_hours * _HOUR
        size = sum(row.size for row in rows)
        for row in rows:
            over = size > self._settings.run_keep_megabytes * 2**20
            if row.kept_until is not None or not (over or (row.finished_at or 0.0) < too_old):
                continue
            # The row first: a folder without one is found and removed by the next start.
            self._journal.forget_run(row.id)
            self._services.sessions.forget(self._folders.path(row.id))
            await anyio.to_thread.run_sync(self._folders.remove, row.id)
            size -= row.size
