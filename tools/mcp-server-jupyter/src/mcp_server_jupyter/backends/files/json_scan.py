"""Reading JSON as text: the spans of values, and big values in bites that leave other threads their turn."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

Scan = Callable[[str, int], tuple[Any, int]]
"""Parse the value at an offset; returns the value and the offset after it, raises StopIteration for none."""


_SPACE = re.compile(r"[ \t\n\r]*")


class Item(NamedTuple):
    """A member of an object or an element of a list: `text[start:end]`, its value from `value_start`."""

    key: str | None
    start: int
    key_end: int
    value_start: int
    end: int
    value: Any


def plain_scanner(object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Scan:
    """The standard library's scanner, which runs in C."""
    scan: Scan = json.JSONDecoder(object_hook=object_hook).scan_once  # type: ignore[attr-defined]
    return scan


def skip_space(text: str, at: int) -> int:
    """The offset of the first character that is not white space."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def walk(text: str, start: int, scan: Callable[[str, int, str | None], tuple[Any, int]]) -> tuple[list[Item], int]:
    """The items of the object or list at `start`, and the offset after its end.

    Args:
        scan: parses one value; also gets its key (None in a list).

    Raises:
        ValueError: not well-formed JSON (RFC 8259); says where.
    """
    close = {"{": "}", "[": "]"}[text[start]]
    items: list[Item] = []
    at = skip_space(text, start + 1)
    if text[at : at + 1] == close:
        return items, at + 1
    while True:
        item = _item(text, at, close == "}", scan)
        items.append(item)
        at = skip_space(text, item.end)
        found = text[at : at + 1]
        if found == close:
            return items, at + 1
        if found != ",":
            raise json.JSONDecodeError(f"Expecting ',' or '{close}'", text, at)
        at = skip_space(text, at + 1)


def _item(text: str, at: int, keyed: bool, scan: Callable[[str, int, str | None], tuple[Any, int]]) -> Item:
    start, key, key_end = at, None, at
    if keyed:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a property name", text, at)
        key, key_end = scanstring(text, at + 1, True)
        at = skip_space(text, key_end)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, at)
        at = skip_space(text, at + 1)
    try:
        value, end = scan(text, at, key)
    except StopIteration:
        raise json.JSONDecodeError("Expecting a value", text, at) from None
    return Item(key, start, key_end, at, end, value)


# --------------------------------------------------------------------------- big values

BITE = 2**18
"""Characters handled in one call into C, which no other thread can interrupt: a few milliseconds."""

_SHORT = (BITE // 4, 4 * BITE)
_MAX_LEVEL = 6
_STRING_PART = re.compile(r'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+')


def scanner(text: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Scan:
    """The fastest way to scan values of a text that does not hold up other threads for long."""
    plain = plain_scanner(object_hook)
    return plain if len(text) <= _SHORT[-1] else _Gentle(plain, object_hook or dict).scan_any


class _Gentle:
    """Scans the outer levels of a long value piece by piece, and long strings and lists of strings in bites."""

    def __init__(self, plain: Scan, make: Callable[[dict[str, Any]], Any]) -> None:
        self._plain = plain
        self._make = make

    def scan_any(self, text: str, at: int) -> tuple[Any, int]:
        """Scan a value that may be short, which is found out by trying: cut off, it is none."""
        if text[at : at + 1] in ("{", "[", '"'):
            for most in _SHORT:
                with contextlib.suppress(StopIteration, ValueError):
                    value, used = self._plain(text[at : at + most], 0)
                    return value, at + used
        return self.scan(text, at)

    def scan(self, text: str, at: int, level: int = 0) -> tuple[Any, int]:
        first = text[at : at + 1]
        if first == '"':
            return _scan_string(text, at)
        if first not in ("{", "[") or level == _MAX_LEVEL:
            return self._plain(text, at)
        if first == "[":
            inner = text[(begin := skip_space(text, at + 1)) : begin + 1]
            strings = self._scan_lines(text, at) if inner == '"' else None
            if strings is not None:
                return strings
            if inner not in ('"', "{"):
                return self._plain(text, at)
        items, end = walk(text, at, lambda text, at, _: self.scan(text, at, level + 1))
        if first == "[":
            return [item.value for item in items], end
        return self._make({str(item.key): item.value for item in items}), end

    def _scan_lines(self, text: str, start: int) -> tuple[list[str], int] | None:
        """A list of strings, a string a line, as nbformat writes text; None if it is anything else.

        No string holds a line break as such, so that every line ends between two of them.
        """
        values: list[str] = []
        at = start + 1
        while (end := text.rfind("\n", at, at + BITE)) > at:
            lines = text[at:end].rstrip()
            has_more = lines.endswith(",")
            lines = f"[{lines[:-1] if has_more else lines}]"
            try:
                found, used = self._plain(lines, 0)
            except (StopIteration, ValueError):
                return None
            if not found or set(map(type, found)) != {str}:
                return None
            values += found
            if used < len(lines):
                return values, at + used - 1
            if not has_more:
                return None
            at = end
        return None


def _scan_string(text: str, at: int) -> tuple[str, int]:
    begin = at + 1
    end = _part_end(text, begin)
    if text[end : end + 1] == '"' or end == begin:
        return scanstring(text, begin, True)  # type: ignore[no-any-return]
    parts: list[str] = []
    while end > begin:
        part = scanstring(f'{text[begin:end]}"', 0, True)[0]
        if "\ud800" <= part[-1] <= "\udbff" and end - begin > 6:
            part, end = part[:-1], end - 6  # its other half may come next
        parts.append(part)
        if text[end : end + 1] == '"':
            return "".join(parts), end + 1
        begin, end = end, _part_end(text, end)
    raise json.JSONDecodeError("Unterminated string", text, at)


def _part_end(text: str, begin: int) -> int:
    found = _STRING_PART.match(text, begin, begin + BITE)
    end = found.end() if found else begin
    # Before Python 3.11.5 a possessive repeat keeps the backslash of an escape that it could not match (gh-106052).
    slashes = end - begin - len(text[begin:end].rstrip("\\"))
    return end - slashes % 2
