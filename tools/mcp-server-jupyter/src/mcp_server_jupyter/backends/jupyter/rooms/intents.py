"""Pure: edits that a room's file is not known to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .... import notebooks

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(eq=False)
class Intent:
    """An edit that the file is not known to hold: what it began with, and what it led to.

    `is_answered` once whoever made it has been told that it is made.
    """

    before: NotebookNode
    after: NotebookNode
    is_answered: bool


def is_lost(intent: Intent, now: NotebookNode) -> bool:
    """Whether nothing of an edit is there: every cell that it changed is as it was before it."""
    before, after = ({cell["id"]: cell for cell in each.cells} for each in (intent.before, intent.after))
    there = {cell["id"]: cell for cell in now.cells}
    changed = [each for each in {**before, **after} if before.get(each) != after.get(each)]
    return bool(changed) and all(there.get(each) == before.get(each) for each in changed)


def same_content(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks' cells say and show the same."""
    return [_content(cell) for cell in one.cells] == [_content(cell) for cell in other.cells]


def _content(cell: NotebookNode) -> tuple[str, str, str]:
    return cell["id"], cell.source, notebooks.outputs_mark(cell)
