"""Kernels that are gone when the next server comes: their cause is named, and the epoch of their notebook rises."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from support import Refused, Server, eventually


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def pid_of(server: Server, notebook: str) -> int:
    """The process of a notebook's kernel, which is started, restarted and used before."""
    server.call("create_notebook", notebook_path=notebook)
    server.call("append_execute_code_cell", notebook_path=notebook, cell_source="x = 1")
    server.call("restart_kernel", notebook_path=notebook)
    answer = server.call("append_execute_code_cell", notebook_path=notebook, cell_source="import os; os.getpid()")
    assert answer["data"]["kernel_epoch"] == 2
    return int(answer["text"].splitlines()[-1])


def test_kernels_that_end_together_with_the_server_are_named_with_their_cause(server: Server) -> None:
    server.start()
    killed, reaped = pid_of(server, "killed.ipynb"), pid_of(server, "reaped.ipynb")
    recorder = psutil.Process(reaped).ppid()
    server.kill()
    os.kill(killed, signal.SIGKILL)
    os.kill(recorder, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(killed) and not psutil.pid_exists(reaped), what="the kernels' end")

    server.start()
    try:
        for notebook, cause in (("killed.ipynb", "killed by signal 9"), ("reaped.ipynb", "while no server ran")):
            with pytest.raises(Refused, match=cause):
                server.call("execute_code", notebook_path=notebook, code="x")
            restarted = server.call("restart_kernel", notebook_path=notebook)
            assert restarted["data"]["kernel_epoch"] == 3
            assert "run again cells 1" in restarted["text"]
        server.call("execute_code", notebook_path="killed.ipynb", code="x = 1")
    finally:
        server.stop()

    server.start()
    try:
        answer = server.call("execute_code", notebook_path="killed.ipynb", code="'x' in dir()")
        assert answer["data"]["kernel_epoch"] == 4
        assert (
            "! The kernel of epoch 3 ended with its server: its variables are gone. This is epoch 4." in answer["text"]
        )
        assert "Run again those of cells 0, 1" in answer["text"]
    finally:
        server.stop()


def test_a_start_that_the_server_did_not_live_to_see_leaves_nothing_in_the_end(tmp_path: Path) -> None:
    server = Server(tmp_path, "--wait-seconds=0.05").start()
    server.call("create_notebook", notebook_path="a.ipynb")
    with pytest.raises(Refused, match="kernel_starting"):
        server.call("execute_code", code="1", notebook_path="a.ipynb")
    eventually(lambda: len(server.kernel_pids()) > 1 or None, what="a process of the kernel")
    server.kill()
    server.options = ()
    server.start()
    assert "2" in server.call("execute_code", code="1 + 1", notebook_path="a.ipynb")["text"]
    server.stop()
    eventually(lambda: not server.kernel_pids(), what="the end of all processes")
