"""Runs of the gateway's command with real kernels: what they give back, and what is left when it is killed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil
import pytest

from gateways import RESULTS, Process, code, notebook
from local_kernels import is_gone
from support import eventually

LATER = {"prefer": "respond-async"}
BROKEN = (URLError, OSError, ValueError)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    gateway = Process(tmp_path, "--workers", "2", "--grace-seconds", "0").start()
    yield gateway
    gateway.stop()
    for process in processes(tmp_path):
        process.kill()


def processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def mark(folder: Path, number: int) -> str:
    return f"print({number}, file=open({str(folder / 'ran.txt')!r}, 'a'))"


def test_what_is_glued_is_given_back(gateway: Process) -> None:
    cells = [
        "from mcp_server_jupyter import glue",
        "glue('summary', {'mean_score': 91.0, 'total_records': 2})\nglue('note', 'text')",
        "import pandas as pd\nglue('frame', pd.DataFrame({'name': ['Alice', 'Bob'], 'score': [95, 87]}))",
    ]
    status, answer = gateway.ask("POST", "/run", {"notebook": notebook(*cells)})
    assert status == 200, answer
    assert answer["results"] == {
        "summary": {"mean_score": 91.0, "total_records": 2},
        "note": "text",
        "frame": {"columns": ["name", "score"], "index": [0, 1], "data": [["Alice", 95], ["Bob", 87]]},
    }


def test_a_kernel_that_dies_and_one_that_hangs_are_told_of_and_gone(tmp_path: Path) -> None:
    gateway = Process(tmp_path, "--execution-timeout", "3").start()
    pid = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    status, answer = gateway.ask("POST", "/run", notebook(pid, "import os; os._exit(3)"))
    assert (status, answer["error_type"], answer["cell"]) == (500, "kernel_died", 1)
    status, answer = gateway.ask(
        "POST",
        "/run",
        notebook(pid, "while True:\n    try:\n        input_ = [0] * 9\n    except BaseException:\n        pass"),
    )
    assert (status, answer["error_type"]) == (504, "execution_timeout")
    eventually(lambda: is_gone(int((tmp_path / "pid").read_text())), 60, "the end of the kernel")
    assert gateway.stop() == 0


def test_a_run_goes_on_when_the_gateway_is_killed_and_its_client_finds_it(gateway: Process) -> None:
    cells = [mark(gateway.folder, 1), "import time\ntime.sleep(3)", mark(gateway.folder, 2), code("'whole'", **RESULTS)]
    _, accepted = gateway.ask("POST", "/run", notebook(*cells), {**LATER, "idempotency-key": "mine"})
    eventually((gateway.folder / "ran.txt").exists, 60, "the first cell")
    gateway.kill()
    gateway.start()
    status, answer = gateway.ask("POST", "/run", notebook(*cells), {"idempotency-key": "mine"})
    assert (status, answer["run_id"], answer.get("results")) == (200, accepted["run_id"], {"result": "whole"}), answer
    assert (gateway.folder / "ran.txt").read_text().split() == ["1", "2"]


def test_a_run_whose_kernel_died_meanwhile_says_so(gateway: Process) -> None:
    _, accepted = gateway.ask("POST", "/run", notebook(mark(gateway.folder, 1), "import time; time.sleep(600)"), LATER)
    eventually((gateway.folder / "ran.txt").exists, 60, "the first cell")
    gateway.kill()
    for process in processes(gateway.folder):
        process.kill()
    gateway.start()
    path = f"/runs/{accepted['run_id']}"
    shown = eventually(lambda: ended(gateway, path), 60, "the end of the run")
    assert (shown["status"], shown.get("error_type")) == ("failed", "kernel_died")


def ended(gateway: Process, path: str) -> dict[str, Any] | None:
    _, shown = gateway.ask("GET", path)
    return shown if shown["status"] not in ("queued", "running") else None


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_lose_no_run_and_run_no_cell_twice(gateway: Process) -> None:
    chance = random.Random(11)
    accepted: dict[str, int] = {}
    numbers = iter(range(10_000))
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            number = next(numbers)
            cells = [mark(gateway.folder, number * 10 + step) for step in range(3)]
            cells.insert(1, "import time; time.sleep(0.2)")
            try:
                status, answer = gateway.ask("POST", "/run", notebook(*cells), LATER)
            except BROKEN:
                time.sleep(0.1)
                continue
            if status == 202:
                accepted[answer["run_id"]] = number
            time.sleep(0.5)

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    for kill in range(20):
        if kill % 2 == 0:
            # On a slow machine a gateway takes longer to accept its first run than it is given in the other rounds.
            before = len(accepted)
            eventually(lambda before=before: len(accepted) > before, 120, "one more run that is accepted")
        time.sleep(chance.uniform(0.05, 2.5))
        gateway.kill()
        gateway.start()
    stop.set()
    thread.join()
    for run_id, number in accepted.items():
        shown = eventually(lambda path=f"/runs/{run_id}": ended(gateway, path), 120, f"the end of {run_id}")
        assert shown["status"] == "done", (number, shown)
    times = Counter(map(int, (gateway.folder / "ran.txt").read_text().split()))
    assert set(times.values()) == {1}
    assert {number * 10 + step for number in accepted.values() for step in range(3)} <= set(times)
