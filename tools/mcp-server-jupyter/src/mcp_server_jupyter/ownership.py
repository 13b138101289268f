"""Who serves a root, and where its server answers.

The server of a root holds the lock on `server.lock` in the root's state folder for as long as it lives; the operating
system drops the lock with the process, however it ends, so nothing here trusts a process id. The lock file is never
removed: two processes that lock two files of one name would both be the server. The holder listens on a socket and
writes its address down; a record without a holder is only what a killed server left.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import InvalidRequest, Unavailable
from .locks import is_locked, lock
from .settings import Settings

LOCK = "server.lock"
RECORD = "server.json"
LOG = "server.log"
ROOT = "root"
SOCKET = "server.sock"
PROTOCOL = 1
"""Of the first line on the socket and its answer; see `doors.stdio.server`."""
_LONGEST_SOCKET = 100
_BACKLOG = 512
_ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The record of a root's server. `url` is its MCP endpoint over HTTP, None while it serves none.

    `socket` is a path, or a port on loopback where there are no Unix sockets; `key` is what opens that port.
    """

    pid: int
    root: str
    version: str
    socket: str | int | None = None
    key: str | None = None
    url: str | None = None
    token: str | None = None

    @property
    def address(self) -> str:
        return (self.url or "").removesuffix("/mcp")


class Rooted(Protocol):
    """What tells where a root's server is: the settings, or what a kernel of it knows."""

    @property
    def root(self) -> Path: ...
    @property
    def root_state(self) -> Path: ...


class SocketsForbidden(Unavailable):
    """This system lets us open no socket: whoever serves must do it in the client's own process."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"This system lets us open no socket ({error}).", hint="--embedded needs none.")


class Held:
    """The lock on a root's state, held by this process. Made by `hold`."""

    def __init__(self, settings: Settings, descriptor: int) -> None:
        self.folder = settings.root_state
        self.descriptor = descriptor
        self.record = RunningServer(os.getpid(), str(settings.root), "")

    def listen(self) -> socket.socket:
        """Open the socket that clients attach to, and write down where it is.

        Raises:
            OSError: sockets are forbidden here.
        """
        left = read_record(self.folder)
        if left is not None and isinstance(left.socket, str):
            # Of a server that was killed: nobody listens there while the lock is ours.
            Path(left.socket).unlink(missing_ok=True)
        listener, address, key = _listen(self.folder)
        self.announce(socket=address, key=key)
        return listener

    def announce(self, **facts: object) -> None:
        """Write the record with these facts changed."""
        self.record = dataclasses.replace(self.record, pid=os.getpid(), **facts)  # type: ignore[arg-type]
        try:
            write_private(self.folder / RECORD, json.dumps(dataclasses.asdict(self.record)))
        except OSError:
            # On a full disk a server still serves whoever looks at the usual place.
            if self.record.socket != str(self.folder / SOCKET):
                raise

    def retract(self) -> None:
        """Remove the record and the socket's name, while the lock is still ours."""
        (self.folder / RECORD).unlink(missing_ok=True)
        if isinstance(self.record.socket, str):
            Path(self.record.socket).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock, if no process that was forked off holds it too."""
        os.close(self.descriptor)


def hold(settings: Settings) -> Held | None:
    """Take the lock of a root's state; None when another process has it.

    Raises:
        InvalidRequest: the state folder cannot be made or written.
    """
    folder = settings.root_state
    make_private(folder)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not lock(descriptor):
            os.close(descriptor)
            return None
        if not (folder / ROOT).exists():
            write_private(folder / ROOT, str(settings.root))
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    return Held(settings, descriptor)


@contextmanager
def owned(settings: Settings) -> Iterator[Held]:
    """Hold the root's state while the context lasts.

    Raises:
        Unavailable: another process serves this root.
        InvalidRequest: the state folder cannot be made or written.
    """
    held = hold(settings)
    if held is None:
        raise Unavailable(
            f"Another server serves {settings.root}{_where(settings)}.",
            hint="Use that one, or end it with `mcp-server-jupyter down`.",
        )
    try:
        yield held
    finally:
        held.retract()
        held.close()


def _where(settings: Settings) -> str:
    server = find_server(settings)
    if server is None:
        return ""
    return f" at {server.url}" if server.url else f" (process {server.pid}, for clients on standard input and output)"


def find_server(settings: Settings) -> RunningServer | None:
    """The root's server, None when there is none or it takes no clients."""
    server = read_record(settings.root_state)
    return server if server is not None and is_held(settings.root_state) else None


def states(settings: Settings) -> Iterator[tuple[Path, str]]:
    """The state folder of every root that was ever served, and that root."""
    for folder in sorted((settings.state_dir / "roots").glob("*")):
        with suppress(OSError, UnicodeDecodeError):
            yield folder, (folder / ROOT).read_text(encoding="utf-8")


def connect(settings: Rooted) -> socket.socket | None:
    """A connection to the root's server, None where none answers.

    Raises:
        SocketsForbidden
    """
    server = read_record(settings.root_state)
    address = server.socket if server is not None and server.socket else str(settings.root_state / SOCKET)
    if isinstance(address, str) and (not has_unix_sockets() or len(os.fsencode(address)) > _LONGEST_SOCKET):
        return None
    try:
        connection = socket.socket(socket.AF_UNIX) if isinstance(address, str) else socket.socket()
        try:
            if isinstance(address, str):
                connection.connect(address)
            else:
                connection.connect(("127.0.0.1", address))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connection.close()
            raise
    except (FileNotFoundError, ConnectionError, TimeoutError):
        return None
    except OSError as error:
        raise SocketsForbidden(error) from error
    return connection


def greeting(settings: Rooted, ask: str, **facts: object) -> bytes:
    """The first line on a connection to a root's server: what is wanted."""
    server = read_record(settings.root_state)
    key = server.key if server is not None else None
    return json.dumps({"jupyter": PROTOCOL, "ask": ask, "key": key, **facts}).encode() + b"\n"


def ask_server(settings: Rooted, ask: str, seconds: float = _ASK_SECONDS, **facts: object) -> dict[str, object] | None:
    """One question to the root's server; None when there is no server that we can reach.

    Raises:
        Unavailable: it did not answer within `seconds`.
    """
    connection = None
    with suppress(SocketsForbidden):
        connection = connect(settings)
    if connection is None:
        return None
    with connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(greeting(settings, ask, **facts))
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except TimeoutError as error:
            raise Unavailable(
                f"The server of {settings.root} does not answer.", hint="`mcp-server-jupyter doctor` looks at it."
            ) from error
        except ConnectionError:
            return None
    return dict(json.loads(answer)) if answer else None


def wait_until_free(settings: Settings, seconds: float) -> bool:
    """Whether the root's state can be had within `seconds`. A lock cannot be waited for without taking it."""
    end = time.monotonic() + seconds
    while is_held(settings.root_state):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def wait_until_gone(settings: Settings, pid: object, seconds: float) -> bool:
    """Whether the server of this process id has let go of the root within `seconds`; another may have taken it since.

    The id is only compared with what the next server writes down about itself.
    """
    end = time.monotonic() + seconds
    while is_held(settings.root_state):
        server = read_record(settings.root_state)
        if server is not None and server.pid != pid:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def read_record(folder: Path) -> RunningServer | None:
    """What the last server of a state folder wrote about itself; it may have been killed since."""
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return RunningServer(**values)
    except (OSError, ValueError, TypeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a server holds a state folder."""
    return is_locked(folder / LOCK)


def has_unix_sockets() -> bool:
    """Whether processes of this machine can meet at a file; elsewhere at a port of loopback."""
    return hasattr(socket, "AF_UNIX")


def _listen(folder: Path) -> tuple[socket.socket, str | int, str | None]:
    """A listening socket, its address, and what opens it."""
    if not has_unix_sockets():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        return _bound(listener, ("127.0.0.1", 0)), int(listener.getsockname()[1]), secrets.token_urlsafe(32)
    path = folder / SOCKET
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        from .folders import runtime_folder  # noqa: PLC0415 - for long names only

        path = runtime_folder() / f"{folder.name[-12:]}-{secrets.token_hex(3)}.s"
    path.unlink(missing_ok=True)
    return _bound(socket.socket(socket.AF_UNIX), str(path)), str(path), None


def _bound(listener: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def make_private(folder: Path) -> None:
    """Make a root's state folder, for its user alone.

    Raises:
        InvalidRequest: it cannot be made or written.
    """
    try:
        for part in (folder.parent.parent, folder.parent, folder):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(PermissionError):
            # On a volume that another user has made, what we may do there is up to its group.
            folder.chmod(0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError as error:
        raise InvalidRequest(
            f"The state directory {folder} cannot be written.", hint="Give another --state-dir."
        ) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user may read, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
