"""A root with clients and whatever serves them, for tests that start, end and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from http_app import COMMAND, Stdio, clean_environment, notebook, stdio
from mcp_server_jupyter.ownership import RunningServer, is_held, read_record
from mcp_server_jupyter.settings import Settings
from support import eventually

LINGER = "--linger-minutes=5"


class Place:
    """A root and a state directory, and what lives on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.state = folder, folder / "root", folder / "state"
        self.root.mkdir(parents=True)
        for name in ("a", "b"):
            (self.root / f"{name}.ipynb").write_text(notebook())

    @property
    def settings(self) -> Settings:
        return Settings.load({"root": self.root, "state_dir": self.state}, environ={})

    @property
    def record(self) -> RunningServer:
        found = read_record(self.settings.root_state)
        assert found is not None
        return found

    @property
    def version(self) -> str | None:
        """Of the server that runs, None just now."""
        found = read_record(self.settings.root_state)
        return found.version if found is not None and is_held(self.settings.root_state) else None

    def client(self, *options: str, **more: Any) -> Any:
        return stdio(self.root, self.state, LINGER, *options, **more)

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        given = [f"--root={self.root}", f"--state-dir={self.state}", LINGER]
        return subprocess.run(
            [*COMMAND, *given, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**clean_environment(), **more},
        )

    def processes(self) -> list[psutil.Process]:
        """Servers, recorders and kernels: whatever names this state directory."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if process.pid != os.getpid() and any(str(self.state) in part for part in process.info["cmdline"] or ()):
                found.append(process)
        return found

    def end(self) -> None:
        self.command("down")
        eventually(lambda: not self.processes(), 60, "the end of every process")


def run(client: Stdio, code: str, name: str = "a.ipynb") -> str:
    return client.call("execute_code", code=code, notebook_path=name)


def is_gone(pid: int) -> bool:
    """Whether a process has ended with all its threads, and so let go of its files; it may not be collected yet."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: is_gone(pid))


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Run things in threads; their results, in order."""
    results: list[Any] = [None] * len(work)

    def one(number: int) -> None:
        results[number] = work[number]()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
