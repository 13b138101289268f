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
from typing import Any

import pytest

from testcluster import cgroups, cluster, components, host
from testcluster.config import BASE_IMAGE, SOURCE, Paths, quantity
from testcluster.shell import alone

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


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a cluster needs root")
MEMORY = 3 << 30
# What a pod sees of its volume and of its image's Python; it is not root.
LOOK = """
import json, os, site, sys, sysconfig
kept = os.statvfs("/data")
told = {"mode": oct(os.stat("/data").st_mode & 0o777), "size": kept.f_blocks * kept.f_frsize}
with open("/data/large", "wb", buffering=0) as file:
    try:
        while file.tell() < 64 << 20:
            file.write(bytes(1 << 20))
    except OSError as error:
        told["full"] = error.strerror
told["prefix"], told["packages"] = sys.prefix, sysconfig.get_path("purelib")
told["path"] = [entry for entry in sys.path if entry.endswith("-packages")]
import pip
told["pip"] = os.path.dirname(pip.__file__)
print(json.dumps(told))
"""


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SOURCE), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, **environment},
    )


def kubectl(*arguments: str) -> str:
    done = command("kubectl", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(path: Path, *objects: dict[str, Any]) -> None:
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    kubectl("apply", "-f", str(path))


def claim(name: str, mode: str) -> dict[str, Any]:
    resources = {"requests": {"storage": "16Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": resources},
    }


def looking(name: str, claimed: str) -> dict[str, Any]:
    """A pod that is not root and looks at a claim's volume."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
            "containers": [
                {
                    "name": name,
                    "image": BASE_IMAGE,
                    "command": ["python", "-c", LOOK],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claimed}}],
        },
    }


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
    started = command("up", TESTCLUSTER_MEMORY=str(MEMORY))
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
    again = command("up", TESTCLUSTER_MEMORY=str(MEMORY))
    assert (again.returncode, "ready in" in again.stderr) == (0, True)


def test_the_node_has_the_memory_it_was_given(paths: Paths) -> None:
    again = command("up", TESTCLUSTER_MEMORY=str(MEMORY))
    assert (again.returncode, "already up" in again.stderr) == (0, True)
    assert cgroups.memory_limit() == MEMORY
    allocatable = kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.allocatable.memory}")
    assert quantity(allocatable) == MEMORY - components.COMPONENTS_MEMORY - (100 << 20)
    assert f"together at most {MEMORY >> 20} MiB" in command("status").stdout


def test_a_pod_that_is_not_root_fills_its_volume_and_sees_pythons_official_layout(tmp_path: Path) -> None:
    apply(tmp_path / "objects.json", claim("notebooks", "ReadWriteOnce"), looking("looking", "notebooks"))
    kubectl("wait", "pod/looking", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    told = json.loads(kubectl("logs", "looking"))
    assert told.pop("size") <= 16 << 20
    packages = "/usr/local/lib/python3.11/site-packages"
    assert told == {
        "mode": "0o775",  # 0755, and the group's through fsGroup
        "full": "No space left on device",
        "prefix": "/usr/local",
        "packages": packages,
        "path": [packages],
        "pip": f"{packages}/pip",
    }
    kubectl("delete", "pod/looking", "pvc/notebooks", "--grace-period=0", "--timeout=60s")
    kubectl("wait", "pv", "--all", "--for=delete", "--timeout=60s")


def test_a_claim_of_many_nodes_is_told_which_class_serves_it(tmp_path: Path) -> None:
    apply(tmp_path / "objects.json", claim("everyones", "ReadWriteMany"), looking("waiting", "everyones"))
    wanted = ("get", "events", "--field-selector=reason=ProvisioningFailed", "-o", "jsonpath={.items[*].message}")
    until(lambda: bool(kubectl(*wanted)))
    assert kubectl(*wanted) == "class standard makes volumes of one node, not ReadWriteMany: ask for shared"
    kubectl("delete", "pod/waiting", "pvc/everyones", "--grace-period=0", "--timeout=60s")
    asked = claim("everyones", "ReadWriteMany")
    asked["spec"]["storageClassName"] = "shared"
    apply(tmp_path / "objects.json", asked, looking("waiting", "everyones"))
    kubectl("wait", "pod/waiting", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    kubectl("delete", "pod/waiting", "pvc/everyones", "--grace-period=0", "--timeout=60s")


def test_two_builds_at_once_wait_for_each_other(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with alone(paths.cache / "images.lock", "not expected to wait"):
        builds = [
            subprocess.Popen(
                [sys.executable, str(SOURCE), "build", f"testcluster/selftest:{name}", str(tmp_path)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "two")
        ]
        for build in builds:
            assert build.stderr is not None
            assert "waiting for another build" in build.stderr.readline()
    for build in builds:
        _, told = build.communicate(timeout=120)
        assert build.returncode == 0, told


def test_a_component_stands_still_while_it_is_paused(paths: Paths) -> None:
    before = states(paths)["kube-scheduler"]
    assert command("pause", "kube-scheduler").returncode == 0
    until(lambda: "PAUSED" in command("status").stdout)
    assert command("resume", "kube-scheduler").returncode == 0
    until(lambda: command("status").returncode == 0)
    started = time.monotonic()
    assert command("pause", "kube-scheduler", "1.5").returncode == 0
    assert time.monotonic() - started >= 1.5
    until(lambda: not states(paths)["kube-scheduler"]["paused"])
    after = states(paths)["kube-scheduler"]
    assert (after["pid"], after["starts"]) == (before["pid"], before["starts"])


def test_the_cluster_outlives_the_removal_of_its_cache(paths: Paths) -> None:
    before = {name: told["pid"] for name, told in states(paths).items()}
    programs, away = paths.cache / "bin", paths.cache / "bin-away"
    programs.rename(away)
    try:
        assert command("kill", "kube-scheduler").returncode == 0
        until(lambda: "cannot be started" in str(states(paths)["kube-scheduler"]["trouble"]))
        assert "NOT HEALTHY: cannot be started" in command("status").stdout
    finally:
        away.rename(programs)
    until(lambda: command("status").returncode == 0)
    after = {name: told["pid"] for name, told in states(paths).items()}
    assert {name for name in after if after[name] != before[name]} == {"kube-scheduler"}


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
    proxy = "http://127.0.0.1:9"  # where nothing listens: neither the node nor the start of it may ask there
    again = command("up", HTTP_PROXY=proxy, HTTPS_PROXY=proxy, ALL_PROXY=proxy)
    assert again.returncode == 0, again.stderr
    assert command("status").returncode == 0
    assert command("kubectl", "get", "nodes", HTTPS_PROXY=proxy).returncode == 0
    assert paths.kubeconfig.read_text() != kubeconfig


def test_the_hosts_kubeconfig_and_resolver_are_not_touched(paths: Paths) -> None:
    assert command("kubeconfig").stdout.strip() == str(paths.kubeconfig)
    assert "10.96.0.10" not in Path("/etc/resolv.conf").read_text()
    ask = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    assert command("exec", "--", sys.executable, "-c", ask).stdout == "10.96.0.1\n"
    assert not list(paths.config.glob("resolv-*"))


def test_down_leaves_nothing_and_may_be_repeated(paths: Paths) -> None:
    discovery = Path.home() / ".kube" / "cache" / "discovery" / "10.246.0.2_6443"
    discovery.mkdir(parents=True, exist_ok=True)  # as a person's own kubectl would
    killed = paths.cache / "scratch-of-a-build-that-was-killed"
    killed.mkdir()
    ended = command("down", "--verify")
    assert ended.returncode == 0, ended.stderr
    assert "nothing is left" in ended.stderr
    assert f"kept for the next start, and free to be deleted:\n    {paths.cache}" in ended.stderr
    assert (discovery.exists(), killed.exists()) == (False, False)
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
