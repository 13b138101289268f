"""What lies below a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ...errors import InvalidRequest, NotFound
from ...ports import Entry
from .paths import NOTEBOOK_SUFFIX, translated

_LEFT_OUT = ("__pycache__", "node_modules")


def list_entries(root: Path, folder: Path, path: str, recursive: bool) -> Sequence[Entry]:
    """Files and folders, hidden ones and links out of the root left out, sorted by path; linked folders not entered.

    Below the folder itself, what vanishes meanwhile or may not be read is left out.

    Raises:
        NotFound: no such folder.
        InvalidRequest: a file.
    """
    with translated(path or "."):
        if not stat.S_ISDIR(_mode(folder, path)):
            raise InvalidRequest(f"{path!r} is a file.", hint="Name a folder.")
        entries = list(_entries(root, folder))
    waiting = [entry.path for entry in entries if recursive and _is_entered(root, entry)]
    while waiting:
        below = _entries_if_readable(root, root / waiting.pop())
        waiting += [entry.path for entry in below if _is_entered(root, entry)]
        entries += below
    return sorted(entries, key=lambda entry: entry.path)


def _mode(folder: Path, path: str) -> int:
    try:
        return os.stat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no folder {path!r}.", hint="List the root for those there are.") from None


def _is_entered(root: Path, entry: Entry) -> bool:
    return entry.kind == "directory" and not (root / entry.path).is_symlink()


def _entries_if_readable(root: Path, folder: Path) -> list[Entry]:
    try:
        return list(_entries(root, folder))
    except OSError:
        return []


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is never shown, nor what is in it."""
    return name.startswith(".") or name in _LEFT_OUT


def _entries(root: Path, folder: Path) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for item in found:
            if is_left_out(item.name):
                continue
            place = Path(item.path)
            try:
                if item.is_symlink() and root not in Path(os.path.realpath(place)).parents:
                    continue
                info = item.stat()
            except (OSError, ValueError):
                continue  # a broken link, or deleted while listing
            path = place.relative_to(root).as_posix()
            if stat.S_ISDIR(info.st_mode):
                yield Entry(path, "directory", None, info.st_mtime)
            elif stat.S_ISREG(info.st_mode):
                kind: Literal["notebook", "file"] = "notebook" if item.name.endswith(NOTEBOOK_SUFFIX) else "file"
                yield Entry(path, kind, info.st_size, info.st_mtime)
