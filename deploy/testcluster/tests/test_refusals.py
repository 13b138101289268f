"""What cannot work is refused, and the reason is in the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from testcluster import cluster, host, images, preflight
from testcluster.config import SOURCE, Paths
from testcluster.shell import Refusal


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(cache=tmp_path / "cache", home=tmp_path / "home")


def test_an_ordinary_user_is_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Refusal, match="needs root"):
        preflight.check_rights()


def test_another_system_is_told_to_use_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(Refusal, match="this is Darwin"):
        preflight.check_rights()


def test_a_home_that_the_node_would_hide_is_refused(paths: Paths) -> None:
    with pytest.raises(Refusal, match="/var/lib/somewhere lies in"):
        preflight.check_machine(Paths(cache=paths.cache, home=Path("/var/lib/somewhere")))


def test_a_home_too_long_for_a_socket_is_refused(paths: Paths) -> None:
    with pytest.raises(Refusal, match="too long for a socket"):
        preflight.check_machine(Paths(cache=paths.cache, home=Path("/") / ("x" * 100)))


def test_a_machine_that_routes_our_addresses_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testcluster.host.has_link", lambda: False)
    route = json.dumps([{"dst": "default", "dev": "eth0"}, {"dst": "10.96.4.0/24", "dev": "vpn0"}])
    monkeypatch.setattr("testcluster.preflight.run", lambda *_: route)
    with pytest.raises(Refusal, match=r"10\.96\.0\.0/16 overlaps this machine's route to 10\.96\.4\.0/24 on vpn0"):
        preflight._check_addresses()


def test_a_missing_program_is_named_with_its_package_where_there_is_no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    gone = ("containerd", "apt-get")
    monkeypatch.setattr("shutil.which", lambda name: None if name in gone else found(name) or name)
    with pytest.raises(Refusal, match=r"no apt-get here and these are missing: containerd \(package containerd\)"):
        preflight.install_packages()


def test_a_program_that_its_package_did_not_bring_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name == "ctr" else found(name) or name)
    installed: list[str] = []
    monkeypatch.setattr("testcluster.preflight.run", lambda *argv, **_: installed.append(argv[-1]))
    with pytest.raises(Refusal, match=r"still missing: ctr \(package containerd\)\. PATH is "):
        preflight.install_packages()
    assert installed == ["containerd"]


def test_too_little_free_memory_for_the_wanted_limit_is_refused() -> None:
    with pytest.raises(Refusal, match="a node needs 1073741824 MiB of free memory"):
        preflight._check_memory(1 << 50)


def test_what_the_kernel_does_not_allow_is_named() -> None:
    with pytest.raises(Refusal, match="does not allow frobnication"):
        preflight._try("frobnication", "exit 3")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("interfaces: new: tc-host", True),
        ("routes: new: 10.96.0.0/16 via 10.246.0.2 dev tc-host", True),
        ("packet filter rules: new: ip daddr 10.244.3.4 drop", True),
        ("sysctls: new: kernel/panic=10", True),
        ("interfaces: new: docker0", False),
        ("routes: new: 10.9.0.0/16 dev vpn0", False),
    ],
)
def test_a_change_of_the_host_counts_when_it_bears_our_mark(paths: Paths, change: str, expected: bool) -> None:
    assert host.is_ours(paths, change) is expected


def test_a_late_component_is_named_with_the_end_of_its_log(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.logs.mkdir(parents=True)
    (paths.logs / "kube-scheduler.log").write_text("first line\nit went wrong here\n")
    states = {"etcd": {"healthy": True}, "kube-scheduler": {"healthy": False}}
    paths.status.write_text(json.dumps({**states, "kubelet": {"healthy": False, "trouble": "cannot be started: gone"}}))
    monkeypatch.setattr(cluster, "_is_running", lambda _: True)
    monkeypatch.setattr(cluster, "COMPONENT_SECONDS", 0.2)
    with pytest.raises(Refusal) as refused:
        cluster._wait_for(paths, ("etcd", "kube-scheduler", "kubelet"))
    told = str(refused.value)
    assert "kube-scheduler: its log ends so:\n    first line\n    it went wrong here" in told
    assert "kubelet: cannot be started: gone" in told
    assert "  etcd:" not in told


def test_only_a_change_of_what_the_node_runs_is_worth_a_fresh_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(SOURCE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cluster, "SOURCE", source)
    before = cluster._version()
    (source / "testcluster" / "e2e.py").write_text("changed")
    assert cluster._version() == before
    for part in ("testcluster/node.py", "manifests/coredns.yaml", "base-image.sh"):
        (source / part).write_text(f"changed {part}")
        assert cluster._version() != before
        before = cluster._version()


def test_cache_mounts_are_taken_out_of_a_dockerfile_and_others_refused() -> None:
    taken = images.without_cache_mounts("FROM a\nRUN --mount=type=cache,target=/root/.cache pip install b\n")
    assert taken == "FROM a\nRUN pip install b\n"
    with pytest.raises(Refusal, match="--mount=type=secret,id=x"):
        images.without_cache_mounts("FROM a\nRUN --mount=type=secret,id=x cat x\n")
