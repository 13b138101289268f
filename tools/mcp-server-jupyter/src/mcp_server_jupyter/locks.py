"""A lock on a file that the system drops with the process that holds it.

Whoever only looks whether it is held shares it for an instant; whoever takes it waits that long.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    _LONGEST_LOOK_SECONDS = 0.01

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _is_owned(descriptor: int) -> bool:
        """Looks cannot be told from owners here; they last for an instant."""
        return False

    def is_locked(path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

else:
    import fcntl

    _LONGEST_LOOK_SECONDS = 5.0

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_owned(descriptor: int) -> bool:
        """Whether somebody holds it for himself; those who only look share it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False

    def is_locked(path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            return _is_owned(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Take it. Another process that only looks at it holds it for an instant, or until it gets the CPU again."""
    until = time.monotonic() + _LONGEST_LOOK_SECONDS
    while not _try_lock(descriptor):
        if _is_owned(descriptor) or time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True
