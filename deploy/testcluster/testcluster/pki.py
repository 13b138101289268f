"""A certificate authority and one client certificate per component, with openssl."""

from __future__ import annotations

from pathlib import Path

from testcluster.config import API_PORT, API_SERVICE_IP, CLUSTER_DOMAIN, NODE_IP, NODE_NAME, Paths
from testcluster.shell import run

# file name: (common name, organisation)
CLIENTS = {
    "admin": ("testcluster-admin", "system:masters"),
    "apiserver-kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "policy": ("testcluster:policy", ""),
    "provisioner": ("testcluster:provisioner", ""),
}
SERVER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    "localhost",
    NODE_NAME,
)
SERVER_ADDRESSES = ("127.0.0.1", NODE_IP, API_SERVICE_IP)


def create(paths: Paths) -> None:
    """Write a fresh authority, every certificate, and a kubeconfig per client."""
    pki = paths.pki
    pki.mkdir(parents=True, mode=0o700)
    _key(pki / "ca.key")
    _openssl(
        *("req", "-x509", "-new", "-key", pki / "ca.key", "-out", pki / "ca.crt"),
        *("-days", "365", "-subj", "/CN=testcluster-ca"),
    )
    _key(pki / "service-account.key")
    _openssl("ec", "-in", pki / "service-account.key", "-pubout", "-out", pki / "service-account.pub")
    names = [f"DNS:{name}" for name in SERVER_NAMES] + [f"IP:{address}" for address in SERVER_ADDRESSES]
    _signed(pki, "apiserver", "/CN=kube-apiserver", f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(names)}\n")
    for name, (common_name, organisation) in CLIENTS.items():
        subject = f"/O={organisation}/CN={common_name}" if organisation else f"/CN={common_name}"
        _signed(pki, name, subject, "extendedKeyUsage=clientAuth\n")
        _kubeconfig(pki, name)
    paths.kubeconfig.write_text((pki / "admin.kubeconfig").read_text())
    paths.kubeconfig.chmod(0o600)


def _signed(pki: Path, name: str, subject: str, extensions: str) -> None:
    request, extfile = pki / f"{name}.csr", pki / f"{name}.ext"
    _key(pki / f"{name}.key")
    extfile.write_text(extensions)
    _openssl("req", "-new", "-key", pki / f"{name}.key", "-subj", subject, "-out", request)
    _openssl(
        *("x509", "-req", "-in", request, "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial"),
        *("-days", "365", "-extfile", extfile, "-out", pki / f"{name}.crt"),
    )
    request.unlink()
    extfile.unlink()


def _key(path: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    path.chmod(0o600)


def _openssl(*arguments: str | Path) -> None:
    run("openssl", *arguments)


def _kubeconfig(pki: Path, name: str) -> None:
    def inline(file: str) -> str:
        return run("openssl", "base64", "-A", "-in", pki / file).strip()

    (pki / f"{name}.kubeconfig").write_text(
        f"""apiVersion: v1
kind: Config
clusters:
- name: testcluster
  cluster:
    server: https://{NODE_IP}:{API_PORT}
    certificate-authority-data: {inline("ca.crt")}
users:
- name: {name}
  user:
    client-certificate-data: {inline(f"{name}.crt")}
    client-key-data: {inline(f"{name}.key")}
contexts:
- name: testcluster
  context: {{cluster: testcluster, user: {name}}}
current-context: testcluster
"""
    )
    (pki / f"{name}.kubeconfig").chmod(0o600)
