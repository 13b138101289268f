"""One fork server, as the server sees it: start, ask, end. See `forkserver` for what it is and says."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ....errors import JupyterMcpError
from ..watch import Watch

PROGRAM = Path(__file__).with_name("forkserver.py")
FORK_SECONDS = 2.0
"""How long a fork server may take to answer; it takes milliseconds."""
_IMPORT_SECONDS = 60.0
_MESSAGE = 1 << 20
_LOG_TAIL = 400
# The titles of recorders and kernels are written over the fork server's own arguments.
_PADDING = " " * 2048


class NotForked(JupyterMcpError):
    """Nothing has been forked, and nothing will be: the kernel can be spawned."""


@dataclass(frozen=True, slots=True)
class Forked:
    """A recorder that waits for a byte on `status` before it begins; it ends if that is closed instead."""

    recorder: int
    born: str
    status: int
    source: ForkServer


class ForkServer:
    """A child of ours. `ready` resolves once: True when it can be asked, False when it has ended before."""

    def __init__(self, pid: int, control: socket.socket, log: Any, on_end: Callable[[ForkServer], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = pid
        self.launched = self.loop.time()
        self.ready: asyncio.Future[bool] = self.loop.create_future()
        self.ended = asyncio.Event()
        self.importing = ""
        self.refused: tuple[str, str] | None = None
        self.unfit = ""
        self.version = ""
        self.modules: frozenset[str] = frozenset()
        self.was_killed = False
        self._stamps: dict[str, int] = {}
        self._control = control
        self._log = log
        self._on_end = on_end
        self._watch: Watch | None = None
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(_IMPORT_SECONDS, self._too_slow)

    @classmethod
    def launch(
        cls,
        command: Sequence[str],
        env: Mapping[str, str],
        preload: Sequence[str],
        on_end: Callable[[ForkServer], None],
    ) -> ForkServer:
        """Start one; it is not ready yet.

        Args:
            command: Python by its path, and its options.
            env: the environment, as the kernels will have it.
            preload: modules to import besides ipykernel.

        Raises:
            OSError: the system refused a process or a descriptor.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the fork server
        try:
            with theirs:
                pid = _spawn(command, env, preload, theirs.fileno(), log.fileno())
            ours.setblocking(False)
            server = cls(pid, ours, log, on_end)
            try:
                server._watch = Watch(pid, server._has_ended)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except BaseException:
            ours.close()
            log.close()
            raise
        server.loop.add_reader(ours, server._hear)
        return server

    # ------------------------------------------------------------------ asking

    async def is_ready_by(self, time: float) -> bool:
        """Wait until it is ready, or has ended, or the loop's clock shows `time`."""
        await asyncio.wait([self.ready], timeout=max(0.0, time - self.loop.time()))
        return self.ready.done() and self.ready.result() and not self.ended.is_set()

    async def is_stale(self) -> bool:
        """Whether something that it has imported was changed since."""
        return await anyio.to_thread.run_sync(_is_changed, self._stamps)

    async def fork(self, folder: Path) -> Forked:
        """Fork a recorder for a kernel's folder, which has not begun.

        Raises:
            NotForked: it has ended, or refuses, or does not answer. One that does not answer is ended.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise NotForked(f"no descriptor is left ({error.strerror})") from error
        try:
            ours.setblocking(False)
            with theirs:
                order = json.dumps({"folder": str(folder)}).encode()
                socket.send_fds(self._control, [order], [theirs.fileno()])
            with anyio.fail_after(FORK_SECONDS):
                await anyio.wait_readable(ours)
            told = json.loads(ours.recv(4096))
            return Forked(told["recorder"], told["born"], os.dup(ours.fileno()), self)
        except TimeoutError:
            self.end()
            raise NotForked(f"it did not answer in {FORK_SECONDS:g} s") from None
        except (OSError, ValueError, KeyError) as error:
            raise NotForked("it ended, or the system gave it no process") from error
        finally:
            ours.close()

    # ------------------------------------------------------------------ hearing

    def _hear(self) -> None:
        while True:
            try:
                data = self._control.recv(_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # Its end is told by its process.
                self.loop.remove_reader(self._control)
                return
            self._take(json.loads(data))

    def _take(self, told: Mapping[str, Any]) -> None:
        if "importing" in told:
            self.importing = told["importing"]
        elif "refused" in told:
            self.refused = told["refused"], told["why"]
        elif "unfit" in told:
            self.unfit = told["unfit"]
        elif "ready" in told:
            self.importing = ""
            self._stamps = told["ready"]["stamps"]
            self.version = told["ready"]["version"]
            self.modules = frozenset(told["ready"]["modules"])
            self._stop_timer()
            if not self.ready.done():
                self.ready.set_result(True)

    # ------------------------------------------------------------------ its end

    def end(self) -> None:
        """Kill it. Its kernels go on: they are recorders' children."""
        if not self.ended.is_set():
            self.was_killed = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _too_slow(self) -> None:
        if self.importing:
            self.refused = self.importing, f"its import takes more than {_IMPORT_SECONDS:g} s"
        else:
            self.unfit = f"ipykernel's import takes more than {_IMPORT_SECONDS:g} s"
        self.end()

    def _has_ended(self) -> None:
        self._hear()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        self.loop.remove_reader(self._control)
        self._control.close()
        self._stop_timer()
        self.ended.set()
        if not self.ready.done():
            self.ready.set_result(False)
        try:
            self._on_end(self)
        finally:
            self._log.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def printed(self) -> str:
        """The end of what it has printed, until it was ready."""
        self._log.seek(max(0, self._log.seek(0, 2) - _LOG_TAIL))
        return str(self._log.read().decode(errors="replace").strip())


def _spawn(command: Sequence[str], env: Mapping[str, str], preload: Sequence[str], control: int, log: int) -> int:
    order = {"preload": list(preload), "parent": os.getpid()}
    argv = [*command, str(PROGRAM), json.dumps(order), _PADDING]
    # dup2 onto itself would keep the descriptor closed on exec, and one onto the other's number would lose that.
    copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (control, log)]
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, copies[1], 1),
        (os.POSIX_SPAWN_DUP2, copies[1], 2),
        (os.POSIX_SPAWN_DUP2, copies[0], 3),
    ]
    try:
        return os.posix_spawn(command[0], argv, dict(env), file_actions=actions, setsid=True)
    finally:
        for copy in copies:
            os.close(copy)


def _is_changed(stamps: Mapping[str, int]) -> bool:
    for path, stamp in stamps.items():
        try:
            now = os.stat(path).st_mtime_ns
        except OSError:
            now = 0
        if now != stamp:
            return True
    return False
