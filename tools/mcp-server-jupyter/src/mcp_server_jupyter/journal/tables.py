"""One SQLite database, one transaction a call, and big values in parts that are written one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from .database import Database, Named
from .packing import INLINE_BYTES, packed, packed_lines, unpacked, unpacked_lines, weight
from .schema import Reset

_REFERENCE = b"@"
"""A column that begins with it names a blob by number; JSON and zlib never do."""

_ROW_BYTES = 16 * 1024
"""What a small transaction adds to the write-ahead log: some pages."""
_GROWTH_BYTES = 4 * 2**20
_HINT = "Free disk space, or restart the server with another --state-dir."


class Tables(Database):
    """What the parts of a journal share. Used from one thread; only packing goes to others."""

    def __init__(self, connection: sqlite3.Connection, path: Path, reset: Reset | None) -> None:
        super().__init__(connection, Named("journal", path, _HINT))
        self.path = path
        self.reset = reset
        self._grown = 0
        self._growth: anyio.Event | None = None
        self._being_written: set[int] = set()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with super()._transaction() as db:
            yield db
        self._grow(_ROW_BYTES)

    # ------------------------------------------------------------------ growth

    def _grow(self, size: int) -> None:
        self._grown += size
        if self._growth is not None and self._grown >= _GROWTH_BYTES:
            self._growth.set()

    async def growth(self) -> None:
        """Return once some megabytes were written since this was last asked."""
        if self._grown < _GROWTH_BYTES:
            self._growth = anyio.Event()
            await self._growth.wait()
        self._grown, self._growth = 0, None

    # ------------------------------------------------------------------ values

    async def _stored(
        self, head: Any, lines: Sequence[Any] | None, *, inline: int = INLINE_BYTES
    ) -> tuple[bytes | None, int | None]:
        """A value as its column holds it, and the blob it names. None for `lines` stores None.

        What is small is packed at once, without a switch of tasks; what is big in a thread, then written part by part.
        The blob is dropped again by `Retention` unless it is kept (`_keep_blobs`) in the transaction that names it.

        Args:
            head: what comes before the lines; None, nothing does.
            inline: bytes that may be stored in the row itself.
        """
        if lines is None:
            return None, None
        value = [head, *lines] if head is not None else list(lines)
        if weight(value, inline) <= inline:
            return packed(value), None
        parts = await anyio.to_thread.run_sync(packed_lines, value)
        blob = await self._write_blob(parts)
        return _REFERENCE + str(blob).encode(), blob

    async def _write_blob(self, parts: Sequence[bytes]) -> int:
        with self._transaction() as db:
            blob = int(db.execute("INSERT INTO blobs (kept) VALUES (0)").lastrowid or 0)
        self._being_written.add(blob)
        try:
            for seq, part in enumerate(parts):
                with self._transaction() as db:
                    db.execute("INSERT INTO blob_parts (blob_id, seq, data) VALUES (?, ?, ?)", (blob, seq, part))
                self._grow(len(part))
                await anyio.lowlevel.checkpoint()
        except BaseException:
            self._being_written.discard(blob)
            raise
        return blob

    def _keep_blobs(self, db: sqlite3.Connection, blobs: Sequence[int | None]) -> None:
        """Within the transaction that names them: these blobs belong to a row."""
        named = [blob for blob in blobs if blob is not None]
        if named:
            db.executemany("UPDATE blobs SET kept = 1 WHERE id = ?", [(blob,) for blob in named])

    def _release_blobs(self, blobs: Sequence[int | None]) -> None:
        """After that transaction, done or failed: what is not kept may be dropped."""
        self._being_written.difference_update(blob for blob in blobs if blob is not None)

    @staticmethod
    def _drop_blobs(db: sqlite3.Connection, table: str, column: str, where: str, *values: Any) -> None:
        """Within the transaction that deletes or overwrites rows: their blobs are to be dropped."""
        named = db.execute(
            f"SELECT substr({column}, 2) FROM {table}"
            f" WHERE {where} AND length({column}) < 32 AND substr({column}, 1, 1) = x'40'",
            values,
        ).fetchall()
        if named:
            db.executemany("UPDATE blobs SET kept = 0 WHERE id = ?", [(int(blob),) for (blob,) in named])

    def _lines(self, stored: bytes | None) -> list[Any] | None:
        """The lines a column holds, read at once."""
        if stored is None:
            return None
        if not stored.startswith(_REFERENCE):
            return list(unpacked(stored))
        rows = self._query("SELECT data FROM blob_parts WHERE blob_id = ? ORDER BY seq", int(stored[1:]))
        return unpacked_lines([part for (part,) in rows])

    async def _lines_apart(self, stored: bytes | None) -> list[Any] | None:
        """The lines a column holds, the big ones read part by part and unpacked in a thread."""
        if stored is None or not stored.startswith(_REFERENCE):
            return self._lines(stored)
        parts: list[bytes] = []
        while rows := self._query(
            "SELECT data FROM blob_parts WHERE blob_id = ? AND seq = ?", int(stored[1:]), len(parts)
        ):
            parts.append(rows[0][0])
            await anyio.lowlevel.checkpoint()
        return await anyio.to_thread.run_sync(unpacked_lines, parts)


def text_again(value: Any) -> Any:
    """The reverse of `database.storable`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def nodes(value: Any) -> Any:
    if value is None:
        return None
    # nbformat costs a tenth of a second: only who reads cells back pays.
    from nbformat import from_dict  # noqa: PLC0415

    return from_dict(value)  # type: ignore[no-untyped-call]
