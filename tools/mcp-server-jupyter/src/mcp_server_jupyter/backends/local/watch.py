"""Which process is which, and when it ends: for processes that need not be children of ours."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import recorder


class Watch:
    """Calls `ended` once in the event loop when a process has ended, be it a zombie still; at once if it is gone.

    Raises:
        OSError: there is no descriptor left.
    """

    def __init__(self, pid: int, ended: Callable[[], None]) -> None:
        self._pid = pid
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        if not hasattr(os, "pidfd_open"):
            # A daemon, and none of the loop's own threads: it may wait for days.
            threading.Thread(target=self._wait, daemon=True, name=f"end of {pid}").start()
            return
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.call_soon(self._tell)
            return
        self._loop.add_reader(self._fd, self._tell)

    def close(self) -> None:
        """Stop watching; the process goes on."""
        self._ended = _nothing
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _tell(self) -> None:
        ended = self._ended
        self.close()
        ended()

    def _wait(self) -> None:
        psutil = _psutil()
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            # Another server's child.
            with suppress(psutil.Error):
                psutil.Process(self._pid).wait()
        # The loop may be closed by now: nobody wants to know any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell)


def is_same(pid: int, born: str | None, folder: Path) -> bool:
    """Whether a process still runs and is the one that was meant, not a later one of the same number.

    Args:
        pid: its number.
        born: what `recorder.birth` said of it: clock ticks since the system's start, "" where that is not known.
        folder: the kernel's; where `born` is not known, it tells the process by its arguments.
    """
    if born is None:
        return False
    if born:
        return recorder.birth(pid) == born
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and any(str(folder) in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def exit_code(pid: int) -> int | None:
    """How a process ended that its parent has not asked about yet, as `os.waitstatus_to_exitcode` says it.

    Source: proc(5), /proc/PID/stat, fields 3 and 52. None where the system does not tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(fields[49])) if fields[0] == b"Z" else None


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and its children, pages they share counted for each; None once it has ended."""
    psutil = _psutil()
    try:
        kernel = psutil.Process(pid)
        family = (kernel, *kernel.children(recursive=True))
        return sum(int(process.memory_info().rss) for process in family)
    except psutil.Error:
        return None


def _nothing() -> None:
    """What a closed watch calls."""


def _psutil() -> Any:
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  (15 ms, and no start of a kernel needs it)

    return psutil
