"""Paths that no backend takes, whatever it keeps notebooks in."""

from __future__ import annotations

from ...errors import InvalidRequest

MAX_BYTES = 2_048
"""Of a whole path. Linux takes 4,096 with the root and the names made beside a file, macOS 1,024."""

MAX_NAME_BYTES = 255
MAX_FOLDERS = 64


def check_path(path: str) -> None:
    """Refuse what cannot be the path of a notebook or folder.

    Raises:
        InvalidRequest: a NUL character, a lone surrogate, or too long or too deep for any disk.
    """
    if "\0" in path:
        raise InvalidRequest("The path holds a NUL character.", hint="Give a path relative to the root.")
    parts = path.split("/")
    if len(parts) > MAX_FOLDERS or len(path) > MAX_BYTES:
        raise InvalidRequest(
            f"The path {path[:80]!r}… is too long: {len(path):,} characters, {len(parts):,} levels.",
            hint=f"At most {MAX_BYTES:,} bytes and {MAX_FOLDERS} levels.",
        )
    try:
        name = max(len(part.encode("utf-8", "surrogateescape")) for part in parts)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The path {path[:200]!r} is not text.", hint="It holds half a character.") from error
    if name > MAX_NAME_BYTES:
        raise InvalidRequest(f"A name in the path {path[:80]!r}… is too long.", hint=f"At most {MAX_NAME_BYTES} bytes.")
