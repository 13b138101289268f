"""Pure: changes of a text as small splices, and two people's changes of one text brought together."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from .... import notebooks
from ....errors import Conflict


@dataclass(frozen=True, slots=True)
class Splice:
    """`text` for the characters from `start` to `end`."""

    start: int
    end: int
    text: str


def splices(old: str, new: str) -> list[Splice]:
    """What leads from one text to another, first to last, each as small as it can be within the lines it changes."""
    if old == new:
        return []
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    starts = _starts(before)
    found = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            found.append(_trimmed(starts[i1], "".join(before[i1:i2]), "".join(after[j1:j2])))
    return found


def _starts(lines: Sequence[str]) -> list[int]:
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    return starts


def _trimmed(start: int, old: str, new: str) -> Splice:
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    most = shorter - head
    tail = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    return Splice(start + head, start + len(old) - tail, new[head : len(new) - tail])


def spliced(text: str, changes: Sequence[Splice]) -> str:
    """A text after its splices."""
    for change in reversed(changes):
        text = text[: change.start] + change.text + text[change.end :]
    return text


def merged(cell_id: str, base: str, ours: str, theirs: str) -> str:
    """The text with both sides' changes.

    Raises:
        Conflict: both have changed the same part in different ways.
    """
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    mine, other = splices(base, ours), splices(base, theirs)
    wanted = [each for each in mine if each not in other]
    if any(_touch(one, two) for one in wanted for two in other):
        raise Conflict(
            f"Cell {cell_id!r} is being changed by somebody else, at the same place in another way.",
            diff=notebooks.diff(theirs, ours, "current", "asked"),
            hint="Read the cell again, then repeat the change on what is there now.",
        )
    return spliced(base, sorted([*wanted, *other], key=lambda each: each.start))


def _touch(one: Splice, other: Splice) -> bool:
    """Whether two splices change the same part; of two insertions at one place nobody knows the order."""
    if one.start == one.end == other.start == other.end:
        return True
    return one.start < other.end and other.start < one.end
