"""Reading big JSON in a thread without stopping the others: a parser written in C keeps the interpreter to itself.

What makes a message big is a long string or two: a picture, a page of HTML, a million lines. Those are read in slices,
between which other threads have their turn, and put where they belong afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any

SLICE = 1 << 20
# A document of many small strings is not worth the search.
_MOST_STRINGS = 10_000
# The longest escape is a pair of surrogates: `\ud83d\ude00`.
_ESCAPE = 12
_BACKSLASH, _QUOTE = b"\\", b'"'


def loads(data: bytes, parse: Callable[[bytes], Any]) -> Any:
    """What `parse` makes of the whole.

    Raises:
        ValueError: it is not JSON.
    """
    mark = uuid.uuid4().hex
    found: dict[str, str] = {}
    skeleton: list[bytes] = []
    copied = at = 0
    for _ in range(_MOST_STRINGS):
        start = data.find(_QUOTE, at)
        end = _closing(data, start + 1) if start >= 0 else -1
        if end < 0:
            break
        if end - start > SLICE:
            name = f"{mark}{len(found)}"
            found[name] = "".join(parse(b'"%b"' % piece) for piece in _slices(data, start + 1, end))
            skeleton += [data[copied:start], b'"%b"' % name.encode()]
            copied = end + 1
        at = end + 1
    if not found:
        return parse(data)
    skeleton.append(data[copied:])
    return _filled(parse(b"".join(skeleton)), found)


def _closing(data: bytes, at: int) -> int:
    """Where the string that began before `at` ends; -1 if it does not."""
    while (end := data.find(_QUOTE, at)) >= 0:
        # A quote after an even number of backslashes is no part of the string.
        before = end
        while before > at and data[before - 1] == _BACKSLASH[0]:
            before -= 1
        if (end - before) % 2 == 0:
            return end
        at = end + 1
    return -1


def _slices(data: bytes, at: int, end: int) -> list[bytes]:
    cuts = [at]
    while end - cuts[-1] > SLICE:
        cuts.append(min(_cut(data, cuts[-1], cuts[-1] + SLICE), end))
    cuts.append(end)
    return [data[start:stop] for start, stop in pairwise(cuts)]


def _cut(data: bytes, start: int, at: int) -> int:
    """The first place from `at` on that is in no escape and in no character; so is `start`."""
    last = data.rfind(b"\\", max(start, at - _ESCAPE), at)
    if last >= 0:
        upto = data[start : last + 1]
        # The last of an even number of backslashes is what the one before it stands for.
        if (len(upto) - len(upto.rstrip(b"\\"))) % 2:
            at = max(at, last + _escape_length(data, last))
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at


def _escape_length(data: bytes, at: int) -> int:
    if data[at + 1] != ord("u"):
        return 2
    is_high_surrogate = data[at + 2 : at + 3] in b"dD" and data[at + 3 : at + 4] in b"89abAB"
    return 12 if is_high_surrogate else 6


def _filled(value: Any, found: dict[str, str]) -> Any:
    if isinstance(value, str):
        return found.get(value, value)
    if isinstance(value, dict):
        return {found.get(key, key): _filled(inner, found) for key, inner in value.items()}
    return [_filled(inner, found) for inner in value] if isinstance(value, list) else value
