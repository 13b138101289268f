"""What runs on the node: each component's command line, files and health check."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testcluster import cgroups
from testcluster.build import programs
from testcluster.config import (
    API_PORT,
    CLUSTER_DOMAIN,
    DNS_SERVICE_IP,
    NODE_IP,
    NODE_NAME,
    PAUSE_IMAGE,
    POD_CIDR,
    SERVICE_CIDR,
    SOURCE,
    Paths,
)

COMPONENTS_MEMORY = 1 << 30  # what of a limited node's memory is not for pods
NODE_POD_CIDR = POD_CIDR.replace(".0.0/16", ".0.0/24")


@dataclass(frozen=True)
class Component:
    """A supervised process, the ones it waits for, and how to tell that it serves."""

    name: str
    argv: list[str]
    healthy: Callable[[], bool]
    after: tuple[str, ...] = ()


def all_components(paths: Paths) -> list[Component]:
    """Every process of the node, in starting order."""
    built = programs(paths)
    pki = paths.pki

    def kubeconfig(name: str) -> str:
        return str(pki / f"{name}.kubeconfig")

    api = ("kube-apiserver",)
    return [
        Component("etcd", [str(built["etcd"]), *_etcd(paths)], _answers("http://127.0.0.1:2379/health")),
        Component(
            "containerd",
            [shutil.which("containerd") or "containerd", "--config", str(paths.config / "containerd.toml")],
            _listens(containerd_socket(paths)),
        ),
        Component(
            "kube-apiserver",
            [str(built["kube-apiserver"]), *_apiserver(pki)],
            _answers(f"https://{NODE_IP}:{API_PORT}/readyz"),
            ("etcd",),
        ),
        Component(
            "kube-controller-manager",
            [
                str(built["kube-controller-manager"]),
                f"--kubeconfig={kubeconfig('kube-controller-manager')}",
                f"--root-ca-file={pki / 'ca.crt'}",
                f"--service-account-private-key-file={pki / 'service-account.key'}",
                f"--cluster-signing-cert-file={pki / 'ca.crt'}",
                f"--cluster-signing-key-file={pki / 'ca.key'}",
                f"--cluster-cidr={POD_CIDR}",
                f"--service-cluster-ip-range={SERVICE_CIDR}",
                f"--flex-volume-plugin-dir={paths.home / 'flexvolume'}",
                "--allocate-node-cidrs=true",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
            _answers("https://127.0.0.1:10257/healthz"),
            api,
        ),
        Component(
            "kube-scheduler",
            [
                str(built["kube-scheduler"]),
                f"--kubeconfig={kubeconfig('kube-scheduler')}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
            _answers("https://127.0.0.1:10259/healthz"),
            api,
        ),
        Component("policy", own_command(paths, "policy_agent"), _listens(policy_socket(paths)), api),
        Component(
            "kubelet",
            [
                str(built["kubelet"]),
                f"--config={paths.config / 'kubelet.json'}",
                f"--kubeconfig={kubeconfig('kubelet')}",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={NODE_IP}",
                f"--root-dir={paths.kubelet}",
            ],
            _answers("http://127.0.0.1:10248/healthz"),
            (*api, "containerd", "policy"),
        ),
        Component(
            "kube-proxy",
            [
                str(built["kube-proxy"]),
                f"--config={paths.config / 'kube-proxy.json'}",
                f"--hostname-override={NODE_NAME}",
            ],
            _answers("http://127.0.0.1:10256/healthz"),
            api,
        ),
        Component("provisioner", own_command(paths, "provisioner"), lambda: True, api),
    ]


def containerd_socket(paths: Paths) -> Path:
    return paths.containerd / "containerd.sock"


def policy_socket(paths: Paths) -> Path:
    return paths.home / "policy.sock"


def write_files(paths: Paths, memory_limit: int | None = None) -> None:
    """The configuration files the command lines name."""
    cni_bin, cni_conf = paths.home / "cni-bin", paths.home / "cni-conf"
    for directory in (paths.config, paths.kubelet, paths.volumes, paths.containerd, cni_bin, cni_conf):
        directory.mkdir(parents=True, exist_ok=True)
    for plugin in Path("/usr/lib/cni").iterdir():
        (cni_bin / plugin.name).symlink_to(plugin)
    (cni_bin / "testcluster-policy").symlink_to(SOURCE / "cni" / "testcluster-policy")
    (cni_conf / "10-testcluster.conflist").write_text(json.dumps(_cni(paths), indent=1))
    (paths.config / "containerd.toml").write_text(_containerd(paths, cni_bin, cni_conf))
    (paths.config / "kubelet.json").write_text(json.dumps(_kubelet(paths, memory_limit), indent=1))
    (paths.config / "kube-proxy.json").write_text(json.dumps(_kube_proxy(paths), indent=1))
    (paths.config / "resolv.conf").write_text(f"nameserver {DNS_SERVICE_IP}\n")


def own_command(paths: Paths, module: str) -> list[str]:
    """The command line of one of this package's own processes."""
    return [sys.executable, str(SOURCE), "internal", module, "--cache", str(paths.cache), "--home", str(paths.home)]


def _etcd(paths: Paths) -> list[str]:
    return [
        f"--data-dir={paths.home / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(pki: Path) -> list[str]:
    return [
        f"--advertise-address={NODE_IP}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        "--profiling=false",
    ]


def _cni(paths: Paths) -> dict[str, object]:
    # A routed pair per pod, no bridge: every packet between pods passes the
    # forward hook, where the policy agent's rules are.
    return {
        "cniVersion": "0.4.0",
        "name": "testcluster",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(paths.home / "ipam"),
                    "ranges": [[{"subnet": NODE_POD_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "testcluster-policy", "socket": str(policy_socket(paths))},
        ],
    }


def _containerd(paths: Paths, cni_bin: Path, cni_conf: Path) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE no process may ask for
    # less than it has, and sandboxes ask for -998.
    return f"""version = 2
root = "{paths.containerd / "root"}"
state = "/run/containerd-state"
oom_score = 0
[grpc]
  address = "{containerd_socket(paths)}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _kubelet(paths: Paths, memory_limit: int | None) -> dict[str, object]:
    # The kubelet knows the machine's memory only: what lies beyond the limit is reserved, with the components' share.
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    machine = int(lines["MemTotal"].split()[0]) << 10
    reserved = {} if memory_limit is None else {"memory": str(machine - memory_limit + COMPONENTS_MEMORY)}
    return {
        "systemReserved": reserved,
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{containerd_socket(paths)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(paths.config / "resolv.conf"),
        "podLogsDir": str(paths.logs / "pods"),
        "volumePluginDir": str(paths.home / "flexvolume"),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "4s",
        "tlsCertFile": str(paths.pki / "apiserver.crt"),
        "tlsPrivateKeyFile": str(paths.pki / "apiserver.key"),
        "logging": {"verbosity": 1},
    }


def _kube_proxy(paths: Paths) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_CIDR,
        "clientConnection": {"kubeconfig": str(paths.pki / "kube-proxy.kubeconfig")},
        "healthzBindAddress": "127.0.0.1:10256",
        # Connection tracking limits belong to the machine, not to this namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }


def _answers(url: str) -> Callable[[], bool]:
    # No proxy: what is asked is on this very node.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
    )

    def check() -> bool:
        try:
            with opener.open(url, timeout=2) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    return check


def _listens(path: Path) -> Callable[[], bool]:
    def check() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(str(path))
                return True
        except OSError:
            return False

    return check
