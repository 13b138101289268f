"""How cells and outputs become bytes: small ones at once, big ones piece by piece, so that a thread can do it.

A thread helps only while the interpreter's lock is let go of now and then: `json.dumps` of a picture holds it to the
end. So what is big is made JSON a megabyte at a time, and read back one output at a time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

INLINE_BYTES = 256 * 1024
"""Values up to this size are stored in their row; bigger ones as a blob of parts."""

PART_BYTES = 2**20
_COMPRESS_FROM = 4096
_DEFLATED, _PLAIN = b"z", b"p"


def weight(value: Any, limit: int = INLINE_BYTES) -> int:
    """About how many bytes of JSON a value makes. Stops counting above `limit`."""
    total = 0
    rest = [value]
    while rest and total <= limit:
        each = rest.pop()
        if isinstance(each, str):
            total += len(each)
        elif isinstance(each, Mapping):
            rest += each.keys()
            rest += each.values()
        elif isinstance(each, list | tuple):
            rest += each
        total += 8
    return total


def packed(value: Any) -> bytes | None:
    """JSON, compressed when it is long and shrinks by it: zlib's first byte is never JSON's."""
    if value is None:
        return None
    text = _dumps(value).encode()
    return zlib.compress(text, 1) if len(text) > _COMPRESS_FROM and _shrinks(text) else text


def unpacked(stored: bytes | None) -> Any:
    if stored is None:
        return None
    return json.loads(zlib.decompress(stored) if stored[:1] == b"\x78" else stored)


def packed_lines(values: Sequence[Any]) -> list[bytes]:
    """Values as JSON lines, in parts of about a megabyte. No value may be a list itself."""
    parts: list[bytes] = []
    waiting: list[str] = []
    size = 0
    for piece in _lines(values):
        waiting.append(piece)
        size += len(piece)
        if size >= PART_BYTES:
            parts.append(_part("".join(waiting)))
            waiting, size = [], 0
    if waiting:
        parts.append(_part("".join(waiting)))
    return parts


def unpacked_lines(parts: Sequence[bytes]) -> list[Any]:
    """The values again."""
    text = b"".join(zlib.decompress(part[1:]) if part[:1] == _DEFLATED else part[1:] for part in parts)
    values: list[Any] = []
    more: list[str] = []
    for line in text.split(b"\n")[-2::-1]:
        value = json.loads(line)
        if isinstance(value, list):
            more.append(value[0])
            continue
        if more:
            value["text"] += "".join(reversed(more))
            more = []
        values.append(value)
    return values[::-1]


def _lines(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        for line in _cut(value):
            yield from _pieces(line)
            yield "\n"


def _cut(value: Any) -> Iterator[Any]:
    """A value whose text is long as itself with the text's beginning, then the rest, each piece a list of one."""
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or len(text) <= PART_BYTES:
        yield value
        return
    yield {**value, "text": text[:PART_BYTES]}
    for start in range(PART_BYTES, len(text), PART_BYTES):
        yield [text[start : start + PART_BYTES]]


def _pieces(value: Any) -> Iterator[str]:
    """The JSON of a value, a bounded piece at a time."""
    if weight(value, PART_BYTES) <= PART_BYTES:
        yield _dumps(value)
    elif isinstance(value, str):
        yield '"'
        for start in range(0, len(value), PART_BYTES):
            yield _dumps(value[start : start + PART_BYTES])[1:-1]
        yield '"'
    elif isinstance(value, Mapping):
        before = "{"
        for key, item in value.items():
            yield f"{before}{_dumps(str(key))}:"
            yield from _pieces(item)
            before = ","
        yield "}"
    else:
        before = "["
        for item in value:
            yield before
            yield from _pieces(item)
            before = ","
        yield "]"


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def _part(text: str) -> bytes:
    data = text.encode()
    return _DEFLATED + zlib.compress(data, 1) if _shrinks(data) else _PLAIN + data


def _shrinks(text: bytes) -> bool:
    """Whether the middle of it halves: pictures do not, and cost milliseconds to try."""
    middle = text[len(text) // 2 :][:_COMPRESS_FROM]
    return len(zlib.compress(middle, 1)) < len(middle) / 2
