"""Paths that no backend takes, whatever it keeps notebooks in."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath

from ...errors import InvalidRequest, NotFound, OutsideRoot

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


def below(root: Path, cwd: str) -> str:
    """A folder below the root, given relative to it, in its canonical spelling; "" is the root itself.

    Raises:
        InvalidRequest, OutsideRoot, NotFound
    """
    try:
        folder = (root / cwd).resolve()
        there = folder.is_dir()
    except (OSError, ValueError) as error:
        raise InvalidRequest("That cannot be a folder's name.", hint="Give a folder relative to the root.") from error
    if not folder.is_relative_to(root.resolve()):
        raise OutsideRoot(f"The folder {cwd!r} is outside the root.", hint="Give a folder relative to the root.")
    if not there:
        raise NotFound(f"There is no folder {cwd!r}.", hint="Give an existing folder relative to the root.")
    relative = folder.relative_to(root.resolve()).as_posix()
    return "" if relative == "." else relative


def within(root: Path, path: str) -> str:
    """A path relative to the root in its canonical spelling, by its text alone; "." is the root itself.

    Raises:
        InvalidRequest, OutsideRoot
    """
    check_path(path)
    whole = posixpath.normpath(posixpath.join(root.as_posix(), path))
    if not PurePosixPath(whole).is_relative_to(root.as_posix()):
        raise OutsideRoot(f"{path!r} is outside the root folder.", hint="Give a path relative to the root.")
    return posixpath.relpath(whole, root.as_posix())


def notebook_within(root: Path, path: str) -> str:
    """The same of a notebook.

    Raises:
        InvalidRequest, OutsideRoot
    """
    if not path.strip():
        raise InvalidRequest("The notebook's path is empty.", hint="Give a path relative to the root.")
    name = within(root, path)
    if not name.endswith(".ipynb"):
        raise InvalidRequest(f"{path!r} is not a notebook.", hint="Notebooks end in .ipynb.")
    return name
