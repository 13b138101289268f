"""Paths that stay below the root, also while somebody swaps folders for links; errors of the disk as ours."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import AlreadyExists, InvalidRequest, JupyterMcpError, NotFound, OutsideRoot, Unavailable
from ..shared.paths import check_path

NOTEBOOK_SUFFIX = ".ipynb"

CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | CLOSE_ON_EXEC
_WALKS = {os.open, os.stat, os.mkdir, os.rename, os.unlink, os.link} <= os.supports_dir_fd


def resolve(root: Path, path: str) -> Path:
    """The real path of a notebook or folder below `root`, which is real itself.

    Raises:
        InvalidRequest: no path can be like that, or its links go in a circle.
        OutsideRoot: it leaves the root, by `..`, as an absolute path, or through a symbolic link.
    """
    check_path(path)
    if (plain := _without_links(root, path)) is not None:
        return plain
    try:
        real = Path(os.path.realpath(root / path))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"The path {path[:200]!r} cannot be followed.", hint="Check its links.") from error
    if real != root and root not in real.parents:
        raise OutsideRoot(f"{path!r} is outside the root folder.", hint="Give a path relative to the root.")
    return real


def _without_links(root: Path, path: str) -> Path | None:
    """The path below the root if no step of it is a link, `..` or odd; None where it must be followed.

    A tenth of what `realpath` costs, which looks at the steps above the root as well: each call resolves a dozen times.
    """
    if os.sep != "/":
        return None
    at = str(root)
    steps = path.split("/")
    for step in steps:
        if step in ("", ".", ".."):
            return None
    for step in steps:
        at = f"{at}/{step}"
        try:
            if stat.S_ISLNK(os.lstat(at).st_mode):
                return None
        except FileNotFoundError:
            # What is not there leads nowhere, and neither does what would be below it.
            return root.joinpath(*steps)
        except (OSError, ValueError):
            return None
    return Path(at)


def resolve_notebook(root: Path, path: str) -> Path:
    """`resolve` for something that must be a notebook by its name.

    Raises:
        InvalidRequest, OutsideRoot
    """
    if not path.strip():
        raise InvalidRequest("The notebook's path is empty.", hint="Give a path relative to the root.")
    real = resolve(root, path)
    if not path.endswith(NOTEBOOK_SUFFIX):
        hint = "It is a folder; list it." if os.path.isdir(real) else f"Notebooks end in {NOTEBOOK_SUFFIX}."
        raise InvalidRequest(f"{path!r} is not a notebook.", hint=hint)
    return real


class Place:
    """A file by its name in an opened folder: what happens to the path above it no longer matters.

    `folder` is None where the system cannot work in opened folders; `name` is the whole path there.
    """

    def __init__(self, folder: int | None, name: str) -> None:
        self.folder = folder
        self.name = name

    def beside(self, name: str) -> Place:
        """Another file of the same folder."""
        return Place(self.folder, name if self.folder is not None else os.path.join(os.path.dirname(self.name), name))

    def stat(self) -> os.stat_result:
        """What stands there now. Raises OSError.

        Raises:
            OutsideRoot: a link, which may lead anywhere.
        """
        info = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            raise swapped(self.name)
        return info

    def open(self, flags: int, mode: int = 0o600) -> int:
        """The descriptor of the file, never of what a link leads to. Raises OSError.

        Raises:
            OutsideRoot: a link.
        """
        try:
            return os.open(self.name, flags | NO_FOLLOW | CLOSE_ON_EXEC, mode, dir_fd=self.folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise swapped(self.name) from error
            raise

    def unlink(self) -> None:
        """Remove the file if it is there. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)


def swapped(name: str) -> OutsideRoot:
    """The error for what was a file or folder when its path was resolved, and is a link now."""
    return OutsideRoot(f"{name!r} became a link, which is not followed.", hint="Name the file it leads to.")


@contextlib.contextmanager
def opened(root: Path, path: Path, *, made: bool = False) -> Iterator[Place]:
    """The place of a real path below `root`, reached from the root step by step without following links.

    Raises OSError.

    Args:
        made: make the folders that are missing; those that were made go again if the block raises.

    Raises:
        OutsideRoot: a folder on the way is a link by now.
    """
    parts = path.relative_to(root).parts
    if not _WALKS:
        if Path(os.path.realpath(path)) != path:
            raise swapped(str(path))
        if made:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield Place(None, str(path))
        return
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as unmake:
        folder = os.open(root, _FOLDER)
        stack.callback(os.close, folder)
        for name in parts[:-1]:
            folder = _below(folder, name, unmake.callback if made else None)
            stack.callback(os.close, folder)
        yield Place(folder, parts[-1] if parts else ".")
        unmake.pop_all()


def _below(folder: int, name: str, unmake: Callable[..., object] | None) -> int:
    try:
        return os.open(name, _FOLDER | NO_FOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if unmake is None:
            raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and _is_link(folder, name):
            raise swapped(name) from error
        raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
        unmake(_remove_empty, folder, name)
    return os.open(name, _FOLDER | NO_FOLLOW, dir_fd=folder)


def _is_link(folder: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _remove_empty(folder: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=folder)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Operating-system errors about the file `name` as ours."""
    try:
        yield
    except OSError as error:
        raise _translate(error, name) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


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
    if error.errno in _TOO_MANY_OPEN:
        hint = "Shut down kernels that are not needed, or raise the limit (ulimit -n), then try again."
        return Unavailable(f"{name!r} cannot be opened: {error.strerror}.", hint=hint)
    if error.errno == errno.ENAMETOOLONG:
        return InvalidRequest(f"The path {name[:80]!r}… is too long.", hint="Choose a shorter one.")
    return Unavailable(f"{name!r} cannot be used: {error.strerror}.", hint="Try again once the disk answers.")
