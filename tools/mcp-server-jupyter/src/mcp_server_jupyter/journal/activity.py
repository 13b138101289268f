"""Who did what, the newest first."""

from __future__ import annotations

from typing import Any

from .tables import Tables, text_again

_CODE_CHARACTERS = 500


class Activity(Tables):
    """The journal, read as a list of happenings."""

    def activity(self, notebook: str | None, limit: int) -> list[dict[str, Any]]:
        """Executions and edits of a notebook, or of all, as JSON has them (docs/editor-protocol.md)."""
        where, values = ("WHERE notebook = ?", [notebook]) if notebook else ("", [])
        runs = self._query(
            "SELECT queued_at, notebook, cell_id, author, id, status, started_at, finished_at,"
            f" substr(code, 1, {_CODE_CHARACTERS}) FROM executions {where} ORDER BY id DESC LIMIT ?",
            *values,
            limit,
        )
        edits = self._query(
            "SELECT at, notebook, cell_id, author, turn, execution_id, kind, undone_by"
            f" FROM edits {where} ORDER BY id DESC LIMIT ?",
            *values,
            limit,
        )
        found = [_run(*map(text_again, row)) for row in runs] + [_edit(*map(text_again, row)) for row in edits]
        return sorted(found, key=lambda each: float(each["at"]), reverse=True)[:limit]


def _run(
    at: float,
    notebook: str | None,
    cell_id: str | None,
    author: str,
    execution_id: str,
    status: str,
    started_at: float | None,
    finished_at: float | None,
    code: str,
) -> dict[str, Any]:
    seconds = None if started_at is None or finished_at is None else round(finished_at - started_at, 3)
    common = {"kind": "execution", "at": at, "notebook_path": notebook, "cell_id": cell_id, "author": author}
    own = {"turn": None, "execution_id": execution_id, "status": status, "seconds": seconds, "code": code}
    return {**common, **own}


def _edit(
    at: float,
    notebook: str,
    cell_id: str | None,
    author: str,
    turn: str | None,
    execution_id: str | None,
    kind: str,
    undone_by: str | None,
) -> dict[str, Any]:
    common = {"kind": "edit", "at": at, "notebook_path": notebook, "cell_id": cell_id, "author": author}
    own = {"turn": turn, "execution_id": execution_id, "edit": kind, "undone": undone_by is not None}
    return {**common, **own}
