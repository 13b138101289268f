"""What the journal forgets, and when."""

from __future__ import annotations

import time

from .schema import DROPPABLE
from .tables import Tables


class Retention(Tables):
    """Forgetting by age and by size."""

    def prune(self, *, max_age_days: float = 30, max_bytes: int = 512 * 2**20) -> None:
        """Forget what is old, then what is oldest until the file holds at most `max_bytes`.

        Executions that are not finished or not delivered stay.
        """
        oldest = time.time() - max_age_days * 86_400
        with self._transaction() as db:
            db.execute(f"DELETE FROM executions WHERE queued_at < ? AND {DROPPABLE}", (oldest,))
            db.execute("DELETE FROM edits WHERE at < ?", (oldest,))
            db.execute("DELETE FROM kernel_events WHERE at < ?", (oldest,))
            db.execute("DELETE FROM output_events WHERE execution_id NOT IN (SELECT id FROM executions)")
        while self._used_bytes() > max_bytes and self._drop_oldest_tenth():
            pass
        with self._errors():
            self._db.execute("PRAGMA incremental_vacuum(4096)").fetchall()

    def _drop_oldest_tenth(self) -> bool:
        with self._transaction() as db:
            dropped = 0
            for table, where in (("executions", DROPPABLE), ("edits", "1")):
                (count,) = db.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
                dropped += db.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT ?)",
                    ((count + 9) // 10,),
                ).rowcount
        return dropped > 0

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._query(f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
