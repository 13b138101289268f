"""What an attempt came to, told from the journal's executions and the executed notebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..journal import RunCell
from ..notebooks import may_raise
from .failures import Failure

if TYPE_CHECKING:
    from nbformat import NotebookNode

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")


def failure_of(
    cells: Sequence[RunCell], total: int, executed: NotebookNode, sent: NotebookNode, output: str
) -> tuple[Failure | None, str | None]:
    """Why the attempt failed, None where it did not, and the id of the cell it failed in.

    Args:
        cells: those that were queued.
        total: how many were to be run.
        sent: the notebook as it was sent: its indexes are those that callers know.
        output: where the executed notebook is.
    """
    by_id = {cell["id"]: cell for cell in executed.cells}
    for ran in cells:
        cell = by_id.get(ran.cell_id or "")
        if ran.status in ("died", "lost"):
            return _died(ran, cell, _index(sent, ran.cell_id), output), ran.cell_id
        if ran.status == "interrupted" or (ran.status == "error" and not (cell and may_raise(cell))):
            return _raised(ran, cell, _index(sent, ran.cell_id), output), ran.cell_id
    if len(cells) < total or any(ran.status == "aborted" for ran in cells):
        return Failure("kernel_died", "The kernel ended before all cells had run.", {"output_nb": output}), None
    return None, None


def _index(sent: NotebookNode, cell_id: str | None) -> int | None:
    """Where the cell is in the notebook as it was sent; None for the one of the parameters."""
    return next((index for index, cell in enumerate(sent.cells) if cell["id"] == cell_id), None)


def _raised(ran: RunCell, cell: NotebookNode | None, index: int | None, output: str) -> Failure:
    ename, evalue = ran.ename or "KeyboardInterrupt", ran.evalue or ""
    where = "the injected parameters" if index is None else f"cell {index}"
    details: dict[str, Any] = {
        "cell": index,
        "ename": ename,
        "evalue": evalue,
        "cell_source": "" if cell is None else cell.source,
        "traceback": _traceback(cell),
        "output_nb": output,
    }
    return Failure("papermill_execution_error", f"In {where}: {ename}: {evalue}"[:2_000], details)


def _died(ran: RunCell, cell: NotebookNode | None, index: int | None, output: str) -> Failure:
    said = (ran.evalue or "").strip() or _said(cell) or "The kernel ended while this cell ran."
    details = {"cell": index, "cell_source": "" if cell is None else cell.source, "output_nb": output}
    return Failure("kernel_died", said, details)


def _said(cell: NotebookNode | None) -> str:
    errors = _errors(cell)
    return str(errors[-1].get("evalue", "")) if errors else ""


def _traceback(cell: NotebookNode | None) -> list[str]:
    errors = _errors(cell)
    return [_ANSI.sub("", line) for line in errors[-1].get("traceback", ())] if errors else []


def _errors(cell: NotebookNode | None) -> list[NotebookNode]:
    outputs = [] if cell is None else cell.get("outputs", [])
    return [output for output in outputs if output["output_type"] == "error"]
