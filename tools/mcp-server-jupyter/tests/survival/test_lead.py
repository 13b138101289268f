"""One server at a time has the kernels: another one is alive, not ready, and touches nothing until it is its turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from led_kernels import FOLDER, installed, open_memory
from mcp_server_jupyter import services
from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.services import SUPERSEDED
from mcp_server_jupyter.settings import Settings
from support import eventually, free_port


class Replica:
    """A server at a port of our choosing, over kernels that somebody may have."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.folder = folder
        self.address = f"http://127.0.0.1:{port}"
        self.process = process
        self.log = log

    def get(self, path: str, data: bytes | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
        headers = {"authorization": "Bearer secret-token", "content-type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response), dict(response.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), {name.lower(): value for name, value in error.headers.items()}

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        status, answer, _ = self.get(f"/api/operations/{operation}", json.dumps(arguments).encode())
        assert status == 200, answer
        return answer

    def until(self, status: int) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-2_000:]
            with suppress(OSError):
                return self.get("/api/readyz")[0] == status
            return False

        eventually(ready, 60, f"readiness {status}")


@contextmanager
def replica(folder: Path, *options: str) -> Iterator[Replica]:
    port = free_port()
    log = folder / f"{port}.log"
    command = [sys.executable, "-m", "mcp_server_jupyter", "serve", f"--root={folder / 'root'}"]
    command += [f"--state-dir={folder / 'state'}", f"--port={port}", "--token=secret-token", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **installed(folder)})
    try:
        yield Replica(folder, port, process, log)
    finally:
        process.kill()
        process.wait(60)


def files_of_state(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").rglob("*") if path.is_file())


def test_a_server_whose_kernels_another_one_has_is_alive_and_not_ready(tmp_path: Path) -> None:
    (tmp_path / "holder").write_text("server-5f4d")
    with replica(tmp_path, "--kernels=led") as waiting:
        waiting.until(503)
        assert waiting.get("/health")[0] == 200
        assert waiting.get("/api/healthz")[:2] == (200, {"status": "healthy", "kernel_status": "none"})
        assert waiting.get("/api/readyz")[1] == {
            "status": "not_ready",
            "reasons": ["This server waits for the kernels: held by server-5f4d."],
        }
        for path, data in (("/mcp", b"{}"), ("/api/operations", None), ("/metrics", None), ("/elsewhere", None)):
            status, answer, headers = waiting.get(path, data)
            assert (status, answer["error"], headers["retry-after"]) == (503, "unavailable", "2")
            assert "held by server-5f4d" in answer["message"]
        assert files_of_state(tmp_path) == []

        (tmp_path / "holder").write_text("server-77aa")
        eventually(lambda: "server-77aa" in waiting.get("/api/readyz")[1]["reasons"][0])
        (tmp_path / "holder").unlink()
        waiting.until(200)
        assert waiting.call("create_notebook", notebook_path="a.ipynb")["is_error"] is False
        assert "2" in waiting.call("execute_code", code="1 + 1", notebook_path="a.ipynb")["text"]
        waiting.process.send_signal(signal.SIGTERM)
        assert waiting.process.wait(60) == 0


def test_the_next_one_goes_on_when_the_first_lets_go(tmp_path: Path) -> None:
    with replica(tmp_path, "--kernels=led-local", "--keep-kernels") as first:
        first.until(200)
        first.call("create_notebook", notebook_path="a.ipynb")
        first.call("execute_code", code="x = 20", notebook_path="a.ipynb")
        (tmp_path / "holder").write_text("the first")
        with replica(tmp_path, "--kernels=led-local") as second:
            second.until(503)
            # Whoever leads may still be closing what the other is about to open.
            (tmp_path / "holder").unlink()
            eventually(lambda: "opening" in second.get("/api/readyz")[1]["reasons"][0] or None)
            first.process.send_signal(signal.SIGTERM)
            second.until(200)
            answer = second.call("execute_code", code="x + 1", notebook_path="a.ipynb")
            assert (answer["data"]["kernel_epoch"], "21" in answer["text"]) == (1, True)
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_waits_ends_in_order(number: int, tmp_path: Path) -> None:
    (tmp_path / "holder").write_text("server-5f4d")
    with replica(tmp_path, "--kernels=led") as waiting:
        waiting.until(503)
        waiting.process.send_signal(number)
        assert waiting.process.wait(60) == 0
        assert "Traceback" not in waiting.log.read_text()
        assert files_of_state(tmp_path) == []


def test_a_superseded_server_ends_at_once_and_leaves_its_kernels(tmp_path: Path) -> None:
    with replica(tmp_path, "--kernels=led-local") as first:
        first.until(200)
        first.call("create_notebook", notebook_path="a.ipynb")
        code = "x = 20; import os; os.getpid()"
        printed = first.call("execute_code", code=code, notebook_path="a.ipynb")["text"]
        first.call("execute_code", code="import time; time.sleep(60)", notebook_path="a.ipynb", timeout_seconds=0)
        pid = int(printed.splitlines()[-1])
        (tmp_path / "taken").write_text("server-77aa")
        assert first.process.wait(60) == SUPERSEDED
        assert "another server, server-77aa, has taken over" in first.log.read_text()
        assert psutil.pid_exists(pid)
        (tmp_path / "taken").unlink()
        with replica(tmp_path, "--kernels=led-local") as second:
            second.until(200)
            [kernel] = second.call("list_kernels")["data"]["kernels"]
            assert (kernel["state"], kernel["kernel_epoch"]) == ("busy", 1)
            second.call("interrupt_kernel", notebook_path="a.ipynb")
            assert second.call("execute_code", code="x", notebook_path="a.ipynb")["text"].endswith("20")
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(60) == 0


def test_a_server_that_cannot_open_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "holder").write_text("server-5f4d")
    with replica(tmp_path, "--kernels=led") as waiting:
        waiting.until(503)
        [state] = (tmp_path / "state" / "roots").iterdir()
        (state / "journal.sqlite3").mkdir()
        (tmp_path / "holder").unlink()
        assert waiting.process.wait(60) != 0
        log = waiting.log.read_text()
        assert "Traceback" not in log
        assert log.splitlines()[-1].startswith("Error: ")


@pytest.mark.anyio
async def test_without_an_http_door_a_server_gives_up_after_a_while_and_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holder").write_text("server-5f4d")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    settings = Settings.load({"root": tmp_path, "state_dir": tmp_path / "state"}, {})
    monkeypatch.setattr(services.lead, "__defaults__", (0.1,))
    with pytest.raises(Unavailable, match=r"The kernels cannot be had: held by server-5f4d\."):
        async with services.open_services(settings, kernels=open_memory(settings)):
            raise AssertionError("it must not open")
    assert files_of_state(tmp_path) == []
