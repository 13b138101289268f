"""One kernel process and its recorder, as the server sees them: start, watch, signal.

The recorder (see `recorder`) is the kernel's parent, so the server needs to watch one process only: when the
recorder ends, the kernel has ended, and `exit.json` says how.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import KernelStartFailed, Unsupported
from ...ports import Death
from . import recorder

SEGMENTS, SEGMENT_BYTES = 8, 32 << 20
_LOG_TAIL = 4000


class KernelProcess:
    """A kernel's recorder, and through it the kernel. `exited` resolves once, when both are gone."""

    def __init__(self, folder: Path, recorder: int, on_exit: Callable[[Death], None]) -> None:
        self.folder = folder
        self.recorder = recorder
        self.pid: int | None = None
        self.loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Death] = self.loop.create_future()
        self.recording = asyncio.Event()
        self._on_exit = on_exit
        self._status = -1
        self._text = b""
        self._pidfd = -1

    # ------------------------------------------------------------------ beginning

    @classmethod
    def launch(
        cls,
        folder: Path,
        *,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        lock: Path,
        orphan_seconds: float,
        on_exit: Callable[[Death], None],
    ) -> KernelProcess:
        """Spawn the recorder, which spawns the kernel. FOLDER holds connection.json already.

        Raises:
            KernelStartFailed: the system refused a new process.
            Unsupported: this system has no POSIX processes.
        """
        if sys.platform == "win32":
            raise Unsupported(
                "Kernels cannot be started here: this system has no POSIX processes.",
                hint="Run the server in WSL, or use --kernels jupyter with a Jupyter server.",
            )
        order = {
            "argv": list(argv),
            "cwd": str(cwd),
            "lock": str(lock),
            "orphan_seconds": orphan_seconds,
            "segments": SEGMENTS,
            "segment_bytes": SEGMENT_BYTES,
            "path": _zmq_path(),
        }
        recorder.write_json(str(folder / recorder.LAUNCH), order)
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
        process._watch()
        return process

    @classmethod
    def meet(cls, folder: Path, on_exit: Callable[[Death], None]) -> KernelProcess | None:
        """A recorder that an earlier server started, or None if it has ended."""
        try:
            pids = json.loads((folder / recorder.PROCESS).read_bytes())
        except (OSError, ValueError):
            return None
        pid, born = pids["recorder"]
        process = cls(folder, pid, on_exit)
        process.pid = pids["kernel"][0]
        process.recording.set()
        if not _is_alive(pid, born) or (folder / recorder.EXIT).exists():
            return None
        process._watch()
        # Looked at again after the watch was set: the watched process is the one that was meant.
        if not _is_alive(pid, born):
            process.forget()
            return None
        return process

    def _listen(self, status: int) -> None:
        os.set_blocking(status, False)
        self._status = status
        self.loop.add_reader(status, self._hear)

    def _hear(self) -> None:
        try:
            data = os.read(self._status, 4096)
        except BlockingIOError:
            return
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self.pid = told.get("pid", self.pid)
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

    def _watch(self) -> None:
        if not hasattr(os, "pidfd_open"):
            # Systems without pidfd: a thread that waits costs nothing while it does.
            self.loop.run_in_executor(None, _wait, self.recorder).add_done_callback(lambda _: self._ended())
            return
        try:
            self._pidfd = os.pidfd_open(self.recorder)
        except ProcessLookupError:
            self.loop.call_soon(self._ended)
            return
        self.loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        if self.exited.done():
            return
        if self._status >= 0:
            self._hear()
        self.forget()
        with suppress(ChildProcessError):
            os.waitpid(self.recorder, os.WNOHANG)
        death = read_death(self.folder)
        if death is None:
            kill_leftover(self.folder)
            death = Death(None, "its recorder was killed")
        self.exited.set_result(death)
        self._on_exit(death)

    def forget(self) -> None:
        """Stop watching; the processes go on."""
        self._stop_listening()
        if self._pidfd >= 0:
            self.loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # ------------------------------------------------------------------ while it lives

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and its children, if it still runs."""
        if self.pid is None or self.exited.done() or (self.folder / recorder.EXIT).exists():
            return
        # Between fork and setsid the kernel leads no group yet; a moment later it does.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def log(self) -> str:
        """The end of what the kernel printed on its own streams, and of the recorder's complaints."""
        text = ""
        for name in ("recorder.log", recorder.LOG + ".1", recorder.LOG):
            try:
                text += (self.folder / name).read_text(errors="replace")[-_LOG_TAIL:]
            except OSError:
                continue
        return text[-_LOG_TAIL:].strip()


def read_death(folder: Path) -> Death | None:
    """What a recorder wrote about its kernel's end."""
    try:
        ended = json.loads((folder / recorder.EXIT).read_bytes())
    except (OSError, ValueError):
        return None
    code = ended["exit_code"]
    if ended["oom"]:
        return Death(code, "out of memory")
    if code < 0:
        try:
            return Death(code, signal.Signals(-code).name)
        except ValueError:
            return Death(code, f"signal {-code}")
    return Death(code, f"exit code {code}")


def kill_leftover(folder: Path) -> None:
    """End a kernel whose recorder was killed, where the system did not already."""
    try:
        pid, born = json.loads((folder / recorder.PROCESS).read_bytes())["kernel"]
    except (OSError, ValueError):
        return
    if _is_alive(pid, born):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and its children, pages they share counted for each; None once it has ended."""
    psutil = _psutil()
    try:
        kernel = psutil.Process(pid)
        family = (kernel, *kernel.children(recursive=True))
        return sum(int(process.memory_info().rss) for process in family)
    except psutil.Error:
        return None


def _psutil() -> Any:
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  (listings, and systems without /proc)

    return psutil


def _is_alive(pid: int, born: str | None) -> bool:
    now = recorder.birth(pid)
    if now == "":
        return bool(_psutil().pid_exists(pid))
    return now is not None and now == born


def _wait(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        # Another server's child, on a system without pidfd.
        psutil = _psutil()
        if psutil.pid_exists(pid):
            psutil.Process(pid).wait()


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
    finally:
        if copy != status:
            os.close(copy)


def _zmq_path() -> list[str]:
    import importlib.util  # noqa: PLC0415  (cheaper than importing zmq here, which may not be needed yet)

    found = importlib.util.find_spec("zmq")
    return [] if found is None or found.origin is None else [str(Path(found.origin).parent.parent)]
