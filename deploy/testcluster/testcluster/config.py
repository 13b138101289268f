"""Every address, path and name of the cluster, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent

NODE_NAME = "testcluster"
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
    # package: a program it must provide
    "buildah": "buildah",
    "ca-certificates": "update-ca-certificates",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "debootstrap": "debootstrap",
    "iproute2": "ip",
    "iptables": "iptables",
    "nftables": "nft",
    "openssl": "openssl",
    "runc": "runc",
    "util-linux": "unshare",
}


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
