"""Regions of a cell that are marked by comments, as nbgrader and otter do."""

from __future__ import annotations

from ..template import PLACEHOLDER


class Unbalanced(ValueError):
    """A region that begins and does not end, or ends and did not begin."""


def without(source: str, begin: str, end: str, stub: str | None) -> tuple[str, int]:
    """The source without the regions, and how many there were.

    Args:
        begin, end: the lines' text, wherever they are indented.
        stub: stands in their place, indented as they were; None for nothing.

    Raises:
        Unbalanced
    """
    kept: list[str] = []
    found, inside = 0, False
    for line in source.split("\n"):
        word = line.strip()
        if word.startswith(begin):
            if inside:
                raise Unbalanced(begin)
            found, inside = found + 1, True
            if stub is not None:
                indent = line[: len(line) - len(line.lstrip())]
                kept += [indent + each for each in stub.split("\n")]
        elif word.startswith(end):
            if not inside:
                raise Unbalanced(end)
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise Unbalanced(begin)
    return "\n".join(kept), found


def solved_by_learner(source: str, begin: str = "### BEGIN SOLUTION", end: str = "### END SOLUTION") -> str:
    """A solution cell as the learner gets it: its regions as a placeholder, or all of it where there are none.

    Raises:
        Unbalanced
    """
    text, found = without(source, begin, end, PLACEHOLDER)
    return text if found else PLACEHOLDER
