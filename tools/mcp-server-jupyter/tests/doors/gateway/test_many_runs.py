"""Many runs at once through the gateway's command: none is lost, and its memory stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from gateways import RESULTS, Process, code, notebook

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RUNS = 50
MOST_GROWN = 40 * 2**20


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    gateway = Process(tmp_path, "--workers=2", "--rate-limit=0").start()
    yield gateway
    gateway.stop()


def burst(gateway: Process) -> list[object]:
    def one(number: int) -> object:
        status, answer = gateway.ask("POST", "/run", notebook("import json", code(f"{number}", **RESULTS)))
        return answer["results"]["result"] if status == 200 else answer

    with ThreadPoolExecutor(RUNS) as threads:
        return list(threads.map(one, range(RUNS)))


def test_fifty_at_once_lose_no_run_and_leave_no_memory_behind(gateway: Process) -> None:
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    assert burst(gateway) == list(range(RUNS))
    before = process.memory_info().rss
    assert burst(gateway) == list(range(RUNS))
    assert process.memory_info().rss - before < MOST_GROWN
    _, metrics = gateway.ask("GET", "/metrics")
    assert metrics["runs"]["finished"] == {"done": 2 * RUNS}
