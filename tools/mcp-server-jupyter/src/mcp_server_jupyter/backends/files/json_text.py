"""Writing JSON as text: replace single values, and leave every other byte alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from .json_scan import BITE, Item, scanner, walk

Path = tuple[str | int, ...]
"""Where a value stands below the value being written: keys and list positions."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_ASCII = re.compile("00[0-7]")
_ESCAPES_LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class Style:
    """How a file is laid out. `indent` is one level of it, None for everything on one line."""

    indent: str | None = " "
    newline: str = "\n"
    item_separator: str = ","
    key_separator: str = ": "
    ascii_only: bool = False

    def break_line(self, depth: int) -> str:
        """What stands before an item `depth` levels deep."""
        return "" if self.indent is None else self.newline + self.indent * depth

    def between(self, depth: int) -> str:
        """What stands between two items `depth` levels deep."""
        return self.item_separator if self.indent is None else "," + self.break_line(depth)

    def quote(self, value: str) -> str:
        """A JSON string. Lone surrogates, which UTF-8 cannot carry, are escaped in any style."""
        if len(value) > BITE:
            bites = (self.quote(value[at : at + BITE])[1:-1] for at in range(0, len(value), BITE))
            return "".join(['"', *bites, '"'])
        if self.ascii_only:
            return str(encode_basestring_ascii(value))
        quoted = str(encode_basestring(value))
        return quoted if quoted.isascii() else _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def detect_style(text: str, start: int, items: Sequence[Item]) -> Style:
    """The layout of the object at `start`, judged by its first members."""
    first = items[0]
    lead = text[start + 1 : first.start]
    key_separator = text[first.key_end : first.value_start]
    ascii_only = text.isascii() and _has_escaped_text(text)
    if "\n" in lead:
        newline = "\r\n" if "\r\n" in lead else "\n"
        return Style(lead.rpartition("\n")[2], newline, ",", key_separator, ascii_only)
    item_separator = text[first.end : items[1].start] if len(items) > 1 else ", "
    return Style(None, "\n", item_separator, key_separator, ascii_only)


def _has_escaped_text(text: str) -> bool:
    """Whether characters are escaped that need not be; looks at the first escapes only."""
    seen = 0
    for begin in range(0, len(text), BITE):
        at = text.find("\\u", begin, begin + BITE + 1)
        while at >= 0 and seen < _ESCAPES_LOOKED_AT:
            if not _ASCII.match(text, at + 2) and _backslashes_before(text, at) % 2 == 0:
                return True
            seen += 1
            at = text.find("\\u", at + 2, begin + BITE + 1)
    return False


def _backslashes_before(text: str, at: int) -> int:
    begin = at
    while begin and text[begin - 1] == "\\":
        begin -= 1
    return at - begin


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes values in a style. `splits` says which strings (by their path) are written as a list of lines."""

    style: Style
    splits: Callable[[Path], bool]

    def dump(self, value: Any, path: Path, depth: int) -> str:
        """A value as text; its items stand `depth + 1` levels deep. Keys are sorted, as nbformat does."""
        if isinstance(value, str):
            if self.splits(path):
                return self._dump_items([self.style.quote(line) for line in _lines(value)], "[]", depth)
            return self.style.quote(value)
        if isinstance(value, Mapping):
            members = [self._member(str(key), value[key], path, depth) for key in sorted(value, key=str)]
            return self._dump_items(members, "{}", depth)
        if isinstance(value, list | tuple):
            elements = [self.dump(element, (*path, at), depth + 1) for at, element in enumerate(value)]
            return self._dump_items(elements, "[]", depth)
        return json.dumps(value)

    def _member(self, key: str, value: Any, path: Path, depth: int) -> str:
        return self.style.quote(key) + self.style.key_separator + self.dump(value, (*path, key), depth + 1)

    def _dump_items(self, items: list[str], brackets: str, depth: int) -> str:
        if not items:
            return brackets
        inner = self.style.between(depth + 1).join(items)
        return brackets[0] + self.style.break_line(depth + 1) + inner + self.style.break_line(depth) + brackets[1]

    def patch(self, text: str, start: int, raw: Any, old: Any, new: Any, path: Path, depth: int) -> str:
        """The text of `new`, made from the text of `old` at `start` with the fewest bytes changed.

        Args:
            raw: the value as it stands in the text, where a string may be a list of lines.
            old: the same value with such lines joined.
        """
        if isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(raw, Mapping) and raw and new:
            return self.patch_object(text, start, old, new, path, depth)
        if isinstance(old, list) and isinstance(new, list) and isinstance(raw, list) and raw and new:
            return self._patch_list(text, start, old, new, path, depth)
        if isinstance(new, str) and isinstance(raw, str):
            return self.style.quote(new)
        if isinstance(new, str) and isinstance(raw, list) and isinstance(old, str):
            return self._dump_items([self.style.quote(line) for line in _lines(new)], "[]", depth)
        return self.dump(new, path, depth)

    def patch_object(
        self, text: str, start: int, old: Mapping[str, Any], new: Mapping[str, Any], path: Path, depth: int
    ) -> str:
        """`patch` for an object; a value that is the same in both keeps its text, or its absence."""
        items, end = walk(text, start, _scan_any(text))
        kept: list[tuple[str, str | None, str]] = []
        for at, item in enumerate(items):
            key = str(item.key)
            if key not in new:
                continue
            value = text[item.value_start : item.end]
            if not same(old.get(key, _MISSING), new[key]):
                value = self.patch(text, item.value_start, item.value, old.get(key), new[key], (*path, key), depth + 1)
            lead = text[items[at - 1].end : item.start] if at else None
            kept.append((key, lead, text[item.start : item.value_start] + value))
        present = {str(item.key) for item in items}
        for key in sorted(key for key in new if key not in present and not same(old.get(key, _MISSING), new[key])):
            kept.insert(_place(kept, key), (key, None, self._member(key, new[key], path, depth)))
        return self._rebuild(text, start, end, items, [(lead, member) for _, lead, member in kept], depth)

    def _patch_list(self, text: str, start: int, old: list[Any], new: list[Any], path: Path, depth: int) -> str:
        items, end = walk(text, start, _scan_any(text))
        if len(items) != len(old):
            return self.dump(new, path, depth)
        tail = 0
        while tail < min(len(old), len(new)) and same(old[-1 - tail], new[-1 - tail]):
            tail += 1
        parts: list[tuple[str | None, str]] = []
        for at, value in enumerate(new):
            was = at if at < len(new) - tail else at - len(new) + len(old)
            if was >= len(old) or (at < len(new) - tail and was >= len(old) - tail):
                parts.append((None, self.dump(value, (*path, at), depth + 1)))
                continue
            item = items[was]
            lead = text[items[was - 1].end : item.start] if was else None
            if same(old[was], value):
                parts.append((lead, text[item.start : item.end]))
            else:
                parts.append((lead, self.patch(text, item.start, item.value, old[was], value, (*path, at), depth + 1)))
        return self._rebuild(text, start, end, items, parts, depth)

    def _rebuild(
        self, text: str, start: int, end: int, items: list[Item], parts: list[tuple[str | None, str]], depth: int
    ) -> str:
        if not parts:
            return text[start] + text[end - 1]
        if not items:
            first, last = self.style.break_line(depth + 1), self.style.break_line(depth)
        else:
            first, last = text[start + 1 : items[0].start], text[items[-1].end : end - 1]
        separator = text[items[0].end : items[1].start] if len(items) > 1 else self.style.between(depth + 1)
        pieces = [text[start], first, parts[0][1]]
        for lead, part in parts[1:]:
            pieces += (separator if lead is None else lead, part)
        return "".join((*pieces, last, text[end - 1]))


_MISSING = object()


def _scan_any(text: str) -> Callable[[str, int, str | None], tuple[Any, int]]:
    scan = scanner(text)
    return lambda text, at, _: scan(text, at)


def _lines(value: str) -> Iterator[str]:
    """The lines with their ends, found in bites."""
    at = 0
    while at < len(value):
        end = value.rfind("\n", at, at + BITE) + 1 or value.find("\n", at + BITE) + 1 or len(value)
        yield from value[at:end].splitlines(True)
        at = end


def _place(kept: Sequence[tuple[str, str | None, str]], key: str) -> int:
    keys = [name for name, _, _ in kept]
    if keys != sorted(keys):
        return len(keys)
    return sum(name < key for name in keys)


def same(old: Any, new: Any) -> bool:
    """Whether two values are written alike: equal, and of equal types (1 is not true, nor 1.0)."""
    if old is new:
        return True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return len(old) == len(new) and all(key in new and same(value, new[key]) for key, value in old.items())
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(same, old, new))
    return type(old) is type(new) and bool(old == new)
