"""Bring the cluster up, take it down, and say how it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from testcluster import build, cgroups, components, dns, host, images, node, pki, preflight
from testcluster.config import CLUSTER_DOMAIN, NODE_NAME, SOURCE, Paths, beside_proxies, memory_limit, without_proxies
from testcluster.kubeapi import Api, ApiError
from testcluster.shell import Refusal, alone, run, say, tail, wait_for

COMPONENT_SECONDS = 120.0
CLUSTER_SECONDS = 120.0
STALE_SECONDS = 10.0
_OF_NO_NODE = ("cli.py", "dns.py", "e2e.py", "resolver.py")  # whose change leaves a running cluster as it is


def up(paths: Paths) -> None:
    """Make a running, healthy cluster out of whatever is there."""
    limit = memory_limit(os.environ)
    preflight.check_machine(paths)
    with _only_one(paths):
        preflight.install_packages()
        building = not all(module.is_built(paths) for module in build.MODULES)
        if _is_running(paths) and _is_as_wanted(paths, limit):
            build.build_all(paths)  # somebody may have deleted the cache
            _wait_for_all(paths)
            say(f"already up; kubeconfig: {paths.kubeconfig}")
            return
        _clean(paths)
        preflight.check_kernel(paths, building, limit)
        build.build_all(paths)
        archives = images.ensure(paths)
        started = time.monotonic()
        _start(paths, archives, limit)
        say(f"ready in {time.monotonic() - started:.0f} s; kubeconfig: {paths.kubeconfig}")


def prepare(paths: Paths) -> None:
    """Fill the cache and start nothing."""
    preflight.check_machine(paths)
    with _only_one(paths):
        preflight.install_packages()
        build.build_all(paths)
        images.ensure(paths)


def down(paths: Paths, verify: bool) -> None:
    """End the cluster and remove every trace of it but the cache."""
    preflight.check_rights()
    with _only_one(paths):
        _clean(paths)
        images.tidy(paths)
        if verify:
            _verify(paths)


def _verify(paths: Paths) -> None:
    record = _record(paths)
    changes = host.changes(json.loads(record.read_text())) if record.exists() else []
    ours = host.leftovers(paths) + [change for change in changes if host.is_ours(paths, change)]
    ours += [f"in the cache: {left}" for left in images.leftovers(paths)]
    if ours:
        raise Refusal("left behind:\n" + "\n".join(f"    {line}" for line in ours))
    for change in changes:
        say(f"changed meanwhile, and nothing marks it as this cluster's: {change}")
    record.unlink(missing_ok=True)
    kept = "".join(f"\n    {text}" for text in build.kept(paths))
    say("nothing is left: no process, control group, mount, disk, interface, route, rule, setting or file")
    say(f"kept for the next start, and free to be deleted:{kept}")


def status(paths: Paths) -> bool:
    """Print how every component is; true if all is well."""
    if not _is_running(paths):
        print("the cluster is down")
        return False
    well = True
    print(f"{'component':<26}{'pid on node':>12}{'starts':>8}  health")
    for name, told in _component_states(paths).items():
        well = well and told["healthy"]
        print(f"{name:<26}{told['pid'] or '-':>12}{told['starts']:>8}  {_health(told)}")
    if (age := time.time() - paths.status.stat().st_mtime) > STALE_SECONDS:
        well = False
        free = shutil.disk_usage(paths.home).free
        print(f"this is {age:.0f} s old: the node cannot write it. {free >> 20} MiB of disk are free in {paths.home}")
    for what, check in (("node", _node_ready), ("cluster DNS", _dns_answers)):
        good = check(paths)
        well = well and good
        print(f"{what:<46}  {'ok' if good else 'NOT READY'}")
    system, pods = cgroups.memory()
    limit = cgroups.memory_limit()
    bound = "" if limit is None else f", together at most {limit >> 20} MiB"
    print(f"memory: components {system >> 20} MiB, pods {pods >> 20} MiB{bound}")
    print(f"logs: {paths.logs}")
    return well


def _health(told: dict[str, Any]) -> str:
    if told.get("trouble"):
        return f"NOT HEALTHY: {told['trouble']}"
    if told.get("paused"):
        return "PAUSED"
    return "ok" if told["healthy"] else "NOT HEALTHY"


def require_up(paths: Paths) -> None:
    """Refuse when there is no cluster to act on."""
    if not _is_running(paths):
        raise Refusal("the cluster is down: start it with `up`")


def restart_component(paths: Paths, name: str) -> None:
    """Kill one component with signal 9; the supervisor starts it again."""
    run(*_on_node(paths, name, "kill -KILL $0"))


def pause(paths: Paths, name: str, seconds: float | None) -> None:
    """Stop a component, as it is, for so long or until ``resume``: it holds its connections and answers nothing."""
    if seconds is None:
        run(*_on_node(paths, name, "kill -STOP $0"))
        say(f"{name} is paused, until: resume {name}")
        return
    # A process of its own resumes it even if this one is killed.
    waiting = subprocess.Popen(
        [*_on_node(paths, name, "kill -STOP $0 && sleep $1 && kill -CONT $0"), str(seconds)], start_new_session=True
    )
    try:
        waiting.wait()
    except KeyboardInterrupt:
        waiting.kill()
        resume(paths, name)
        raise
    if waiting.returncode:
        raise Refusal(f"{name} could not be paused")


def resume(paths: Paths, name: str) -> None:
    """Let a paused component go on; one that was not paused takes no notice."""
    run(*_on_node(paths, name, "kill -CONT $0"))


def _on_node(paths: Paths, name: str, script: str) -> list[str]:
    """The command that runs a script where $0 is a component's process number on the node."""
    require_up(paths)
    states = _component_states(paths)
    if name not in states:
        raise Refusal(f"no component {name}; there are {', '.join(states)}")
    found = node.find()
    if found is None or not states[name]["pid"]:
        raise Refusal(f"{name} does not run: see status")
    return ["nsenter", f"--pid=/proc/{found[0]}/ns/pid", "sh", "-c", script, str(states[name]["pid"])]


def kubectl(paths: Paths, arguments: list[str]) -> int:
    """The cluster's own kubectl, which leaves nothing in anybody's home; its exit code."""
    require_up(paths)
    return subprocess.run([*_kubectl(paths), *arguments], env=beside_proxies(os.environ), check=False).returncode


def _kubectl(paths: Paths) -> list[str]:
    program = str(build.programs(paths)["kubectl"])
    return [program, f"--kubeconfig={paths.kubeconfig}", f"--cache-dir={paths.home / 'kubectl'}"]


def _start(paths: Paths, archives: list[Path], limit: int | None) -> None:
    _record(paths).write_text(json.dumps(host.snapshot()))
    paths.home.mkdir(parents=True, exist_ok=True)
    (paths.home / "sysctls.json").write_text(json.dumps(host.sysctls()))
    pki.create(paths)
    components.write_files(paths, limit)
    cgroups.create(limit)
    host.connect(node.launch(paths))
    with ThreadPoolExecutor(1) as importer:
        imported = importer.submit(_import, paths, archives)
        _wait_for(paths, ("etcd", "kube-apiserver"))
        _apply_manifests(paths)
        imported.result()
    _wait_for_all(paths)
    paths.ready.write_text(f"{_version()} {limit or ''}")


def _import(paths: Paths, archives: list[Path]) -> None:
    _wait_for(paths, ("containerd",))
    for archive in archives:
        images.import_archive(paths, archive)


def _apply_manifests(paths: Paths) -> None:
    apply = ("apply", "--server-side", "-f", SOURCE / "manifests")
    run(*_kubectl(paths), *apply, env=without_proxies(os.environ), timeout=60)


def _wait_for(paths: Paths, names: tuple[str, ...]) -> None:
    """Wait for components; when one is late, say which and show the end of its log."""

    def late() -> list[str]:
        states = _component_states(paths)
        return [name for name in names if not states.get(name, {}).get("healthy")]

    def why() -> str:
        states = _component_states(paths)
        told = {name: states.get(name, {}).get("trouble") or "its log ends so:" for name in late()}
        return "\n".join(f"  {name}: {text}\n{tail(paths.logs / f'{name}.log')}" for name, text in told.items())

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
    describe = [*_kubectl(paths), "-n", "kube-system", "describe", "pod", "-l", "k8s-app=kube-dns"]
    env = without_proxies(os.environ)
    told = subprocess.run(describe, env=env, capture_output=True, text=True, check=False, timeout=30)
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
    host.release_disks(paths)
    host.forget_discovery()
    saved = paths.home / "sysctls.json"
    if saved.exists():
        host.restore_sysctls(json.loads(saved.read_text()))
    if paths.home.exists():
        shutil.rmtree(paths.home)


def _version() -> str:
    """What this cluster is made from: a change of it is worth a fresh start."""
    digest = hashlib.sha256()
    for kind in ("testcluster/*.py", "go/*/*", "manifests/*", "cni/*", "base-image.sh"):
        for path in sorted(SOURCE.glob(kind)):
            if path.name not in _OF_NO_NODE:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_as_wanted(paths: Paths, limit: int | None) -> bool:
    """Whether what runs came up whole, from this code and, where one is asked for, with this limit of memory."""
    if not paths.ready.exists():
        return False
    version, _, told = paths.ready.read_text().partition(" ")
    return version == _version() and (limit is None or told == str(limit))


def _is_running(paths: Paths) -> bool:
    found = node.find()
    return found is not None and found[1] == paths.home


def _component_states(paths: Paths) -> dict[str, Any]:
    if not paths.status.exists():
        return {}
    return dict(json.loads(paths.status.read_text()))


def _record(paths: Paths) -> Path:
    return paths.cache / "host-before.json"


def _only_one(paths: Paths) -> AbstractContextManager[None]:
    """One `up`, `down` or `prepare` at a time."""
    return alone(paths.cache / "lock", "waiting for another up, down or prepare to finish")
