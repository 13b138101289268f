"""Locks on files (flock), and temporary files that are known to be somebody's by the lock on them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import Unavailable
from .paths import CLOSE_ON_EXEC, Place, opened

if sys.platform != "win32":
    import fcntl

LOCK_SECONDS = 10.0
TEMP_PREFIX = ".mcp-server-jupyter-"
TEMP_SUFFIX = ".tmp"
_LOCK_STEP_SECONDS = 0.001
_STALE_SECONDS = 3600.0
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


@contextlib.contextmanager
def locked(root: Path, path: Path) -> Iterator[None]:
    """Hold the lock of the file that stands at `path`, which may be replaced while we wait. Raises OSError.

    Raises:
        Unavailable: another program holds it for more than 10 s.
    """
    with opened(root, path) as place, locked_place(place, True):
        yield


@contextlib.contextmanager
def locked_place(place: Place, wait: bool) -> Iterator[None]:
    """`locked` for an opened place. Raises OSError; BlockingIOError if this may not `wait`."""
    while True:
        descriptor = place.open(os.O_RDONLY)
        try:
            _acquire(descriptor, wait)
            if os.path.samestat(os.fstat(descriptor), place.stat()):
                yield
                return
        finally:
            os.close(descriptor)  # lets go of the lock


def _acquire(descriptor: int, wait: bool) -> bool:
    """Lock an open file until it is closed. False where the disk knows no locks."""
    if sys.platform == "win32":
        return False
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not wait:
                raise
            if time.monotonic() > deadline:
                hint = "Close the program that holds it, then try again."
                raise Unavailable("Another program keeps the notebook locked.", hint=hint) from None
            time.sleep(_LOCK_STEP_SECONDS)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False


@contextlib.contextmanager
def temporary(place: Place, mode: int = 0o600) -> Iterator[tuple[Place, int]]:
    """A new file beside `place`, locked while it is ours, removed at the end if it is still there. Raises OSError."""
    while True:
        temp = place.beside(f"{TEMP_PREFIX}{secrets.token_hex(8)}{TEMP_SUFFIX}")
        descriptor = temp.open(os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        try:
            if not _is_ours(descriptor):
                continue  # swept by another server in the moment before it was locked
            try:
                yield temp, descriptor
            finally:
                temp.unlink()
            return
        finally:
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    try:
        _acquire(descriptor, False)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def sweep(root: Path, folder: Path) -> None:
    """Remove temporary files whose writer is gone: nobody holds their lock. What cannot be removed stays."""
    with contextlib.suppress(OSError), opened(root, folder / TEMP_PREFIX) as place:
        for name in _names_in(place, folder):
            if name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX):
                with contextlib.suppress(OSError):
                    _remove_if_left(place.beside(name))


def _names_in(place: Place, folder: Path) -> list[str]:
    if place.folder is None:
        return os.listdir(folder)
    descriptor = os.open(".", os.O_RDONLY | CLOSE_ON_EXEC, dir_fd=place.folder)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_left(temp: Place) -> None:
    descriptor = temp.open(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        is_locked = _acquire(descriptor, False)
        info = os.fstat(descriptor)
        if (is_locked or info.st_mtime < time.time() - _STALE_SECONDS) and os.path.samestat(info, temp.stat()):
            temp.unlink()
    finally:
        os.close(descriptor)
