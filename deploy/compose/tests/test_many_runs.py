"""What takes longer: many runs at once over the stack, and a gateway that is killed again and again."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from conftest import GATEWAY, Stack, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

RUNS = 50
KILLS = 8
RAN = "/".join(("", "home", "jovyan", "work", "ran.txt"))


def notebook(*sources: str) -> dict[str, Any]:
    return {"cells": [{"cell_type": "code", "source": source, "metadata": {"tags": ["results"]}} for source in sources]}


def test_fifty_runs_at_once_are_all_answered(stack: Stack) -> None:
    with httpx2.Client(timeout=900) as http, ThreadPoolExecutor(RUNS) as threads:
        bodies = [notebook(f"dict(number={number})") for number in range(RUNS)]
        answers = list(threads.map(lambda body: http.post(f"{GATEWAY}/run", json=body).json(), bodies))
    assert [answer.get("results", answer) for answer in answers] == [{"number": number} for number in range(RUNS)]


class Clients:
    """Keeps sending runs that nobody waits for, each of three cells that leave their number in a file.

    Attributes:
        accepted: the number of each run that the gateway has taken, by its id.
    """

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def one_more(self) -> None:
        before = len(self.accepted)
        until(lambda: len(self.accepted) > before)

    def _send(self) -> None:
        for number in itertools.count():
            if self._stopped.wait(0.3):
                return
            body = notebook(*(f"print({number * 10 + step}, file=open({RAN!r}, 'a'))" for step in range(3)))
            try:
                with httpx2.Client(timeout=60) as http:
                    answer = http.post(f"{GATEWAY}/run", json=body, headers={"prefer": "respond-async"})
            except httpx2.TransportError:
                continue
            if answer.status_code == 202:
                self.accepted[answer.json()["run_id"]] = number


def ended(run_id: str) -> dict[str, Any]:
    def look() -> bool:
        shown.update(httpx2.get(f"{GATEWAY}/runs/{run_id}", timeout=60).json())
        return shown["status"] not in ("queued", "running")

    shown: dict[str, Any] = {}
    until(look)
    return shown


def test_a_gateway_that_is_killed_loses_no_run_and_runs_no_cell_twice(stack: Stack) -> None:
    chance = random.Random(12)
    with Clients() as clients:
        for _ in range(KILLS):
            clients.one_more()
            time.sleep(chance.uniform(0, 3))
            stack.compose("kill", "--signal=KILL", "papermill-gateway")
            stack.compose("up", "--detach", "--no-build", "papermill-gateway")
        clients.one_more()
    told = {run_id: ended(run_id) for run_id in clients.accepted}
    # A container's kernels end with it: a run that was being executed says so, and the others are done.
    assert {shown["status"] for shown in told.values()} <= {"done", "failed"}
    assert {shown.get("error_type", "kernel_died") for shown in told.values()} == {"kernel_died"}
    times = Counter(map(int, stack.python("papermill-gateway", f"print(open({RAN!r}).read())").split()))
    assert set(times.values()) == {1}
    done = [clients.accepted[run_id] for run_id, shown in told.items() if shown["status"] == "done"]
    assert done
    assert {number * 10 + step for number in done for step in range(3)} <= set(times)
