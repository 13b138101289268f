"""Pure: values of messages made such that nbformat's schema and UTF-8 can hold them."""

from __future__ import annotations

import json
from typing import Any

# nbformat walks JSON with two frames of Python a level.
_DEEPEST = 200


def as_text(value: Any) -> str:
    """A string that UTF-8 can hold: a lone surrogate would make the notebook unwritable."""
    text = value if isinstance(value, str) else str(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _is_json(mime: str) -> bool:
    return mime == "application/json" or mime.endswith("+json")


def mime_value(mime: str, value: Any) -> tuple[Any, int]:
    """What nbformat's schema allows for a MIME type, and its size: text, or anything for JSON types."""
    if isinstance(value, str):
        text = as_text(value)
        return text, size_of(text)
    if not _is_json(mime) and isinstance(value, list) and all(isinstance(line, str) for line in value):
        text = as_text("".join(value))
        return text, size_of(text)
    try:
        dumped = json.dumps(value)
        if _depth_over(value, _DEEPEST):
            raise ValueError("nested too deep for nbformat")
    except (TypeError, ValueError, RecursionError):
        text = f"[{mime}: not JSON that a notebook can hold]"
        return text, size_of(text)
    if not _is_json(mime):
        return dumped, len(dumped)
    return (_scrub(value) if "\\ud" in dumped else value), len(dumped)


def _depth_over(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if isinstance(value, dict):
        return {as_text(key): _scrub(item) for key, item in value.items()}
    return value


def too_big(size: int, limit: int) -> dict[str, Any]:
    return {"text/plain": f"[an output of {size:,} bytes was not kept: the limit for one cell is {limit:,} bytes]"}


def middle_out(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters were not kept …]\n{text[len(text) - half :]}"
