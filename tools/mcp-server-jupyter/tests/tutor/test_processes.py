"""The processes that tests run in: each of one task, with nothing of the service's, and none is left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.tutor.blind.process import Checker, Checkers, Verdict, open_checkers
from support import eventually

SECONDS = 60.0
KILLED = """
import anyio, os, signal
from mcp_server_jupyter.tutor.blind.process import open_checkers
async def main():
    async with open_checkers() as checkers, checkers.open() as checker:
        async def ask(question):
            print(checkers._parent.pid, flush=True)
            await anyio.sleep_forever()
        await checker.put([("learners", None)], {}, frozenset(), ask)
anyio.run(main)
"""


async def nothing(_: Mapping[str, Any]) -> str:
    return base64.b64encode(json.dumps({"missing": True}).encode()).decode()


async def put(checker: Checker, source: str) -> Verdict:
    with anyio.fail_after(SECONDS):
        return await checker.put([(source, None)], {}, frozenset(), nothing)


def parent(checkers: Checkers) -> psutil.Process:
    assert checkers._parent is not None
    return psutil.Process(checkers._parent.pid)


async def begun(checker: Checker, file: Path) -> None:
    """Return while a check runs that never ends, and is waited for no more."""
    source = f"import time\nopen({str(file)!r}, 'w').close()\nwhile True:\n    time.sleep(1)"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(checker.put, [(source, None)], {}, frozenset(), nothing)
        await anyio.to_thread.run_sync(eventually, file.exists, SECONDS, "the check's begin")
        tasks.cancel_scope.cancel()


async def test_a_process_has_no_environment_no_files_of_others_and_its_own_memory() -> None:
    async with open_checkers() as checkers, AsyncExitStack() as stack:
        several = [await stack.enter_async_context(checkers.open()) for _ in range(4)]
        for checker in several:
            verdict = await put(
                checker,
                "import os, resource\n"
                # The one that lists them is among them.
                "assert set(os.listdir('/proc/self/fd')) <= set('012345'), os.listdir('/proc/self/fd')\n"
                # Python has set the first one itself.
                "assert all(name == 'LC_CTYPE' or name.endswith('_THREADS') for name in os.environ), list(os.environ)\n"
                "assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 256 * 2**20\n"
                "assert os.getsid(0) == os.getpid()\n"
                "assert 'mine' not in globals()\nmine = 1",
            )
            assert verdict.state == "passed", verdict
        assert (await put(several[0], "assert mine == 1")).state == "passed"


async def test_a_process_that_is_left_in_mid_check_has_ended_with_its_context(tmp_path: Path) -> None:
    async with open_checkers() as checkers:
        async with checkers.open() as checker:
            await begun(checker, tmp_path / "begun")
        await anyio.to_thread.run_sync(eventually, lambda: not parent(checkers).children(), SECONDS, "its end")
        async with checkers.open() as checker:
            assert (await put(checker, "assert 1 == 1")).state == "passed"


async def test_when_all_are_killed_at_once_nobody_has_failed_and_the_next_ones_work(tmp_path: Path) -> None:
    async with open_checkers() as checkers:
        async with checkers.open() as checker:
            await begun(checker, tmp_path / "begun")
            (child,) = parent(checkers).children()
            parent(checkers).kill()
            with pytest.raises(Unavailable):
                await put(checker, "assert 1 == 1")
        await anyio.to_thread.run_sync(eventually, lambda: not runs(child), SECONDS, "the child's end")
        async with checkers.open() as checker:
            assert (await put(checker, "assert 1 == 1")).state == "passed"


def test_none_is_left_when_the_service_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        forks = psutil.Process(int(service.stdout.readline()))
        ours = [forks, *forks.children()]
        assert len(ours) == 2
        os.kill(service.pid, signal.SIGKILL)
    eventually(lambda: not any(map(runs, ours)), SECONDS, "their end")


def runs(process: psutil.Process) -> bool:
    """Whether it does anything; who adopts it may not have waited for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
