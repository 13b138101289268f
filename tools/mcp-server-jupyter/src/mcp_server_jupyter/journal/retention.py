"""What the journal forgets, and when."""

from __future__ import annotations

import sqlite3
import time

import anyio.lowlevel
import anyio.to_thread

from .schema import DROPPABLE
from .tables import Tables

_SLICE_ROWS = 32
_SLICE_PARTS = 4
_SLICE_PAGES = 256


class Retention(Tables):
    """Forgetting by age and by size, in slices of some milliseconds."""

    async def prune(self, *, max_age_days: float, max_bytes: int) -> None:
        """Forget what is old, then what is oldest until the file holds at most `max_bytes`.

        Executions that are not finished or not delivered stay.
        """
        oldest = time.time() - max_age_days * 86_400
        while self._drop_older(oldest):
            await anyio.lowlevel.checkpoint()
        await self._drop_unnamed()
        while (excess := self._used_bytes() - max_bytes) > 0 and self._drop_older(time.time(), self._rows_of(excess)):
            await anyio.lowlevel.checkpoint()
            await self._drop_unnamed()
        with self._transaction() as db:
            # Whoever knows no edit that is still there knows as much as one who was told nothing.
            db.execute("DELETE FROM told WHERE edit_id < (SELECT min(id) FROM edits)")
            db.execute("DELETE FROM confirmed WHERE notebook NOT IN (SELECT notebook FROM edits)")
        while self._shrink():
            await anyio.lowlevel.checkpoint()

    async def checkpoint(self, *, empty: bool = False) -> bool:
        """Bring what was written into the database file, in a thread: it waits for the disk, and nobody for it.

        SQLite begins its write-ahead log anew only once all of it is there: what is written meanwhile goes behind.

        Args:
            empty: give the log's file back to the disk, if all of it is there.

        Returns:
            Whether all of it was there.
        """
        with self._errors():
            return await anyio.to_thread.run_sync(_checkpoint, str(self.path), empty)

    def _rows_of(self, size: int) -> int:
        """How many rows hold so many bytes, if all are alike; at most a slice of them."""
        rows = int(self._query("SELECT (SELECT count(*) FROM executions) + (SELECT count(*) FROM edits)")[0][0])
        return max(1, min(_SLICE_ROWS, size * rows // self._used_bytes()))

    def _drop_older(self, oldest: float, rows: int = _SLICE_ROWS) -> bool:
        """Forget a slice of what is older; True if there was any."""
        dropped = 0
        with self._transaction() as db:
            for table, clock, where, columns in (
                ("executions", "queued_at", DROPPABLE, ("outputs",)),
                ("edits", "at", "1", ("before", "after")),
            ):
                ids = f"SELECT id FROM {table} WHERE {clock} < ? AND {where} ORDER BY {clock} LIMIT {rows}"
                for column in columns:
                    self._drop_blobs(db, table, column, f"id IN ({ids})", oldest)
                if table == "executions":
                    db.execute(f"DELETE FROM output_events WHERE execution_id IN ({ids})", (oldest,))
                dropped += db.execute(f"DELETE FROM {table} WHERE id IN ({ids})", (oldest,)).rowcount
            events = "SELECT id FROM kernel_events WHERE at < ? LIMIT ?"
            dropped += db.execute(f"DELETE FROM kernel_events WHERE id IN ({events})", (oldest, rows)).rowcount
        return dropped > 0

    async def _drop_unnamed(self) -> None:
        """Forget blobs that no row names, also those whose row was never written."""
        for (blob,) in self._query("SELECT id FROM blobs WHERE kept = 0"):
            while blob not in self._being_written and self._drop_parts(blob):
                await anyio.lowlevel.checkpoint()

    def _drop_parts(self, blob: int) -> bool:
        with self._transaction() as db:
            dropped = db.execute(
                "DELETE FROM blob_parts WHERE blob_id = ?1 AND seq IN"
                " (SELECT seq FROM blob_parts WHERE blob_id = ?1 ORDER BY seq DESC LIMIT ?2)",
                (blob, _SLICE_PARTS),
            ).rowcount
            if not dropped:
                db.execute("DELETE FROM blobs WHERE id = ?", (blob,))
        return bool(dropped)

    def _shrink(self) -> bool:
        """Give some free pages back to the disk; True if there are more."""
        with self._errors():
            self._db.execute(f"PRAGMA incremental_vacuum({_SLICE_PAGES})").fetchall()
        return bool(self._pragma("freelist_count") > _SLICE_PAGES)

    def _used_bytes(self) -> int:
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        return int(self._query(f"PRAGMA {name}")[0][0])


def _checkpoint(path: str, empty: bool) -> bool:
    connection = sqlite3.connect(path, timeout=0.1, isolation_level=None)
    try:
        done = _checkpointed(connection, "PASSIVE")
        # Writers wait for this one: it comes when nothing is left to copy.
        return done and (not empty or _checkpointed(connection, "TRUNCATE"))
    finally:
        connection.close()


def _checkpointed(connection: sqlite3.Connection, mode: str) -> bool:
    busy, pages, copied = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return not busy and pages == copied
