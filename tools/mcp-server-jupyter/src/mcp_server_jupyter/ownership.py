"""Who owns a state directory, and where this user's running server answers.

A server owns its state directory for as long as it holds the lock on `server.lock`; the operating system drops the
lock with the process, however it ends, so nothing here trusts a process id. A second server of the same state
directory gets a folder of its own below `instances/`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidRequest, Unavailable
from .settings import Settings

LOCK = "server.lock"
RECORD = "server.json"
TOKEN = "token"
ATTACHED = "attached.lock"
_MAX_INSTANCES = 64


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server of this user that answers over HTTP. `url` is its MCP endpoint."""

    url: str
    token: str | None
    pid: int
    root: str
    version: str
    folder: str = ""

    @property
    def address(self) -> str:
        return self.url.removesuffix("/mcp")


@contextmanager
def own_state_dir(settings: Settings) -> Iterator[Settings]:
    """Hold a state directory; yields the settings with the `state_dir` that is now ours alone.

    Raises:
        InvalidRequest: the directory cannot be made or written.
        Unavailable: every instance folder is taken.
    """
    base = settings.state_dir
    candidates = [base, *(base / "instances" / str(number) for number in range(1, _MAX_INSTANCES + 1))]
    for folder in candidates:
        _make_private(folder)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _lock(descriptor):
                (folder / RECORD).unlink(missing_ok=True)
                yield dataclasses.replace(settings, state_dir=folder)
                return
        finally:
            os.close(descriptor)
    raise Unavailable(
        f"{_MAX_INSTANCES} servers already share {base}.", hint="Stop some of them, or give another --state-dir."
    )


@contextmanager
def announced(settings: Settings, url: str, token: str | None, version: str) -> Iterator[None]:
    """Let this user's other processes find the server at `url` while the context lasts."""
    record = RunningServer(url=url, token=token, pid=os.getpid(), root=str(settings.root), version=version)
    path = settings.state_dir / RECORD
    _write_private(path, json.dumps(dataclasses.asdict(record)))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_server(settings: Settings, *, any_root: bool = False) -> RunningServer | None:
    """This user's running server for the same root, None when there is none."""
    base = settings.state_dir
    for record in [base / RECORD, *sorted((base / "instances").glob(f"*/{RECORD}"))]:
        server = _read(record)
        if server and (any_root or server.root == str(settings.root)) and _is_locked(record.parent / LOCK):
            return dataclasses.replace(server, folder=str(record.parent))
    return None


@contextmanager
def attached(server: RunningServer) -> Iterator[None]:
    """Show a server, for as long as this lasts, that somebody besides its own client needs its kernels."""
    descriptor = os.open(Path(server.folder) / ATTACHED, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _share(descriptor)
        yield
    finally:
        os.close(descriptor)


def has_attached(settings: Settings) -> bool:
    """Whether a client is attached to the server that owns this state directory."""
    return _is_shared(settings.state_dir / ATTACHED)


def is_owned(settings: Settings) -> bool:
    """Whether a server holds the state directory itself, over HTTP or not."""
    return _is_locked(settings.state_dir / LOCK)


def load_token(settings: Settings) -> str | None:
    """The bearer token of the HTTP doors: the one set, else the one kept in the state directory, made if need be."""
    if settings.no_auth:
        return None
    if settings.token:
        return settings.token
    path = settings.state_dir / TOKEN
    try:
        kept = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = ""
    if len(kept) >= 32:
        path.chmod(0o600)
        return kept
    token = secrets.token_urlsafe(32)
    _write_private(path, token)
    return token


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError as error:
        raise InvalidRequest(
            f"The state directory {folder} cannot be written.", hint="Give another --state-dir."
        ) from error


def _write_private(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)


def _read(path: Path) -> RunningServer | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return RunningServer(**values)
    except (OSError, ValueError, TypeError):
        return None


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _share(descriptor: int) -> None:
        """Windows has no shared locks here: the first attached client stands for all."""
        _try_lock(descriptor)

    def _is_shared(path: Path) -> bool:
        return _is_locked(path)

    def _is_locked(path: Path) -> bool:
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

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _share(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)

    def _is_shared(path: Path) -> bool:
        return _is_locked(path, fcntl.LOCK_EX)

    def _is_locked(path: Path, how: int = fcntl.LOCK_SH) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """A look at the lock by another process holds it for an instant: one more try tells that from an owner."""
    if _try_lock(descriptor):
        return True
    time.sleep(0.005)
    return _try_lock(descriptor)
