"""Folders that are this user's alone."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .errors import InvalidRequest, Unavailable

# Socket names hold the runtime folder, a prefix and a number; sun_path takes 107 bytes (unix(7)), 103 on macOS.
_LONGEST_FOLDER = 80


def runtime_folder() -> Path:
    """A folder for sockets that is ours alone and has a short name.

    Raises:
        Unavailable: no folder there is can be used.
    """
    for base in _runtime_bases():
        folder = base / f"mcpj-{os.getuid()}"
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            # Of another user, or on a disk that is full or cannot be written: the next one will do.
            continue
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        if private and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise Unavailable("There is no private folder for sockets.", hint="Set XDG_RUNTIME_DIR to a folder of your own.")


def service_folder(state_dir: Path, name: str) -> Path:
    """The folder below a state directory that a service without notebooks of its own works in.

    Raises:
        InvalidRequest: it cannot be made.
    """
    folder = state_dir / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be made: {error.strerror}.", hint="Give another --state-dir.") from error
    return folder.resolve()


def _runtime_bases() -> Iterator[Path]:
    wanted = os.environ.get("XDG_RUNTIME_DIR")
    # The XDG Base Directory Specification: it is the user's own. One left by `su` or `sudo -E` goes with its owner.
    with suppress(OSError):
        if wanted and os.stat(wanted).st_uid == os.getuid():
            yield Path(wanted)
    # Raises where no temporary folder can be written.
    with suppress(OSError):
        yield Path(tempfile.gettempdir())
    yield Path("/tmp")
