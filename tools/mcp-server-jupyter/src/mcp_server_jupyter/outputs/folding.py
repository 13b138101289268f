"""Pure: runs of lines that say the same again are told once. What stands out in them is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_DIGITS = re.compile(r"\d+")
_TELLING = re.compile(r"\b(?:nan|inf|infinity)\b|error|exception|fail|fatal|warning|critical", re.I)
_GAP = re.compile(r"\t| {2,}|[|│]")
_GAPS = 2
_MOST_KEPT = 20
_JUMP = 8.0
_SHORTEST = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One shown line and the raw lines [first, last] it stands for; `note` marks our own words."""

    text: str
    first: int
    last: int
    note: bool = False


def fold(lines: Sequence[Line]) -> list[Line]:
    """Runs of four and more equal lines, and of lines that differ in digits only, keep their first and last.

    Groups of two or three lines that come again and again, as warnings do, are folded in the same way. Rows of tables
    are not folded, nor lines of a run that carry `nan`, `error` and the like, or a number that jumps.
    """
    keys = [_key(line.text) for line in lines]
    result: list[Line] = []
    start = 0
    while start < len(lines):
        end, period = max((_run_end(keys, start, period), -period) for period in (1, 2, 3))
        run = lines[start:end]
        if len(run) >= _SHORTEST * -period and not _is_table(run):
            result += _folded(run, -period)
            start = end
        else:
            # Its last group may begin another run.
            step = max(1, len(run) + period)
            result += lines[start : start + step]
            start += step
    return result


def _key(text: str) -> str:
    return text if _TELLING.search(text) else _DIGITS.sub("0", _NUMBER.sub("0", text))


def _run_end(keys: Sequence[str], start: int, period: int) -> int:
    """Where the run of groups of `period` lines that begins at `start` ends; whole groups only."""
    end = start + period
    while end < len(keys) and keys[end] == keys[end - period]:
        end += 1
    return min(len(keys), end - (end - start) % period)


def _is_table(run: Sequence[Line]) -> bool:
    return all(len(_GAP.findall(line.text.strip())) >= _GAPS for line in run[:_SHORTEST])


def _folded(run: Sequence[Line], period: int) -> list[Line]:
    if period == 1 and all(line.text == run[0].text for line in run):
        return [run[0], _note(run[1:], "identical")]
    standing_out = _standing_out(run) if period == 1 else ()
    result: list[Line] = []
    begun = 0
    for index in sorted({*range(period), *standing_out, *range(len(run) - period, len(run))}):
        between = run[begun:index]
        result += between if len(between) < 2 else [_note(between, "similar")]
        result.append(run[index])
        begun = index + 1
    return result


def _note(left_out: Sequence[Line], kind: str) -> Line:
    return Line(f"… {len(left_out):,} {kind} lines", left_out[0].first, left_out[-1].last, note=True)


def _standing_out(run: Sequence[Line]) -> list[int]:
    """Lines that differ in a number by much more from the line before than those around them do."""
    found: set[int] = set()
    for values in zip(*(_numbers(line.text) for line in run), strict=False):
        steps = [abs(after - before) for before, after in pairwise(values)]
        # Where most lines have the same number, one that has another stands out by any step.
        usual = median(steps)
        found.update(index for index, step in enumerate(steps, 1) if step > _JUMP * usual and math.isfinite(step))
    return sorted(found) if len(found) <= _MOST_KEPT else []


def _numbers(text: str) -> list[float]:
    return [float(number[:40]) for number in _NUMBER.findall(text)[:16]]
