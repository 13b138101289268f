"""The kernel's process, and every other that becomes the agent's child: started, signalled, collected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

_LOG_BYTES = 16 << 10
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Numbers of prctl(2).
_SET_CHILD_SUBREAPER = 36


class Process:
    """One process of the kernel. Its end is seen by `collect`; `status` is set by `reap`."""

    def __init__(self, launch: dict[str, Any], connection: dict[str, Any], folder: str) -> None:
        self.epoch = int(launch["epoch"])
        self.log = b""
        self.status: int | None = None
        self.maxrss = 0
        self.zombie = False
        self.output, write = os.pipe()
        os.set_blocking(self.output, False)
        self._file = file = os.path.join(folder, f"connection.{self.epoch}.json")
        argv = [str(part).replace("{connection_file}", file) for part in launch["argv"]]
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
                json.dump(connection, opened)
            self.popen: subprocess.Popen[bytes] | None = subprocess.Popen(
                argv,
                cwd=launch["cwd"],
                env={**os.environ, **launch["env"]},
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                restore_signals=True,
            )
        except (OSError, ValueError, TypeError) as error:
            # As a shell says it. There never was a process to wait for.
            self.popen = None
            self.zombie, self.status = True, 127 << 8
            self.log = f"{getattr(error, 'filename', None) or argv[0]}: {error}\n".encode()
        finally:
            os.close(write)

    @property
    def pid(self) -> int | None:
        return self.popen.pid if self.popen is not None else None

    def read_output(self) -> bytes | None:
        """What the kernel printed on its own streams; None once nobody can print any more."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return b""
        self.log = (self.log + data)[-_LOG_BYTES:]
        return data or None

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and its children."""
        # A zombie keeps its number, and its group, until `reap`.
        if self.pid is not None and self.status is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def reap(self) -> None:
        """Collect the ended kernel, after ending what it left in its group."""
        if self.popen is None or self.status is not None:
            return
        self.signal(signal.SIGKILL)
        _, self.status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = self.status
        self.maxrss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def close(self) -> None:
        """Let go of the pipe and the connection file."""
        os.close(self.output)
        with suppress(OSError):
            os.unlink(self._file)

    @property
    def exit_code(self) -> int:
        """Negative for a signal."""
        return os.waitstatus_to_exitcode(self.status or 0)

    def resident_bytes(self) -> int | None:
        """Resident memory of the kernel's session, from /proc (proc(5)); None where there is none."""
        total = None
        with suppress(OSError):
            for name in os.listdir("/proc"):
                if not name.isdigit():
                    continue
                with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                    if int(fields[3]) == self.pid:
                        total = (total or 0) + int(fields[21]) * _PAGE
        return total


def adopt_orphans() -> None:
    """Become the parent of whatever the kernel leaves behind, as process 1 of a container is anyway."""
    if sys.platform.startswith("linux") and os.getpid() != 1:
        import ctypes  # noqa: PLC0415  (Linux only)

        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def collect(kernel: Process | None) -> None:
    """Collect every child that has ended, but for the kernel, which is marked only: its number stays its own."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        if kernel is not None and found.si_pid == kernel.pid:
            # It hides the others until it is reaped, which is soon.
            kernel.zombie = True
            return
        with suppress(ChildProcessError):
            os.waitpid(found.si_pid, 0)
