"""What lies below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import InvalidRequest, NotFound
from ...ports import Entry
from .disk import NOTEBOOK_SUFFIX, translated

_LEFT_OUT = ("__pycache__", "node_modules")


def list_entries(root: Path, folder: Path, path: str, recursive: bool) -> Sequence[Entry]:
    """Files and folders, hidden ones and links out of the root left out, sorted by path; linked folders not entered.

    Raises:
        NotFound: no such folder.
        InvalidRequest: a file.
    """
    if folder.is_file():
        raise InvalidRequest(f"{path!r} is a file.", hint="Name a folder.")
    if not folder.is_dir():
        raise NotFound(f"There is no folder {path!r}.", hint="List the root for those there are.")
    with translated(path or "."):
        return sorted(_entries(root, folder, recursive), key=lambda entry: entry.path)


def _entries(root: Path, folder: Path, recursive: bool) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for item in found:
            if item.name.startswith(".") or item.name in _LEFT_OUT:
                continue
            place = Path(item.path)
            if item.is_symlink() and root not in Path(os.path.realpath(place)).parents:
                continue
            try:
                info = item.stat()
            except OSError:
                continue  # a broken link, or deleted while listing
            path = place.relative_to(root).as_posix()
            if item.is_dir():
                yield Entry(path, "directory", None, info.st_mtime)
                if recursive and not item.is_symlink():
                    yield from _readable(root, place)
            elif item.is_file():
                kind = "notebook" if item.name.endswith(NOTEBOOK_SUFFIX) else "file"
                yield Entry(path, "notebook" if kind == "notebook" else "file", info.st_size, info.st_mtime)


def _readable(root: Path, folder: Path) -> Iterator[Entry]:
    try:
        yield from _entries(root, folder, True)
    except PermissionError:
        return
