"""A server that is out of file descriptors waits for one, and says so once."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from support import Server, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")

WATCHED_SECONDS = 1.5


def test_connections_wait_while_no_descriptor_is_left_and_the_server_neither_spins_nor_fills_its_log(
    tmp_path: Path,
) -> None:
    import resource

    server = Server(tmp_path, "--kernels=memory").start()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    limit = process.num_fds() + 8
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    host, port = server.address.removeprefix("http://").split(":")
    with ExitStack() as held:
        for _ in range(60):
            held.enter_context(socket.create_connection((host, int(port)), timeout=60))
        eventually(lambda: "no descriptor is left" in server.log.read_text(), what="the warning")
        before = process.cpu_times()
        time.sleep(WATCHED_SECONDS)  # a rate takes time
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < WATCHED_SECONDS / 2
        assert server.log.read_text().count("no descriptor is left") == 1
    assert eventually(server._answers, 60, "an answer after the others have left")
    log = server.log.read_text()
    assert len(log) < 10_000
    assert "Traceback" not in log
    assert server.stop() == 0
