"""Notebook files on disk: paths that stay below the root, versions, and replacing a file in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...errors import AlreadyExists, InvalidRequest, JupyterMcpError, NotFound, OutsideRoot, TooLarge, Unavailable

if sys.platform != "win32":
    import fcntl

NOTEBOOK_SUFFIX = ".ipynb"
LOCK_SECONDS = 10.0
_LOCK_STEP_SECONDS = 0.001
_TEMP_PREFIX = ".mcp-server-jupyter-"
_STALE_SECONDS = 3600.0


class Version(NamedTuple):
    """What tells one state of a file from another without reading it."""

    modified_ns: int
    size: int
    inode: int


class Snapshot:
    """A version of a file, held open so that no later file can take its inode number and pass for it."""

    def __init__(self, version: Version, descriptor: int) -> None:
        self.version = version
        self._guard = None if sys.platform == "win32" else os.dup(descriptor)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None


class Changed(Exception):
    """The file is not the one that was read. Never leaves the backend."""


# --------------------------------------------------------------------------- paths


def resolve(root: Path, path: str) -> Path:
    """The real path of a notebook or folder below `root`, which is real itself.

    Raises:
        InvalidRequest: a NUL character.
        OutsideRoot: it leaves the root, by `..`, as an absolute path, or through a symbolic link.
    """
    if "\0" in path:
        raise InvalidRequest("The path holds a NUL character.", hint="Give a path relative to the root.")
    try:
        real = Path(os.path.realpath(root / path))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"The path {path[:200]!r} cannot be followed.", hint="Check its links.") from error
    if real != root and root not in real.parents:
        raise OutsideRoot(f"{path!r} is outside the root folder.", hint="Give a path relative to the root.")
    return real


def resolve_notebook(root: Path, path: str) -> Path:
    """`resolve` for something that must be a notebook by its name.

    Raises:
        InvalidRequest, OutsideRoot
    """
    if not path.strip():
        raise InvalidRequest("The notebook's path is empty.", hint="Give a path relative to the root.")
    real = resolve(root, path)
    if not path.endswith(NOTEBOOK_SUFFIX):
        hint = "It is a folder; list it." if real.is_dir() else f"Notebooks end in {NOTEBOOK_SUFFIX}."
        raise InvalidRequest(f"{path!r} is not a notebook.", hint=hint)
    return real


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Operating-system errors about the file `name` as ours."""
    try:
        yield
    except OSError as error:
        raise _translate(error, name) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def _translate(error: OSError, name: str) -> JupyterMcpError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"There is no notebook {name!r}.", hint="List the notebooks, or create it.")
    if isinstance(error, IsADirectoryError):
        return InvalidRequest(f"{name!r} is a folder.", hint="Name a notebook in it.")
    if isinstance(error, FileExistsError):
        return AlreadyExists(f"{name!r} exists already.", hint="Open it, or choose another name.")
    if error.errno in _FORBIDDEN:
        return InvalidRequest(f"{name!r} cannot be used: {error.strerror}.", hint="Check its permissions and folder.")
    if error.errno in _FULL:
        return Unavailable(f"{name!r} cannot be written: {error.strerror}.", hint="Free some space; nothing was lost.")
    if error.errno == errno.ENAMETOOLONG:
        return InvalidRequest(f"The path {name[:80]!r}… is too long.", hint="Choose a shorter one.")
    return Unavailable(f"{name!r} cannot be used: {error.strerror}.", hint="Try again once the disk answers.")


# --------------------------------------------------------------------------- reading


def version_of(path: Path) -> Version:
    """The version of a file now. Raises OSError."""
    return _version(os.stat(path))


def _version(info: os.stat_result) -> Version:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise PermissionError(errno.EPERM, "it is not a regular file")
    return Version(info.st_mtime_ns, info.st_size, info.st_ino)


def read(path: Path, limit: int) -> tuple[bytes, Snapshot]:
    """A file's bytes and the version they belong to, which the caller closes. Raises OSError.

    Raises:
        TooLarge: more than `limit` bytes.
    """
    _version(os.stat(path))
    with open(path, "rb") as file:
        while True:
            before = _version(os.fstat(file.fileno()))
            check_size(path.name, before.size, limit)
            data = file.read()
            after = _version(os.fstat(file.fileno()))
            if before == after and len(data) == after.size:
                return data, Snapshot(after, file.fileno())
            file.seek(0)


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


# --------------------------------------------------------------------------- writing


def replace(path: Path, data: bytes, expected: Version, *, is_locked: bool = False, wait: bool = True) -> Snapshot:
    """Put `data` in the place of the file, durably and in one step, if it is still the expected version.

    The new file is made beside it and synced before the old one is locked (flock), so that the time in which another
    program's change could be missed is that of one stat and one rename. Raises OSError; BlockingIOError if another
    program holds the lock and this may not `wait`.

    Args:
        is_locked: the caller holds `locked` already.

    Raises:
        Changed: the file is another one by now.
        Unavailable: another program holds the lock for more than 10 s.
    """
    info = os.stat(path)
    if _version(info) != expected:
        raise Changed
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with _temporary(path.parent) as (temp, descriptor):
        _copy_owner(descriptor, info)
        _write(descriptor, data)
        with _flock(descriptor, wait), contextlib.nullcontext() if is_locked else locked(path, wait):
            if version_of(path) != expected:
                raise Changed
            os.replace(temp, path)
            snapshot = Snapshot(_version(os.fstat(descriptor)), descriptor)
    _sync_folder(path.parent)
    return snapshot


def create(path: Path, data: bytes) -> Snapshot:
    """Write a new file durably, with its folders. Raises OSError, FileExistsError if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent, 0o666) as (temp, descriptor):
        _write(descriptor, data)
        try:
            os.link(temp, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            os.replace(temp, path)
        snapshot = Snapshot(_version(os.fstat(descriptor)), descriptor)
    _sync_folder(path.parent)
    return snapshot


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


@contextlib.contextmanager
def _temporary(folder: Path, mode: int = 0o600) -> Iterator[tuple[Path, int]]:
    temp = folder / f"{_TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(6)}.tmp"
    descriptor = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        yield temp, descriptor
    finally:
        os.close(descriptor)
        temp.unlink(missing_ok=True)


def _copy_owner(descriptor: int, info: os.stat_result) -> None:
    if sys.platform == "win32":
        return
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, info.st_uid, info.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(info.st_mode))


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of the file that stands at `path`, which may be replaced while we wait. Raises OSError.

    Raises:
        Unavailable: another program holds it for more than 10 s.
    """
    while True:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            stack.callback(os.close, descriptor)
            stack.enter_context(_flock(descriptor, wait))
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                yield
                return


@contextlib.contextmanager
def _flock(descriptor: int, wait: bool) -> Iterator[None]:
    """Lock an open file. Unlocked by hand: a duplicate of the descriptor may stay open."""
    if sys.platform == "win32":
        yield
        return
    is_ours = _acquire(descriptor, wait)
    try:
        yield
    finally:
        if is_ours:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _acquire(descriptor: int, wait: bool) -> bool:
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


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed server left more than an hour ago. Raises OSError."""
    oldest = time.time() - _STALE_SECONDS
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMP_PREFIX) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)


def is_fresh(path: Path, seconds: float) -> bool:
    """Whether the file was changed that recently. Raises OSError."""
    return time.time() - os.stat(path).st_mtime < seconds
