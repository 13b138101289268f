"""What the machine refuses the supervisor does not end it: it tells, and goes on when it can."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from testcluster import cluster, node
from testcluster.components import Component, _answers
from testcluster.config import Paths, beside_proxies, without_proxies

FULL = Path("/dev/full")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(cache=tmp_path / "cache", home=tmp_path / "home")
    made.logs.mkdir(parents=True)
    return made


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program"


@pytest.fixture
def children(program: Path) -> Iterator[dict[str, node._Child]]:
    made = {"one": node._Child(Component("one", [str(program)], lambda: True))}
    yield made
    for child in made.values():
        if child.process is not None:
            child.process.kill()
            child.process.wait()


def install(program: Path) -> None:
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)


def until(children: dict[str, node._Child], paths: Paths, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < deadline
        node.supervise(children, paths)
        time.sleep(0.02)


def told(paths: Paths) -> dict[str, object]:
    return dict(json.loads(paths.status.read_text())["one"])


def test_a_program_that_is_gone_is_told_and_started_when_it_is_back(
    paths: Paths, program: Path, children: dict[str, node._Child]
) -> None:
    until(children, paths, lambda: "cannot be started" in str(paths.status.exists() and told(paths)["trouble"]))
    assert str(program) in str(told(paths)["trouble"])
    assert told(paths)["pid"] is None
    install(program)
    until(children, paths, lambda: paths.status.exists() and told(paths)["pid"] is not None)
    assert (told(paths)["trouble"], told(paths)["starts"]) == ("", 1)


def test_a_log_on_a_full_disk_is_told_and_the_component_starts_when_there_is_room(
    paths: Paths, program: Path, children: dict[str, node._Child]
) -> None:
    install(program)
    log = paths.logs / "one.log"
    log.symlink_to(FULL)
    until(children, paths, lambda: paths.status.exists() and "No space left" in str(told(paths)["trouble"]))
    log.unlink()
    until(children, paths, lambda: told(paths)["pid"] is not None)


def test_a_status_that_cannot_be_written_ends_nothing_and_is_seen_to_be_old(
    paths: Paths, program: Path, children: dict[str, node._Child], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    install(program)
    until(children, paths, lambda: paths.status.exists() and told(paths)["pid"] is not None)
    scratch = paths.status.with_suffix(".new")
    scratch.symlink_to(FULL)
    node.supervise(children, paths)
    assert children["one"].process is not None
    os.utime(paths.status, (time.time() - 60, time.time() - 60))
    monkeypatch.setattr(cluster, "_is_running", lambda _: True)
    for check in ("_node_ready", "_dns_answers"):
        monkeypatch.setattr(cluster, check, lambda _: True)
    monkeypatch.setattr("testcluster.cgroups.memory", lambda: (0, 0))
    monkeypatch.setattr("testcluster.cgroups.memory_limit", lambda: None)
    assert not cluster.status(paths)
    assert "this is 60 s old: the node cannot write it." in capsys.readouterr().out
    scratch.unlink()
    node.supervise(children, paths)
    assert time.time() - paths.status.stat().st_mtime < 10


def test_a_component_that_stands_still_is_told_to_be_paused(
    paths: Paths, program: Path, children: dict[str, node._Child]
) -> None:
    install(program)
    until(children, paths, lambda: paths.status.exists() and told(paths)["pid"] is not None)
    process = children["one"].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    until(children, paths, lambda: told(paths)["paused"] is True)
    process.send_signal(signal.SIGCONT)
    until(children, paths, lambda: told(paths)["paused"] is False)


def test_a_component_that_is_paused_or_cannot_start_is_said_so() -> None:
    well = {"healthy": False, "paused": True, "trouble": ""}
    assert cluster._health(well) == "PAUSED"
    assert cluster._health({**well, "paused": False, "trouble": "no room"}) == "NOT HEALTHY: no room"


def test_a_health_check_passes_by_a_proxy(monkeypatch: pytest.MonkeyPatch, serving: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert _answers(serving)()


@pytest.fixture
def serving() -> Iterator[str]:
    class Quiet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_node_has_no_proxy_and_a_command_goes_past_it_to_the_cluster() -> None:
    given = {"HTTPS_PROXY": "http://proxy", "http_proxy": "http://proxy", "NO_PROXY": "intranet", "PATH": "/bin"}
    assert without_proxies(given) == {"PATH": "/bin"}
    beside = beside_proxies(given)
    assert (beside["HTTPS_PROXY"], beside["no_proxy"]) == ("http://proxy", beside["NO_PROXY"])
    assert {"intranet", "10.246.0.2", "10.96.0.0/16", ".cluster.local"} <= set(beside["NO_PROXY"].split(","))


def test_a_note_to_a_full_log_is_lost_and_nothing_else() -> None:
    code = "from testcluster.shell import note; note('lost'); print('lives')"
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
    assert done.stdout == "lives\n"
