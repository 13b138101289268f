"""Edits that a room's file is not known to hold: pure bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator
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


class Intents:
    """Those of one notebook, in the order of their making.

    Attributes:
        made: how many changes there have been.
        saved: how many of these the file is known to hold.
    """

    def __init__(self) -> None:
        self.made = self.saved = 0
        self._in_save: list[Intent] = []
        self._waiting: list[Intent] = []

    def __iter__(self) -> Iterator[Intent]:
        return iter([*self._in_save, *self._waiting])

    def __bool__(self) -> bool:
        return bool(self._in_save or self._waiting)

    def add(self, intent: Intent) -> Intent:
        """Keep one; what follows the last without a gap is one with it. Returns which it is."""
        self.made += 1
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.is_answered and intent.is_answered and last.after is intent.before:
            last.after = intent.after
            return last
        self._waiting.append(intent)
        return intent

    def withdraw(self, intent: Intent) -> None:
        """Whoever made it is told that it is not made."""
        for kept in (self._in_save, self._waiting):
            if intent in kept:
                kept.remove(intent)

    def begin_save(self) -> int:
        """All there are go into the next save; how many changes it stands for."""
        self._in_save, self._waiting = list(self), []
        return self.made

    def end_save(self) -> list[Intent]:
        """The file holds what went into the save, unless the room was overwritten; what that was."""
        intents, self._in_save = self._in_save, []
        return intents


def is_lost(intent: Intent, now: NotebookNode) -> bool:
    """Whether nothing of an edit is there: all that it changed is as it was before it."""
    before, after = ({cell["id"]: cell for cell in each.cells} for each in (intent.before, intent.after))
    there = {cell["id"]: cell for cell in now.cells}
    changed = [each for each in {**before, **after} if before.get(each) != after.get(each)]
    return bool(changed) and all(_is_as_before(before.get(each), after.get(each), there.get(each)) for each in changed)


def _is_as_before(before: NotebookNode | None, after: NotebookNode | None, now: NotebookNode | None) -> bool:
    """Whether one cell is what it was; what the edit did not touch, somebody else may have changed."""
    if before is None or after is None or now is None:
        return now == before
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return all(now.get(key) == before.get(key) for key in changed)


def same_content(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks' cells say and show the same."""
    return [_content(cell) for cell in one.cells] == [_content(cell) for cell in other.cells]


def _content(cell: NotebookNode) -> tuple[str, str, str]:
    return cell["id"], cell.source, notebooks.outputs_mark(cell)
