"""One kernel process and its recorder, as the server sees them: start, watch, signal.

The recorder (see `recorder`) is the kernel's parent. When it ends, the kernel has ended, and `exit.json` says how. A
recorder that is stopped, or could not write that, does not hide the kernel's end: the kernel is watched, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import KernelStartFailed, Unsupported
from ...ports import Death
from ..zmq.kernel import named
from . import recorder
from .forking.client import Forked
from .watch import Watch, exit_code, is_same

SEGMENTS, SEGMENT_BYTES = 8, 32 << 20
_LOG_TAIL = 4000
# How long a kernel's end waits for what its recorder says about it.
_RECORDER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What a recorder is told: the kernel's command, where it runs, and the rules by which it ends.

    Args:
        lock: a file that a living server holds locked.
        orphan_seconds: how long an idle kernel without a server goes on.
        tick_seconds: how often the recorder looks whether there is one.
        descriptors: the kernel's soft limit of open files; None leaves it as the server's is.
    """

    argv: Sequence[str]
    cwd: str
    lock: str
    orphan_seconds: float
    tick_seconds: float = 60.0
    descriptors: int | None = None
    segments: int = SEGMENTS
    segment_bytes: int = SEGMENT_BYTES


class KernelProcess:
    """A kernel's recorder, and through it the kernel.

    `exited` resolves once, when the kernel has ended; `gone` is set when the recorder has, which is mostly the same
    moment.
    """

    def __init__(self, folder: Path, recorder: int, on_exit: Callable[[KernelProcess, Death], None]) -> None:
        self.folder = folder
        self.recorder = recorder
        self.pid: int | None = None
        self.loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Death] = self.loop.create_future()
        self.gone = asyncio.Event()
        self.recording = asyncio.Event()
        self._on_exit = on_exit
        self._born: str | None = None
        self._status = -1
        self._text = b""
        self._code: int | None = None
        self._watches: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ beginning

    @classmethod
    def launch(
        cls,
        folder: Path,
        env: Mapping[str, str],
        on_exit: Callable[[KernelProcess, Death], None],
    ) -> KernelProcess:
        """Spawn the recorder, which spawns the kernel. FOLDER holds connection.json and launch.json already.

        Raises:
            KernelStartFailed: the system refused a new process.
            Unsupported: this system has no POSIX processes.
            OSError: there is no descriptor left.
        """
        if sys.platform == "win32":
            raise Unsupported(
                "Kernels cannot be started here: this system has no POSIX processes.",
                hint="Run the server in WSL, or use --kernels jupyter with a Jupyter server.",
            )
        read, write = os.pipe()
        try:
            pid = _spawn(folder, env, write)
        except OSError as error:
            os.close(read)
            raise KernelStartFailed(
                f"No process could be started: {error.strerror}.", hint="Free some memory."
            ) from error
        finally:
            os.close(write)
        process = cls(folder, pid, on_exit)
        process._listen(read)
        try:
            process._watch(pid, process._recorder_ended)
        except OSError:
            process.end_recorder()
            process._recorder_ended()
            raise
        return process

    @classmethod
    def forked(cls, folder: Path, waiting: Forked, on_exit: Callable[[KernelProcess, Death], None]) -> KernelProcess:
        """Let a recorder begin that a fork server has forked. FOLDER holds connection.json and launch.json already.

        Raises:
            OSError: there is no descriptor left. The recorder ends.
        """
        process = cls(folder, waiting.recorder, on_exit)
        process._listen(waiting.status)
        try:
            process._watch(waiting.recorder, process._recorder_ended)
        except OSError:
            process.forget()
            raise
        # Told after the watch was set: the watched process is the one that was meant. One that has ended hears nothing.
        if recorder.birth(waiting.recorder) == waiting.born:
            with suppress(OSError):
                os.write(waiting.status, b"!")
        else:
            process.loop.call_soon(process._recorder_ended)
        return process

    @classmethod
    def meet(cls, folder: Path, on_exit: Callable[[KernelProcess, Death], None]) -> KernelProcess | None:
        """A recorder that an earlier server started, or None if it has ended."""
        try:
            pids = json.loads((folder / recorder.PROCESS).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        pid, born = pids["recorder"]
        if not is_same(pid, born, folder) or (folder / recorder.EXIT).exists():
            return None
        process = cls(folder, pid, on_exit)
        process.recording.set()
        process._watch(pid, process._recorder_ended)
        # Looked at again after the watch was set: the watched process is the one that was meant.
        if not is_same(pid, born, folder):
            process.forget()
            return None
        process._know(*pids["kernel"])
        return process

    def _know(self, pid: int, born: str | None) -> None:
        self.pid, self._born = pid, born
        # Without pidfds nothing tells of the end of a process that is not a child of ours but asking all the time.
        if hasattr(os, "pidfd_open"):
            # Its recorder is watched already: where descriptors run out, that has to do.
            with suppress(OSError):
                self._watch(pid, self._kernel_ended)

    def _watch(self, pid: int, ended: Callable[[], None]) -> None:
        self._watches.append(Watch(pid, ended))

    def _listen(self, status: int) -> None:
        os.set_blocking(status, False)
        self._status = status
        self.loop.add_reader(status, self._hear)

    def _hear(self) -> None:
        try:
            data = os.read(self._status, 4096)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # A recorder that was killed before it has read what it was told.
            data = b""
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "pid" in told:
                self._know(told["pid"], told["born"])
            if told.get("recording"):
                self.recording.set()
        if not data:
            self._stop_listening()

    def _stop_listening(self) -> None:
        if self._status >= 0:
            self.loop.remove_reader(self._status)
            os.close(self._status)
            self._status = -1

    # ------------------------------------------------------------------ end

    def _kernel_ended(self) -> None:
        if self.gone.is_set() or self.pid is None or recorder.birth(self.recorder) is None:
            # A kernel dies with its recorder: how is not why.
            return
        self._code = exit_code(self.pid)
        # It has something to write, should somebody have stopped it.
        self._signal_recorder(signal.SIGCONT)
        self._timer = self.loop.call_later(_RECORDER_SECONDS, self._tell_end)

    def _recorder_ended(self) -> None:
        if self._status >= 0:
            self._hear()
        self.gone.set()
        self.forget()
        with suppress(ChildProcessError):
            os.waitpid(self.recorder, os.WNOHANG)
        self._tell_end()

    def _tell_end(self) -> None:
        if self.exited.done():
            return
        death = read_death(self.folder)
        if death is None and self._code is not None:
            death = named(self._code)
        if death is None:
            kill_leftover(self.folder)
            death = Death(None, "its recorder was killed")
        self.exited.set_result(death)
        self._on_exit(self, death)

    def forget(self) -> None:
        """Stop watching; the processes go on."""
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        while self._watches:
            self._watches.pop().close()

    # ------------------------------------------------------------------ while it lives

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and its children, if it still runs."""
        if self.pid is None or self.exited.done() or not is_same(self.pid, self._born, self.folder):
            return
        # Between fork and setsid the kernel leads no group yet; a moment later it does.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def end_recorder(self) -> None:
        """End a recorder that has outlived its kernel, or that is stopped and so keeps the kernel's end to itself."""
        self._signal_recorder(signal.SIGKILL)

    def _signal_recorder(self, number: int) -> None:
        # It is watched, and so its number is its own, until `gone` is set.
        if not self.gone.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.recorder, number)

    def log(self) -> str:
        """The end of what the kernel printed on its own streams, and of the recorder's complaints."""
        text = ""
        for name in ("recorder.log", recorder.LOG + ".1", recorder.LOG):
            try:
                text += (self.folder / name).read_text(errors="replace")[-_LOG_TAIL:]
            except OSError:
                continue
        return text[-_LOG_TAIL:].strip()


def write_order(folder: Path, order: Launch) -> None:
    """Write what a recorder is to do.

    Raises:
        OSError: it could not be written.
    """
    recorder.write_json(str(folder / recorder.LAUNCH), {**asdict(order), "path": _zmq_path()})


def read_death(folder: Path) -> Death | None:
    """What a recorder wrote about its kernel's end."""
    try:
        ended = json.loads((folder / recorder.EXIT).read_bytes())
    except (OSError, ValueError):
        return None
    code = int(ended["exit_code"])
    return Death(code, "out of memory") if ended["oom"] else named(code)


def kill_leftover(folder: Path) -> None:
    """End a kernel whose recorder was killed, where the system did not already."""
    try:
        pid, born = json.loads((folder / recorder.PROCESS).read_bytes())["kernel"]
    except (OSError, ValueError):
        return
    if is_same(pid, born, folder):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _spawn(folder: Path, env: Mapping[str, str], status: int) -> int:
    argv = [sys.executable, "-I", "-S", recorder.__file__, str(folder), "3"]
    errors = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(folder / "recorder.log"), errors, 0o600),
    ]
    # dup2 onto itself would keep the descriptor closed on exec (POSIX leaves that case open before 2024).
    copy = os.dup(status) if status == 3 else status
    try:
        actions.append((os.POSIX_SPAWN_DUP2, copy, 3))
        return os.posix_spawn(sys.executable, argv, dict(env), file_actions=actions, setsid=True)
    except NotImplementedError:
        # An old macOS: the recorder then leaves the session itself, a moment later.
        return os.posix_spawn(sys.executable, argv, dict(env), file_actions=actions)
    finally:
        if copy != status:
            os.close(copy)


def _zmq_path() -> list[str]:
    import importlib.util  # noqa: PLC0415  (cheaper than importing zmq here, which may not be needed yet)

    found = importlib.util.find_spec("zmq")
    return [] if found is None or found.origin is None else [str(Path(found.origin).parent.parent)]
