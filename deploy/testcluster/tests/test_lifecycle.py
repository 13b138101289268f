"""A cluster that is started, hurt, killed, started again and ended. It is this machine's own one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testcluster import cgroups, cluster, host
from testcluster.config import SOURCE, Paths

COMPONENTS = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "policy",
    "kubelet",
    "kube-proxy",
    "provisioner",
)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SOURCE), *arguments], capture_output=True, text=True, check=False, timeout=280
    )


def until(ready: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, command("status").stdout
        time.sleep(0.3)


@pytest.fixture(scope="module")
def paths() -> Paths:
    return Paths.from_environment()


@pytest.fixture(scope="module", autouse=True)
def _up(paths: Paths) -> Iterator[None]:
    started = command("up")
    assert started.returncode == 0, started.stderr
    yield
    ended = command("down")
    assert ended.returncode == 0, ended.stderr


def states(paths: Paths) -> dict[str, dict[str, object]]:
    return dict(json.loads(paths.status.read_text()))


def test_a_second_up_changes_nothing(paths: Paths) -> None:
    before = {name: told["pid"] for name, told in states(paths).items()}
    again = command("up")
    assert (again.returncode, "already up" in again.stderr) == (0, True)
    assert {name: told["pid"] for name, told in states(paths).items()} == before


def test_a_cluster_of_another_version_is_replaced(paths: Paths) -> None:
    paths.ready.write_text("another version")
    again = command("up")
    assert (again.returncode, "ready in" in again.stderr) == (0, True)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_that_is_killed_comes_back(paths: Paths, name: str) -> None:
    starts = states(paths)[name]["starts"]
    assert isinstance(starts, int)
    assert command("kill", name).returncode == 0
    until(lambda: states(paths)[name]["starts"] == starts + 1)
    until(lambda: command("status").returncode == 0)


def test_up_works_after_everything_was_killed_with_signal_9(paths: Paths) -> None:
    kubeconfig = paths.kubeconfig.read_text()
    for pid in cgroups.processes() | host._naming(paths.home):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    until(lambda: not cgroups.processes())
    assert command("status").returncode == 1
    again = command("up")
    assert again.returncode == 0, again.stderr
    assert command("status").returncode == 0
    assert paths.kubeconfig.read_text() != kubeconfig


def test_the_hosts_kubeconfig_and_resolver_are_not_touched(paths: Paths) -> None:
    assert command("kubeconfig").stdout.strip() == str(paths.kubeconfig)
    assert "10.96.0.10" not in Path("/etc/resolv.conf").read_text()
    assert "10.96.0.10" in command("exec", "--", "cat", "/etc/resolv.conf").stdout


def test_down_leaves_nothing_and_may_be_repeated(paths: Paths) -> None:
    ended = command("down", "--verify")
    assert ended.returncode == 0, ended.stderr
    assert "nothing is left" in ended.stderr
    assert "changed meanwhile" not in ended.stderr
    assert not paths.home.exists()
    assert not host.has_link()
    assert command("down", "--verify").returncode == 0
    assert command("status").stdout == "the cluster is down\n"


def test_commands_that_need_a_cluster_say_so_when_there_is_none() -> None:
    refused = command("load", "some-image")
    assert (refused.returncode, "the cluster is down: start it" in refused.stderr) == (1, True)


def test_a_start_that_fails_says_why_and_leaves_a_log(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "COMPONENT_SECONDS", 3.0)
    monkeypatch.setattr(cluster.pki, "create", lambda _: paths.pki.mkdir(parents=True))  # no certificates at all
    with pytest.raises(cluster.Refusal, match="kube-apiserver"):
        cluster.up(paths)
    assert (paths.logs / "kube-apiserver.log").exists()
    assert command("down", "--verify").returncode == 0
