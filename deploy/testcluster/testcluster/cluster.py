"""Bring the cluster up, take it down, and say how it is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testcluster import build, cgroups, components, dns, host, images, node, pki, preflight
from testcluster.config import CLUSTER_DOMAIN, NODE_NAME, SOURCE, Paths
from testcluster.kubeapi import Api, ApiError
from testcluster.shell import Refusal, run, say, tail, wait_for

COMPONENT_SECONDS = 120.0
CLUSTER_SECONDS = 120.0


def up(paths: Paths) -> None:
    """Make a running, healthy cluster out of whatever is there."""
    preflight.check_machine(paths)
    with _only_one(paths):
        preflight.install_packages()
        building = not all(module.is_built(paths) for module in build.MODULES)
        if _is_running(paths) and paths.ready.exists() and paths.ready.read_text() == _version():
            _wait_for_all(paths)
            say(f"already up; kubeconfig: {paths.kubeconfig}")
            return
        _clean(paths)
        preflight.check_kernel(paths, building)
        build.build_all(paths)
        archives = images.ensure(paths)
        started = time.monotonic()
        _start(paths, archives)
        say(f"ready in {time.monotonic() - started:.0f} s; kubeconfig: {paths.kubeconfig}")


def down(paths: Paths, verify: bool) -> None:
    """End the cluster and remove every trace of it but the cache."""
    preflight.check_rights()
    with _only_one(paths):
        _clean(paths)
        if verify:
            _verify(paths)


def _verify(paths: Paths) -> None:
    record = _record(paths)
    changes = host.changes(json.loads(record.read_text())) if record.exists() else []
    ours = host.leftovers(paths) + [change for change in changes if host.is_ours(paths, change)]
    if ours:
        raise Refusal("left behind:\n" + "\n".join(f"    {line}" for line in ours))
    for change in changes:
        say(f"changed meanwhile, but not by this cluster: {change}")
    record.unlink(missing_ok=True)
    say("nothing is left: no process, control group, mount, interface, route, rule, setting or file")


def status(paths: Paths) -> bool:
    """Print how every component is; true if all is well."""
    if not _is_running(paths):
        print("the cluster is down")
        return False
    well = True
    print(f"{'component':<26}{'pid on node':>12}{'starts':>8}  health")
    for name, told in _component_states(paths).items():
        well = well and told["healthy"]
        print(f"{name:<26}{told['pid'] or '-':>12}{told['starts']:>8}  {'ok' if told['healthy'] else 'NOT HEALTHY'}")
    for what, check in (("node", _node_ready), ("cluster DNS", _dns_answers)):
        good = check(paths)
        well = well and good
        print(f"{what:<46}  {'ok' if good else 'NOT READY'}")
    system, pods = cgroups.memory()
    print(f"memory: components {system >> 20} MiB, pods {pods >> 20} MiB")
    print(f"logs: {paths.logs}")
    return well


def require_up(paths: Paths) -> None:
    """Refuse when there is no cluster to act on."""
    if not _is_running(paths):
        raise Refusal("the cluster is down: start it with `up`")


def restart_component(paths: Paths, name: str) -> None:
    """Kill one component with signal 9; the supervisor starts it again."""
    require_up(paths)
    states = _component_states(paths)
    if name not in states:
        raise Refusal(f"no component {name}; there are {', '.join(states)}")
    found = node.find()
    if found and states[name]["pid"]:
        run("nsenter", f"--pid=/proc/{found[0]}/ns/pid", "kill", "-9", str(states[name]["pid"]))


def _start(paths: Paths, archives: list[Path]) -> None:
    _record(paths).write_text(json.dumps(host.snapshot()))
    paths.home.mkdir(parents=True, exist_ok=True)
    (paths.home / "sysctls.json").write_text(json.dumps(host.sysctls()))
    pki.create(paths)
    components.write_files(paths)
    cgroups.create()
    host.connect(node.launch(paths))
    with ThreadPoolExecutor(1) as importer:
        imported = importer.submit(_import, paths, archives)
        _wait_for(paths, ("etcd", "kube-apiserver"))
        _apply_manifests(paths)
        imported.result()
    _wait_for_all(paths)
    paths.ready.write_text(_version())


def _import(paths: Paths, archives: list[Path]) -> None:
    _wait_for(paths, ("containerd",))
    for archive in archives:
        images.import_archive(paths, archive)


def _apply_manifests(paths: Paths) -> None:
    kubectl = build.programs(paths)["kubectl"]
    apply = (kubectl, "--kubeconfig", paths.kubeconfig, "apply", "--server-side", "-f", SOURCE / "manifests")
    run(*apply, timeout=60)


def _wait_for(paths: Paths, names: tuple[str, ...]) -> None:
    """Wait for components; when one is late, say which and show the end of its log."""

    def late() -> list[str]:
        states = _component_states(paths)
        return [name for name in names if not states.get(name, {}).get("healthy")]

    def why() -> str:
        return "\n".join(f"  {name}:\n{tail(paths.logs / f'{name}.log')}" for name in late())

    def ready() -> bool:
        if paths.status.exists() and not _is_running(paths):
            raise Refusal(f"the node ended\n{tail(paths.logs / 'node.log')}")
        return not late()

    wait_for(", ".join(names), ready, COMPONENT_SECONDS, why)


def _wait_for_all(paths: Paths) -> None:
    _wait_for(paths, tuple(component.name for component in components.all_components(paths)))
    kubelet = paths.logs / "kubelet.log"
    wait_for("the node", lambda: _node_ready(paths), CLUSTER_SECONDS, lambda: f"  kubelet:\n{tail(kubelet)}")
    wait_for("the cluster's DNS", lambda: _dns_answers(paths), CLUSTER_SECONDS, lambda: _coredns(paths))


def _coredns(paths: Paths) -> str:
    kubectl = build.programs(paths)["kubectl"]
    describe: list[str | Path] = [kubectl, "--kubeconfig", paths.kubeconfig, "-n", "kube-system", "describe", "pod"]
    told = subprocess.run(
        [*describe, "-l", "k8s-app=kube-dns"], capture_output=True, text=True, check=False, timeout=30
    )
    return f"  coredns:\n{(told.stdout + told.stderr)[-3000:]}\n  kube-proxy:\n{tail(paths.logs / 'kube-proxy.log')}"


def _node_ready(paths: Paths) -> bool:
    try:
        told = Api(paths.pki, "admin").request("GET", f"/api/v1/nodes/{NODE_NAME}")
    except (ApiError, OSError):
        return False
    conditions: list[dict[str, Any]] = told["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) and not told["spec"].get("taints")


def _dns_answers(_: Paths) -> bool:
    try:
        return bool(dns.resolve(f"kubernetes.default.svc.{CLUSTER_DOMAIN}", timeout=1).records)
    except OSError:
        return False


def _clean(paths: Paths) -> None:
    """Remove a cluster in whatever state it is, also one whose processes were killed."""
    found = node.find()
    if found and found[1] != paths.home:
        raise Refusal(f"another cluster runs on this machine: end it first, with TESTCLUSTER_HOME={found[1]}")
    if found:
        os.kill(found[0], signal.SIGKILL)  # and with it all of its process namespace
    cgroups.remove()
    host.disconnect()
    saved = paths.home / "sysctls.json"
    if saved.exists():
        host.restore_sysctls(json.loads(saved.read_text()))
    if paths.home.exists():
        shutil.rmtree(paths.home)


def _version() -> str:
    """What this cluster is made from: a change of it is worth a fresh start."""
    digest = hashlib.sha256()
    for kind in ("testcluster/*.py", "go/*/*", "manifests/*", "cni/*"):
        for path in sorted(SOURCE.glob(kind)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_running(paths: Paths) -> bool:
    found = node.find()
    return found is not None and found[1] == paths.home


def _component_states(paths: Paths) -> dict[str, Any]:
    if not paths.status.exists():
        return {}
    return dict(json.loads(paths.status.read_text()))


def _record(paths: Paths) -> Path:
    return paths.cache / "host-before.json"


@contextmanager
def _only_one(paths: Paths) -> Iterator[None]:
    """One `up` or `down` at a time."""
    paths.cache.mkdir(parents=True, exist_ok=True)
    with (paths.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another up or down to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
