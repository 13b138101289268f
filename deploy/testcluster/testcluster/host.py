"""What the host lends the cluster, and the proof that it got it back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from testcluster import cgroups
from testcluster.config import (
    API_PORT,
    HOST_IP,
    HOST_LINK,
    LINK_NETWORK,
    NODE_IP,
    NODE_LINK,
    POD_CIDR,
    SERVICE_CIDR,
    Paths,
)
from testcluster.shell import run, wait_for

# The kubelet sets these for the whole machine; they are put back on the way down.
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_PROC_SYS = Path("/proc/sys")
# A kubectl that is not given another directory keeps what an API server offers in its user's home.
_KUBECTL_CACHE = Path.home() / ".kube" / "cache"
_OUR_DISCOVERY = _KUBECTL_CACHE / "discovery" / f"{NODE_IP}_{API_PORT}"


def connect(keeper: int) -> None:
    """Join the node's network to the host's, with routes to pods and services."""
    own = Path("/proc/self/ns/net").readlink()
    wait_for(
        "the node's network namespace",
        lambda: Path(f"/proc/{keeper}/ns/net").readlink() != own,
        10,
        lambda: "    unshare did not get that far",
    )
    run("ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", NODE_LINK, "netns", str(keeper))
    run("ip", "address", "add", f"{HOST_IP}/30", "dev", HOST_LINK)
    run("ip", "link", "set", HOST_LINK, "up")
    for network in (POD_CIDR, SERVICE_CIDR):
        run("ip", "route", "add", network, "via", NODE_IP)


def disconnect() -> None:
    """Remove the link; its routes go with it. The kernel may be doing the same, the node being dead."""
    if not has_link():
        return
    subprocess.run(["ip", "link", "delete", HOST_LINK], capture_output=True, check=False)
    wait_for(f"the removal of {HOST_LINK}", lambda: not has_link(), 10, lambda: run("ip", "link"))


def has_link() -> bool:
    return (Path("/sys/class/net") / HOST_LINK).exists()


def forget_discovery() -> None:
    """Remove what a person's kubectl remembers of this cluster's API server: the next one is another."""
    shutil.rmtree(_OUR_DISCOVERY, ignore_errors=True)


def release_disks(paths: Paths) -> None:
    """Wait until the kernel, after the node's mounts, has let go of the volumes' files."""

    def ours() -> list[str]:
        return [file for file in _loop_devices() if file.startswith(str(paths.home))]

    wait_for("the release of the volumes", lambda: not ours(), 10, lambda: "\n".join(ours()))


def _loop_devices() -> list[str]:
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True, check=False
    )
    return sorted(line.strip() for line in listed.stdout.splitlines())


def sysctls() -> dict[str, str]:
    return {name: (_PROC_SYS / name).read_text().strip() for name in SYSCTLS if (_PROC_SYS / name).exists()}


def restore_sysctls(values: dict[str, str]) -> None:
    for name, value in values.items():
        if (_PROC_SYS / name).read_text().strip() != value:
            (_PROC_SYS / name).write_text(value)


def snapshot() -> dict[str, list[str]]:
    """Everything of the host that a cluster could have changed."""
    links = json.loads(run("ip", "-j", "link"))
    return {
        "interfaces": sorted(link["ifname"] for link in links),
        "routes": sorted(line.strip() for line in run("ip", "route").splitlines()),
        "mounts": sorted(" ".join(line.split()[:3]) for line in Path("/proc/mounts").read_text().splitlines()),
        "packet filter rules": _rules(),
        "sysctls": [f"{name}={value}" for name, value in sysctls().items()],
        "network namespaces": sorted(run("ip", "netns").splitlines()),
        "resolver": Path("/etc/resolv.conf").read_text().splitlines(),
        "loop devices": _loop_devices(),
        "kubectl's cache": sorted(str(entry) for entry in _KUBECTL_CACHE.glob("*/*")),
    }


def _naming(directory: Path) -> set[int]:
    """The processes that have a directory in their command line."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory) in (process / "cmdline").read_text() and int(process.name) != os.getpid():
                found.add(int(process.name))
        except OSError:
            continue
    return found


def _rules() -> list[str]:
    listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    return [re.sub(r"packets \d+ bytes \d+", "", line).strip() for line in listed.splitlines() if line.strip()]


def leftovers(paths: Paths) -> list[str]:
    """What of the cluster is still there after ``down``; an empty list is the promise kept."""
    found = [f"process {pid}" for pid in sorted(cgroups.processes() | _naming(paths.home))]
    found += [f"control group {group}" for group in cgroups.left()]
    found += [f"directory {directory}" for directory in (paths.home, _OUR_DISCOVERY) if directory.exists()]
    return found


def changes(before: dict[str, list[str]]) -> list[str]:
    """How the host differs from a snapshot."""
    found = []
    for subject, now in snapshot().items():
        then = before.get(subject, [])
        found += [f"{subject}: new: {line}" for line in now if line not in then]
        found += [f"{subject}: gone: {line}" for line in then if line not in now]
    return found


def is_ours(paths: Paths, change: str) -> bool:
    """Whether a change bears a mark of this cluster; others may have changed the host meanwhile."""
    networks = (POD_CIDR, SERVICE_CIDR, LINK_NETWORK)
    prefixes = tuple(network.rpartition(".0/")[0].removesuffix(".0") + "." for network in networks)
    marks = (HOST_LINK, NODE_LINK, "testcluster", "kube-", str(paths.home), str(paths.cache), *prefixes)
    return change.startswith("sysctls") or any(mark in change for mark in marks)
