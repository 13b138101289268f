"""Notebook files on disk: their versions, reading them whole, and replacing them in one step."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ...errors import TooLarge
from .locks import locked_place, temporary
from .paths import CLOSE_ON_EXEC, Place, opened, swapped

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

Pieces = Sequence[bytes]
"""A file's bytes in order, in as many parts as it was put together from."""

_PIECES_AT_ONCE = 512
_NO_REPLACE = (errno.EBUSY, errno.EXDEV)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS)


class Version(NamedTuple):
    """What tells one state of a file from another without reading it.

    An inode number may be used again as soon as its file is gone; the time of change, which no program can set,
    then differs.
    """

    modified_ns: int
    changed_ns: int
    size: int
    inode: int
    device: int

    @property
    def identity(self) -> str:
        """What stays when the file is moved on its disk."""
        # The number alone is used again as soon as its file is gone, which every write of ours makes it.
        return f"{self.device}:{self.inode}:{self.modified_ns}"


class Changed(Exception):
    """The file is not the one that was read. Never leaves the backend."""


# --------------------------------------------------------------------------- reading


def version_of(path: Path) -> Version:
    """The version of a file now. Raises OSError.

    Raises:
        OutsideRoot: it is a link.
    """
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        raise swapped(path.name)
    return _version(info)


def _version(info: os.stat_result) -> Version:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise PermissionError(errno.EPERM, "it is not a regular file")
    return Version(info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino, info.st_dev)


def read(root: Path, path: Path, limit: int) -> tuple[bytes, Version]:
    """A file's bytes and the version they belong to. Raises OSError.

    Raises:
        TooLarge: more than `limit` bytes.
        OutsideRoot: it, or a folder above it, is a link by now.
    """
    with opened(root, path) as place:
        _version(place.stat())
        with open(place.open(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0) as file:
            return _read(file.fileno(), path.name, limit)


def _read(descriptor: int, name: str, limit: int) -> tuple[bytes, Version]:
    while True:
        before = _version(os.fstat(descriptor))
        check_size(name, before.size, limit)
        data = _read_from(descriptor, before.size)
        after = _version(os.fstat(descriptor))
        if before == after and len(data) == after.size:
            return data, after


def _read_from(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts: list[bytes] = []
    while part := os.read(descriptor, size + 1):
        parts.append(part)
        size = max(0, size - len(part))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_size(name: str, size: int, limit: int) -> None:
    """Refuse a notebook over the limit.

    Raises:
        TooLarge
    """
    if size > limit:
        raise TooLarge(
            f"{name!r} has {size:,} bytes, more than the limit of {limit:,}.",
            hint="Clear outputs, or raise the setting max_notebook_bytes.",
        )


def is_fresh(path: Path, seconds: float) -> bool:
    """Whether the file was changed that recently. Raises OSError."""
    return time.time() - os.lstat(path).st_mtime < seconds


# --------------------------------------------------------------------------- writing


def check_writable(path: Path) -> None:
    """Raise the OSError that replacing the file would, as far as it can be told without doing it."""
    size = os.stat(path).st_size
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if sys.platform != "win32":
        free = os.statvfs(path.parent)
        if free.f_blocks and free.f_bavail * free.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def replace(
    root: Path, path: Path, pieces: Pieces, expected: Version, *, is_locked: bool = False, wait: bool = True
) -> Version:
    """Put the pieces in the place of the file, durably and in one step, if it is still the expected version.

    The new file is made beside it and synced before the old one is locked (flock), so that the time in which another
    program's change could be missed is that of one stat and one rename. Raises OSError; BlockingIOError if another
    program holds the lock and this may not `wait`.

    Args:
        is_locked: the caller holds `locks.locked` already.

    Raises:
        Changed: the file is another one by now.
        OutsideRoot: it, or a folder above it, is a link by now.
        Unavailable: another program holds the lock for more than 10 s.
    """
    with opened(root, path) as place:
        info = place.stat()
        if _version(info) != expected:
            raise Changed
        if not os.access(place.name, os.W_OK, dir_fd=place.folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with temporary(place) as (temp, descriptor):
            _copy_owner(descriptor, info)
            _write(descriptor, pieces)
            with contextlib.nullcontext() if is_locked else locked_place(place, wait):
                if _version(place.stat()) != expected:
                    raise Changed
                written = _move(temp, place, descriptor, pieces)
        _sync_folder(place)
    return written


def _move(temp: Place, place: Place, descriptor: int, pieces: Pieces) -> Version:
    try:
        os.replace(temp.name, place.name, src_dir_fd=temp.folder, dst_dir_fd=place.folder)
    except OSError as error:
        if error.errno not in _NO_REPLACE:
            raise
        return _overwrite(place, pieces)
    return _version(os.fstat(descriptor))


def _overwrite(place: Place, pieces: Pieces) -> Version:
    """Write into the file itself, which cannot be replaced: it is mounted by itself, as containers do.

    What it held stands synced beside it meanwhile, and is put back if writing fails. If the process is killed in
    between, that copy stays.
    """
    target = place.open(os.O_RDWR)
    try:
        before = _read_from(target, os.fstat(target).st_size)
        backup = place.beside(backup_name(place.name))
        with _backup(backup, before):
            try:
                _fill(target, pieces)
            except OSError:
                _fill(target, [before])
                backup.unlink()
                raise
        return _version(os.fstat(target))
    finally:
        os.close(target)


def backup_name(name: str) -> str:
    """Where the last whole state of a file stands while it is written in place."""
    return f".{os.path.basename(name)}.mcp-server-jupyter-backup"


@contextlib.contextmanager
def _backup(place: Place, data: bytes) -> Iterator[None]:
    descriptor = place.open(os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    try:
        _write(descriptor, [data])
    except OSError:
        place.unlink()
        raise
    finally:
        os.close(descriptor)
    yield
    place.unlink()


def _fill(descriptor: int, pieces: Pieces) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    _write(descriptor, pieces, cut=True)


def create(root: Path, path: Path, data: bytes) -> Version:
    """Write a new file durably, with its folders. Raises OSError, FileExistsError if there is one.

    Raises:
        OutsideRoot: a folder above it is a link by now.
    """
    with opened(root, path, made=True) as place:
        with temporary(place, 0o666) as (temp, descriptor):
            _write(descriptor, [data])
            try:
                os.link(temp.name, place.name, src_dir_fd=temp.folder, dst_dir_fd=place.folder)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.close(place.open(os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                os.replace(temp.name, place.name, src_dir_fd=temp.folder, dst_dir_fd=place.folder)
            temp.unlink()  # a name less changes the time of change
            written = _version(os.fstat(descriptor))
        _sync_folder(place)
    return written


def _copy_owner(descriptor: int, info: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, info.st_uid, info.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(info.st_mode))


def _write(descriptor: int, pieces: Pieces, *, cut: bool = False) -> None:
    """Write the pieces from where the file stands and sync; `cut` ends the file there."""
    rest = iter(pieces)
    while batch := list(islice(rest, _PIECES_AT_ONCE)):
        written, wanted = os.writev(descriptor, batch), sum(map(len, batch))
        if written < wanted:  # a full disk, or a signal: the rest says which
            left = memoryview(b"".join(batch))[written:]
            while left:
                left = left[os.write(descriptor, left) :]
    if cut:
        os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
    sync(descriptor)


def sync(descriptor: int) -> None:
    """Bring a file to the disk itself. On macOS fsync leaves it in the drive's cache (man 2 fsync). Raises OSError."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform != "win32" else None
    if full_sync is not None:
        with contextlib.suppress(OSError):  # a network disk, which has no drive to flush
            fcntl.fcntl(descriptor, full_sync)
            return
    os.fsync(descriptor)


def _sync_folder(place: Place) -> None:
    """Bring a rename to the disk. It has happened by now: a disk that cannot say so has not failed to write it."""
    if sys.platform == "win32" or place.folder is None:
        return
    try:
        descriptor = os.open(".", os.O_RDONLY | CLOSE_ON_EXEC, dir_fd=place.folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            logger.warning("the folder of %s could not be synced: %s", place.name, error.strerror)
