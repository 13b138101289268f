"""Which window of an editor owns a notebook, for the server that comes after this one."""

from __future__ import annotations

from .tables import Tables


class Leases(Tables):
    """The journal's leases."""

    def lease(self, notebook: str, window: str | None) -> None:
        """Say which window owns a notebook; None, that nobody does any more."""
        with self._transaction() as db:
            if window is None:
                db.execute("DELETE FROM leases WHERE notebook = ?", (notebook,))
            else:
                db.execute("INSERT OR REPLACE INTO leases (notebook, window) VALUES (?, ?)", (notebook, window))

    def leases(self) -> dict[str, str]:
        """Windows by notebook."""
        return dict(self._query("SELECT notebook, window FROM leases ORDER BY notebook"))
