"""A real server as a process of its own, for tests that kill things."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mcp_server_jupyter.settings import Settings

T = TypeVar("T")


def eventually(check: Callable[[], T | None], seconds: float = 60.0, what: str = "") -> T:
    """Return the first truthy value of `check`; fail after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what or check}"
        time.sleep(0.02)


def free_port() -> int:
    """A port of loopback that nobody has, nor gets by chance.

    It is below those that the system gives away, and test processes side by side take theirs from ranges of their own.
    """
    first = 12_000 + 2_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8)
    while True:
        port = first + secrets.randbelow(2_500)
        with suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


class Refused(Exception):
    """The server answered with an error."""


class Server:
    """`mcp-server-jupyter serve` with a root and a state directory that outlive it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.root = folder / "root"
        self.state = folder / "state"
        self.root.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"

    @property
    def root_state(self) -> Path:
        """What the server keeps of its root, whether that is there yet or not."""
        settings = Settings.load({"root": self.root.parent, "state_dir": self.state}, environ={})
        return replace(settings, root=self.root).root_state

    def start(self) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "mcp_server_jupyter",
                    "serve",
                    f"--root={self.root}",
                    f"--state-dir={self.state}",
                    "--port=0",
                    "--token=secret-token",
                    "--rate-limit=0",
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONWARNINGS": "default"},
            )
        pid = self.process.pid

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            with suppress(OSError, ValueError):
                known = json.loads((self.root_state / "server.json").read_text())
                self.address = (known["url"] or "").removesuffix("/mcp")
                return bool(known["pid"] == pid and known["url"]) and self._answers()
            return False

        eventually(ready, 60, "the server's start")
        return self

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/api/healthz", timeout=2) as response:
            return bool(response.status == 200)
        return False

    def call(self, operation: str, /, timeout: float = 30.0, **arguments: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.address}/api/operations/{operation}",
            json.dumps(arguments).encode(),
            {"Authorization": "Bearer secret-token", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def notebook(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / name).read_text())
        return found

    def kernel_pids(self) -> list[int]:
        """Processes that carry this server's state directory or runtime folder in their environment or arguments."""
        import psutil

        mark = str(self.state)
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(mark in part for part in process.info["cmdline"] or ()) and process.pid != os.getpid():
                found.append(process.pid)
        return found


def outputs_text(cell: dict[str, Any]) -> str:
    """The text of a stored cell's outputs."""
    parts = []
    for output in cell.get("outputs", []):
        text = output.get("text", output.get("data", {}).get("text/plain", ""))
        parts.append(text if isinstance(text, str) else "".join(text))
    return "".join(parts)
