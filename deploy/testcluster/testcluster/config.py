"""Every address, path and name of the cluster, in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testcluster.shell import Refusal

SOURCE = Path(__file__).resolve().parent.parent

NODE_NAME = "testcluster"
SHARED_STORAGE_CLASS = "shared"
CLUSTER_DOMAIN = "cluster.local"

# The node is a network namespace joined to the host by one veth pair.
HOST_LINK = "tc-host"
NODE_LINK = "tc-node"
LINK_NETWORK = "10.246.0.0/30"
HOST_IP = "10.246.0.1"
NODE_IP = "10.246.0.2"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
API_PORT = 6443

BASE_IMAGE = "python:3.11-slim-bookworm"
PAUSE_IMAGE = "testcluster/pause:1"
COREDNS_IMAGE = "testcluster/coredns:1"

APT_PACKAGES = {
    # package: the programs it must provide
    "buildah": ("buildah",),
    "ca-certificates": ("update-ca-certificates",),
    "containerd": ("containerd", "containerd-shim-runc-v2", "ctr"),
    "containernetworking-plugins": tuple(
        f"/usr/lib/cni/{name}" for name in ("host-local", "loopback", "portmap", "ptp")
    ),
    "debootstrap": ("debootstrap",),
    "e2fsprogs": ("mkfs.ext4",),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "mount": ("losetup", "mount", "umount"),
    "nftables": ("nft",),
    "openssl": ("openssl",),
    "runc": ("runc",),
    "tar": ("tar",),
    "util-linux": ("nsenter", "unshare"),
}

# What a program needs of its environment to reach the cluster where this machine uses a proxy. Not every client
# understands ranges, so the addresses that are dialled most are there by themselves.
DIRECT = (
    "localhost",
    "127.0.0.1",
    NODE_IP,
    API_SERVICE_IP,
    LINK_NETWORK,
    POD_CIDR,
    SERVICE_CIDR,
    f".{CLUSTER_DOMAIN}",
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for the node, which has no way to a proxy, nor a need of one."""
    return {name: value for name, value in environment.items() if name.lower() not in _PROXIES}


def beside_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment that keeps its proxies and goes past them to the cluster."""
    given = [environment[name] for name in ("no_proxy", "NO_PROXY") if environment.get(name)]
    kept = ",".join(dict.fromkeys((*given, *DIRECT)))
    return {**environment, "no_proxy": kept, "NO_PROXY": kept}


_UNITS = {"": 1} | {unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T"), 1)}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)}
LEAST_MEMORY = 2 << 30


def quantity(text: str) -> int:
    """The bytes of an amount as Kubernetes writes it, such as ``4Gi``; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is not an amount of bytes such as 4Gi or 500M")
    return int(float(found[1]) * _UNITS[found[2]])


def memory_limit(environment: Mapping[str, str]) -> int | None:
    """The bytes the node may use, of ``TESTCLUSTER_MEMORY``; nothing where that is not set."""
    given = environment.get("TESTCLUSTER_MEMORY", "").strip()
    if not given:
        return None
    try:
        limit = quantity(given)
    except ValueError as error:
        raise Refusal(f"TESTCLUSTER_MEMORY: {error}") from error
    if limit < LEAST_MEMORY:
        raise Refusal(f"TESTCLUSTER_MEMORY={given} is too little: a node and its components need 2Gi")
    return limit


def _directory(variable: str, xdg: str, fallback: str) -> Path:
    if chosen := os.environ.get(variable):
        return Path(chosen).resolve()
    base = os.environ.get(xdg) or str(Path.home() / fallback)
    return Path(base).resolve() / "mcp-server-jupyter" / "testcluster"


@dataclass(frozen=True)
class Paths:
    """Where things are kept: ``cache`` outlives the cluster, ``home`` does not."""

    cache: Path
    home: Path

    @classmethod
    def from_environment(cls) -> Paths:
        return cls(
            cache=_directory("TESTCLUSTER_CACHE", "XDG_CACHE_HOME", ".cache"),
            home=_directory("TESTCLUSTER_HOME", "XDG_STATE_HOME", ".local/state"),
        )

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def config(self) -> Path:
        return self.home / "config"

    @property
    def kubeconfig(self) -> Path:
        return self.home / "kubeconfig"

    @property
    def status(self) -> Path:
        return self.home / "status.json"

    @property
    def ready(self) -> Path:
        """Written once a start went through to its end: what the cluster was made from."""
        return self.home / "ready"

    @property
    def volumes(self) -> Path:
        return self.home / "volumes"

    @property
    def containerd(self) -> Path:
        return self.home / "containerd"

    @property
    def kubelet(self) -> Path:
        return self.home / "kubelet"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def buildah(self) -> Path:
        return self.cache / "buildah"
