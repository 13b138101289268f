"""Which kernel belongs to which notebook, and what happened to kernels."""

from __future__ import annotations

import time
from dataclasses import dataclass

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
        """Forget the kernel of a notebook."""
        with self._transaction() as db:
            db.execute("DELETE FROM bindings WHERE notebook = ?", (notebook,))

    def bindings(self) -> list[Binding]:
        """Every notebook that has a kernel."""
        rows = self._query("SELECT notebook, kernel_id, kernel_name, epoch, cwd FROM bindings ORDER BY notebook")
        return [Binding(*row) for row in rows]

    def kernel_event(self, kernel_id: str, epoch: int, kind: KernelEventKind, detail: str = "") -> None:
        """Write down that a kernel started, restarted, died, was adopted or was shut down."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO kernel_events (kernel_id, epoch, at, kind, detail) VALUES (?, ?, ?, ?, ?)",
                (kernel_id, epoch, time.time(), kind, detail),
            )
