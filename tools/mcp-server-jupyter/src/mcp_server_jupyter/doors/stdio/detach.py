"""A server process of its own, started by whoever needs one: own session, own log, nothing of its starter's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...ownership import LOG, Held
from ...settings import Settings
from ...values import PREFIX

LOG_BYTES = 5 << 20
_FRESH = "mcp_server_jupyter.cli.detached"

Serve = Callable[[Settings, Held, socket.socket], None]


def can_fork() -> bool:
    """Forking saves a tenth of a second, and is safe where system libraries start no threads of their own."""
    return sys.platform == "linux"


def fork_server(settings: Settings, held: Held, listener: socket.socket, serve: Serve) -> None:
    """Run `serve` in a process of its own, which holds the lock from its first moment; we let go of lock and socket.

    Only for a process with one thread. The child is nobody's: a client that ends its children leaves it alone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                _become_server(held.folder / LOG, held.descriptor, listener.fileno())
                serve(settings, held, listener)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the starter's may run in this process
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)
    os.waitpid(child, 0)
    held.close()
    listener.close()


def spawn_server(settings: Settings, asked: Mapping[str, Any]) -> None:
    """The same by a fresh interpreter, which takes the lock itself: or does not, when another was faster.

    What was asked for goes through its environment, for anybody can see a process's arguments.
    """
    settings.root_state.mkdir(parents=True, exist_ok=True, mode=0o700)
    given = {**asked, "root": settings.root, "state_dir": settings.state_dir, "notebook": settings.notebook or ""}
    variables = {PREFIX + name.upper(): _text(value) for name, value in given.items()}
    log = _open_log(settings.root_state / LOG)
    flags = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    command = [sys.executable, "-m", _FRESH]
    try:
        subprocess.Popen(  # never waited for: it outlives us
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            creationflags=flags,
            cwd=settings.state_dir,
            env={**os.environ, **variables},
        ).returncode = 0
    finally:
        os.close(log)


def log_tail(folder: Path, characters: int = 2_000) -> str:
    """The end of a server's log."""
    with suppress(OSError), (folder / LOG).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - characters))
        return file.read().decode(errors="replace").strip()
    return ""


def bound_log(folder: Path) -> None:
    """Begin a new log once this one is long; the last one is kept."""
    if os.fstat(2).st_size > LOG_BYTES:
        log = _open_log(folder / LOG)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _become_server(log: Path, *keep: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    nowhere, file = os.open(os.devnull, os.O_RDONLY), _open_log(log)
    os.dup2(nowhere, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    below = 3
    for descriptor in sorted(keep):
        os.closerange(below, descriptor)
        below = descriptor + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


def _open_log(path: Path) -> int:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
