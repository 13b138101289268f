"""Which kernel belongs to which notebook, and what happened to kernels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from .schema import KernelEventKind
from .tables import Tables


@dataclass(frozen=True, slots=True)
class Binding:
    """The kernel of a notebook. `cwd` is the kernel's folder as its backend names it."""

    notebook: str
    kernel_id: str
    kernel_name: str
    epoch: int
    cwd: str


@dataclass(frozen=True, slots=True)
class KernelEnd:
    """How a kernel's process ended. `detail`: the death in words, who asked for it, or how long it was idle."""

    kind: Literal["death", "shutdown", "cull", "stop"]
    detail: str


class Kernels(Tables):
    """The journal's kernels."""

    def bind(self, notebook: str, kernel_id: str, kernel_name: str, epoch: int, cwd: str) -> None:
        """Say which kernel a notebook runs on; replaces an earlier one."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO bindings (notebook, kernel_id, kernel_name, epoch, cwd) VALUES (?, ?, ?, ?, ?)",
                (notebook, kernel_id, kernel_name, epoch, cwd),
            )

    def unbind(self, notebook: str) -> None:
        """Say that a notebook runs on no kernel."""
        with self._transaction() as db:
            db.execute("DELETE FROM bindings WHERE notebook = ?", (notebook,))

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: what is known of it is known of that."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM bindings WHERE notebook = ? AND EXISTS (SELECT 1 FROM bindings WHERE notebook = ?)",
                (to, notebook),
            )
            for table in ("confirmed", "told"):
                db.execute(f"DELETE FROM {table} WHERE notebook = ?", (to,))
            for table in ("bindings", "executions", "edits", "confirmed", "told"):
                db.execute(f"UPDATE {table} SET notebook = ? WHERE notebook = ?", (to, notebook))
            db.execute("UPDATE OR REPLACE places SET notebook = ? WHERE notebook = ?", (to, notebook))

    def bindings(self) -> list[Binding]:
        """The last kernel of every notebook that has had one, gone or not."""
        rows = self._query("SELECT notebook, kernel_id, kernel_name, epoch, cwd FROM bindings ORDER BY notebook")
        return [Binding(*row) for row in rows]

    def kernel_event(self, kernel_id: str, epoch: int, kind: KernelEventKind, detail: str = "") -> None:
        """Write down that a kernel started, restarted, died, was adopted, was shut down or ended with its server."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO kernel_events (kernel_id, epoch, at, kind, detail) VALUES (?, ?, ?, ?, ?)",
                (kernel_id, epoch, time.time(), kind, detail),
            )

    def kernel_end(self, kernel_id: str, epoch: int | None = None) -> KernelEnd | None:
        """How a kernel ended last (in `epoch`, if one is given), None if nobody saw it."""
        rows = self._query(
            "SELECT kind, detail FROM kernel_events"
            " WHERE kernel_id = ?1 AND kind IN ('death', 'shutdown', 'cull', 'stop')"
            " AND (?2 IS NULL OR epoch = ?2) ORDER BY id DESC LIMIT 1",
            kernel_id,
            epoch,
        )
        return KernelEnd(*rows[0]) if rows else None
