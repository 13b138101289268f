"""Whether a cluster can run here, and the packages it needs."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from testcluster import cgroups, components, host
from testcluster.config import APT_PACKAGES, LINK_NETWORK, POD_CIDR, SERVICE_CIDR, SOURCE, Paths
from testcluster.node import PRIVATE
from testcluster.shell import CommandFailed, Refusal, run, say

MEMORY_NEEDED = 3 << 30
DISK_NEEDED = 4 << 30
DISK_NEEDED_TO_BUILD = 12 << 30

LONGEST_SOCKET = 107

# What kube-proxy and the policy agent write, in miniature.
_RULESET = """table inet probe {
  map verdicts { type ipv4_addr : verdict; }
  chain peer { numgen random mod 2 vmap { 0 : accept, 1 : accept }; }
  chain forward { type filter hook forward priority 0; ct state established accept; ip daddr vmap @verdicts; }
  chain nat {
    type nat hook prerouting priority -100;
    fib daddr type local accept; meta l4proto tcp dnat ip to 10.0.0.1:53;
  }
}
table ip post { chain nat { type nat hook postrouting priority 100; masquerade fully-random; }; }
"""


def check_rights() -> None:
    """Refuse, with the reason, where nothing of this could work."""
    if platform.system() != "Linux":
        raise Refusal(f"a node needs Linux; this is {platform.system()}. Use kind, and KUBECONFIG, instead")
    if os.geteuid() != 0:
        raise Refusal("a node needs root, for namespaces, control groups and mounts: run this with sudo")


def check_machine(paths: Paths) -> None:
    """Refuse, with the reason, where a node could never start."""
    check_rights()
    for path in (paths.home, paths.cache, SOURCE, Path(sys.executable).resolve()):
        if any(path.is_relative_to(private) for private in PRIVATE):
            raise Refusal(f"{path} lies in {', '.join(PRIVATE)}, which the node hides. Set TESTCLUSTER_HOME and _CACHE")
    if lacking := cgroups.missing():
        raise Refusal(f"this machine offers no control group for {', '.join(lacking)}")
    if len(str(socket := components.containerd_socket(paths))) > LONGEST_SOCKET:
        raise Refusal(f"{socket} is too long for a socket's name: set TESTCLUSTER_HOME to a shorter directory")


def install_packages(packages: Mapping[str, tuple[str, ...]] = APT_PACKAGES) -> None:
    """Install the Debian packages whose programs are missing; name those that are missing even then."""
    lacking = _lacking(packages)
    if not lacking:
        return
    missing = list(lacking)
    if not shutil.which("apt-get"):
        raise Refusal(f"there is no apt-get here and these are missing: {_named(lacking)}")
    say(f"installing {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing)
    try:
        run(*install, env=env, timeout=900)
    except CommandFailed:
        run("apt-get", "update", "--quiet", env=env, timeout=300)
        run(*install, env=env, timeout=900)
    if lacking := _lacking(packages):
        raise Refusal(f"apt-get installed {', '.join(missing)}, and these are still missing: {_named(lacking)}")


def _lacking(packages: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """By package, the programs that are not here."""
    found = {
        package: [program for program in programs if not shutil.which(program)]
        for package, programs in packages.items()
    }
    return {package: programs for package, programs in found.items() if programs}


def _named(lacking: dict[str, list[str]]) -> str:
    listed = ", ".join(f"{' and '.join(programs)} (package {package})" for package, programs in lacking.items())
    return f"{listed}. PATH is {os.environ.get('PATH', '')}"


def check_kernel(paths: Paths, building: bool, limit: int | None) -> None:
    """Try, in throw-away namespaces, what the node will do."""
    for module in ("overlay", "veth", "nf_tables", "nf_conntrack", "loop"):
        if shutil.which("modprobe"):
            subprocess.run(["modprobe", "--quiet", module], check=False, capture_output=True)
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.cache.mkdir(parents=True, exist_ok=True)
    _try("namespaces", "true")
    _try("a pair of virtual interfaces", "ip link add a0 type veth peer name a1")
    _try("the packet filter rules of kube-proxy", f"nft -f - <<'END'\n{_RULESET}END")
    scratch = paths.home / ".overlay"
    for part in ("lower", "upper", "work", "merged"):
        (scratch / part).mkdir(parents=True)
    layers = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    _try(f"overlay file systems in {paths.home}", f"mount -t overlay overlay -o {layers} {scratch}/merged")
    shutil.rmtree(scratch)
    disk = paths.home / ".disk"
    _try("a file as a disk", f"truncate -s 4M {disk} && mkfs.ext4 -q -F {disk} && mount -o loop {disk} /mnt")
    disk.unlink()
    _check_memory(limit)
    _check_disk(paths, building)
    _check_addresses()


def _try(what: str, script: str) -> None:
    try:
        run("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "sh", "-ec", script, timeout=30)
    except CommandFailed as error:
        raise Refusal(f"this machine does not allow {what}, which a node needs:\n{error}") from error


def _check_memory(limit: int | None) -> None:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) << 10
    needed = limit or MEMORY_NEEDED
    if available < needed:
        raise Refusal(f"a node needs {needed >> 20} MiB of free memory and {available >> 20} MiB are free")


def _check_disk(paths: Paths, building: bool) -> None:
    for path, needed in ((paths.cache, DISK_NEEDED_TO_BUILD if building else 0), (paths.home, DISK_NEEDED)):
        if (free := shutil.disk_usage(path).free) < needed:
            raise Refusal(f"{path} needs {needed >> 30} GiB of free disk and has {free >> 30}")


def _check_addresses() -> None:
    if host.has_link():
        return
    ours = [ipaddress.ip_network(network) for network in (POD_CIDR, SERVICE_CIDR, LINK_NETWORK)]
    for route in json.loads(run("ip", "-j", "-4", "route")):
        if route["dst"] == "default":
            continue
        taken = ipaddress.ip_network(route["dst"], strict=False)
        for network in ours:
            if network.overlaps(taken):
                raise Refusal(f"the cluster's {network} overlaps this machine's route to {taken} on {route['dev']}")
