"""What the tests do to a cluster, or see of it, from the machine around it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
from kube import api
from kubernetes import client

TESTCLUSTER = Path(__file__).resolve().parents[5] / "deploy" / "testcluster"
_ADDRESS_OF = "import socket, sys; print(*sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], None)}))"


class Control(Protocol):
    """The cluster as seen from the host."""

    def addresses(self, name: str) -> list[str]:
        """A name's addresses as an ordinary program of the host gets them."""

    def services(self, name: str) -> list[str]:
        """A name's SRV records, each ``port target``."""

    def greeting(self, address: str, port: int) -> str:
        """What a pod's probe says to a connection from the host."""

    def kill_api_server(self) -> None:
        """End the API server's process with signal 9."""

    def pause_api_server(self, seconds: float) -> None:
        """Stop the API server's process where it is, for so long; return once it goes on."""

    def scale_dns(self, replicas: int) -> None:
        """Have so many pods of the cluster's DNS."""

    def kubectl(self, *arguments: str) -> str:
        """What kubectl prints."""


class TestclusterControl:
    """The cluster of ``deploy/testcluster``."""

    __test__ = False

    def addresses(self, name: str) -> list[str]:
        return _run("exec", "--", sys.executable, "-c", _ADDRESS_OF, name).split()

    def services(self, name: str) -> list[str]:
        lines = [line for line in _run("resolve", name, "SRV").splitlines() if not line.startswith(";")]
        return sorted(f"{port} {target.rstrip('.')}" for _, _, port, target in (line.split() for line in lines))

    def greeting(self, address: str, port: int) -> str:
        with socket.create_connection((address, port), timeout=5) as channel:
            return channel.recv(100).decode()

    def kill_api_server(self) -> None:
        _run("kill", "kube-apiserver")

    def pause_api_server(self, seconds: float) -> None:
        _output([sys.executable, str(TESTCLUSTER), "pause", "kube-apiserver", str(seconds)], seconds + 30)

    def scale_dns(self, replicas: int) -> None:
        _scale_dns(replicas)

    def kubectl(self, *arguments: str) -> str:
        return _run("kubectl", *arguments)


class KindControl:
    """A kind cluster: its node is a container, and pods are reached from there."""

    NODE = "mcp-server-jupyter-control-plane"

    def addresses(self, name: str) -> list[str]:
        pytest.skip(f"kind gives the host no route to pods: {name} is not asked for")

    services = addresses

    def greeting(self, address: str, port: int) -> str:
        raise NotImplementedError  # no test gets here: the names are asked for first

    def kill_api_server(self) -> None:
        subprocess.run(["docker", "exec", self.NODE, "pkill", "-9", "kube-apiserver"], check=True, timeout=30)

    def pause_api_server(self, seconds: float) -> None:
        script = f"pkill -STOP kube-apiserver; sleep {seconds}; pkill -CONT kube-apiserver"
        subprocess.run(["docker", "exec", self.NODE, "sh", "-c", script], check=True, timeout=seconds + 30)

    def scale_dns(self, replicas: int) -> None:
        _scale_dns(replicas)

    def kubectl(self, *arguments: str) -> str:
        return _kubectl(*arguments)


class GivenControl:
    """A cluster that somebody else runs: nothing of it is touched."""

    def addresses(self, name: str) -> list[str]:
        pytest.skip(f"whether the host reaches pods of this cluster is not known: {name} is not asked for")

    services = addresses

    def greeting(self, address: str, port: int) -> str:
        raise NotImplementedError  # no test gets here: the names are asked for first

    def kill_api_server(self) -> None:
        pytest.skip("the API server of a given cluster is left alone")

    def pause_api_server(self, seconds: float) -> None:
        pytest.skip(f"the API server of a given cluster is not stopped for {seconds} s")

    def kubectl(self, *arguments: str) -> str:
        return _kubectl(*arguments)

    def scale_dns(self, replicas: int) -> None:
        pytest.skip(f"the DNS of a given cluster is left alone, not scaled to {replicas}")


def control_of(kind: str) -> Control:
    return {"testcluster": TestclusterControl, "kind": KindControl, "given": GivenControl}[kind]()


def _scale_dns(replicas: int) -> None:
    deployments = client.AppsV1Api(api())
    deployments.patch_namespaced_deployment_scale("coredns", "kube-system", {"spec": {"replicas": replicas}})


def _run(*arguments: str) -> str:
    return _output([sys.executable, str(TESTCLUSTER), *arguments])


def _kubectl(*arguments: str) -> str:
    return _output(["kubectl", *arguments])


def _output(command: list[str], seconds: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        raise AssertionError(f"{json.dumps(command)} failed: {done.stdout}{done.stderr}")
    return done.stdout
