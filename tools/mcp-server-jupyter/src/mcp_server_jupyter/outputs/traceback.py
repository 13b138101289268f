"""Pure: tracebacks as short as they can be read: the user's own frames with their code, the last of libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from .text import Where, clip, fit

_FRAME = re.compile(r"^(?:Cell In ?\[|Input In ?\[|File |  File \")")
_LIBRARY = re.compile(r"(?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|\.px[id]:|\.pyx:|<frozen ")
_PACKAGES = re.compile(r"(?<=File )\S*(?:site|dist)-packages[/\\]")
_ARROW = re.compile(r"^-+> ?\d+")
_RULE = re.compile(r"^-{20,}$|^[\w.]+\s+Traceback \(most recent call last\)$")
_OWN_MOST = 6


@dataclass(frozen=True, slots=True)
class _Frame:
    lines: tuple[str, ...]

    @property
    def own(self) -> bool:
        return not _LIBRARY.search(self.lines[0])

    def text(self, *, short: bool) -> str:
        head = _PACKAGES.sub("…/", self.lines[0])
        if not short:
            return "\n".join((head, *self.lines[1:]))
        arrows = [line for line in self.lines[1:] if _ARROW.match(line)] or list(self.lines[1:2])
        return "\n".join(clip(line, 200) for line in [head, *arrows[:1]])


def fit_error(text: str, budget: int, where: Where) -> tuple[str, bool]:
    """A traceback within `budget` characters, True when frames or code of it were left out.

    Library code goes first, then frames between, the message never.
    """
    text = text.strip("\n")
    items, message = _parsed(text)
    if not any(isinstance(item, _Frame) for item in items):
        return (text, False) if len(text) <= budget else (_without_frames(text, budget, where), True)
    whole = sum(item.text(short=False).count("\n") for item in items if isinstance(item, _Frame))
    message = clip(message, max(budget // 2, budget - 400))
    for body in _candidates(items):
        candidate = f"{body}\n{message}" if message else body
        if len(candidate) <= budget:
            return candidate, body.count("\n") < whole
    return clip(message, budget), True


def _candidates(items: Sequence[_Frame | str]) -> Iterator[str]:
    """From the fullest to the shortest."""
    yield _rendered(items, short=False)
    yield _rendered(items, short=True)
    frames = [list(group) for kind, group in groupby(items, lambda item: isinstance(item, _Frame)) if kind]
    last = [item for item in frames[-1] if isinstance(item, _Frame)]
    yield _rendered(last, short=True)
    own = [frame for frame in last if frame.own and frame is not last[-1]]
    yield "\n".join(frame.text(short=True) for frame in [*own[-1:], last[-1]])
    yield last[-1].text(short=True)


def _parsed(text: str) -> tuple[list[_Frame | str], str]:
    """Frames and the lines between them; and the message, which is what follows the last frame."""
    items: list[_Frame | str] = []
    frame: list[str] = []
    lines = [line for line in text.split("\n") if not _RULE.match(line)]
    for line in [*lines, ""]:
        if frame and (_FRAME.match(line) or not line.strip() or line[0] not in " -0123456789"):
            items.append(_Frame(tuple(frame)))
            frame = []
        if _FRAME.match(line):
            frame = [line]
        elif frame:
            frame.append(line)
        elif line.strip():
            items.append(line)
    end = len(items)
    while end and not isinstance(items[end - 1], _Frame):
        end -= 1
    return items[:end], "\n".join(item for item in items[end:] if isinstance(item, str))


def _rendered(items: Sequence[_Frame | str], *, short: bool) -> str:
    parts: list[str] = []
    for is_frame, group in groupby(items, lambda item: isinstance(item, _Frame)):
        if is_frame:
            parts += _run([item for item in group if isinstance(item, _Frame)], short=short)
        else:
            parts += [clip(item, 500) for item in group if isinstance(item, str)]
    return "\n".join(parts)


def _run(frames: list[_Frame], *, short: bool) -> Iterator[str]:
    """Neighbouring frames: the own ones (once where they repeat) with code, the last two of libraries."""
    own = [
        index
        for index, frame in enumerate(frames)
        if frame.own and not (index and frames[index - 1].lines == frame.lines)
    ]
    keep = {*own[: _OWN_MOST // 2], *own[-(_OWN_MOST // 2) :], *range(max(0, len(frames) - 2), len(frames))}
    if len(frames) > 2 and frames[-1].lines == frames[-2].lines:
        keep.discard(len(frames) - 2)
    omitted = 0
    for index, frame in enumerate(frames):
        if index not in keep:
            omitted += 1
            continue
        if omitted:
            yield f"… {omitted} {'frame' if omitted == 1 else 'frames'} omitted"
            omitted = 0
        yield frame.text(short=short or not frame.own)


def _without_frames(text: str, budget: int, where: Where) -> str:
    body, _, message = text.rpartition("\n")
    message = clip(message, budget if budget < 200 else max(budget // 2, budget - 400))
    room = budget - len(message) - 1
    shown, _ = fit(body, room, where) if room > 40 else ("", True)
    return f"{shown}\n{message}" if shown else message
