"""`doctor kubernetes` on a fake cluster, whose pods are what the test makes of them: a socket and an exit code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.api import Api
from mcp_server_jupyter.backends.kubernetes.doctor import CLAIM_RIGHT, RIGHTS, examine, look
from mcp_server_jupyter.backends.kubernetes.doctor_pods import SHUT_OUT
from mcp_server_jupyter.backends.kubernetes.host import AGENT_PORT
from mcp_server_jupyter.ports import Finding
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

ROLE = Path(__file__).resolve().parents[5] / "deploy" / "kubernetes" / "base" / "account.yaml"
# The port is the same everywhere: each process of the tests has a loopback address of its own.
ADDRESS = f"127.78.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
REACHED = "A pod without the server's label reached a kernel's port"


@asynccontextmanager
async def pods_that_run(cluster: Cluster, stranger_exits: int, *, listening: bool = True) -> AsyncIterator[None]:
    """A kernel's port that is served for as long as a pod labelled as one is there, and strangers that end."""

    def kubelet(pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        ended = {"terminated": {"exitCode": stranger_exits}}
        state = ended if name.endswith("-stranger") else {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        cluster.set_status(name, podIP=ADDRESS, containerStatuses=[{"name": "doctor", "state": state}])

    cluster.on_create = kubelet
    if not listening:
        yield
        return
    async with await asyncio.start_server(lambda _, writer: writer.close(), ADDRESS, AGENT_PORT):
        yield


def deployment(cluster: Cluster, *, strategy: str = "Recreate", replicas: int = 1) -> None:
    """What `deploy/kubernetes` makes, as far as the doctor looks at it."""
    spec = {"replicas": replicas, "strategy": {"type": strategy}}
    cluster.put("deployments", {"metadata": {"name": "mcp-server-jupyter", "uid": "d"}, "spec": spec})
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mcp-server-jupyter", "uid": "d"}
    cluster.put("replicasets", {"metadata": {"name": "set", "uid": "r", "ownerReferences": [owner]}})


def own_pod(cluster: Cluster, root: Path, **labels: str) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "r"}
    container = {
        "name": "server",
        "image": "mcp-server-jupyter/server:1",
        "volumeMounts": [{"name": "data", "mountPath": str(root)}],
    }
    cluster.put(
        "pods",
        {
            "metadata": {"name": "server-1", "uid": "p", "labels": labels, "ownerReferences": [owner]},
            "spec": {
                "nodeName": "node-1",
                "containers": [container],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "notebooks"}}],
            },
        },
    )


@pytest.fixture
async def in_cluster(api: Api, settings: Settings, cluster: Cluster) -> tuple[Api, Settings]:
    """The server's pod as it is deployed."""
    deployment(cluster)
    own_pod(cluster, settings.root, app="mcp-server-manager")
    spec = {"accessModes": ["ReadWriteOnce"]}
    cluster.put("persistentvolumeclaims", {"metadata": {"name": "notebooks", "uid": "c"}, "spec": spec})
    api.in_cluster = True
    return api, replace(settings, pod_name="server-1")


async def told(api: Api, settings: Settings) -> list[Finding]:
    return [finding async for finding in look(api, settings)]


def failures(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if not finding.fine and "cannot be resolved" not in finding.text]


def test_what_the_doctor_asks_for_is_what_the_role_grants() -> None:
    role = next(one for one in yaml.safe_load_all(ROLE.read_text()) if one["kind"] == "Role")
    granted = {resource: tuple(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
    assert {right.resource: right.verbs for right in (*RIGHTS, CLAIM_RIGHT)} == granted


async def test_a_deployed_server_is_found_well(in_cluster: tuple[Api, Settings], cluster: Cluster) -> None:
    async with pods_that_run(cluster, SHUT_OUT):
        findings = await told(*in_cluster)
    assert failures(findings) == []
    texts = [finding.text for finding in findings]
    assert "The account may do all that is needed (34 verbs)" in texts
    assert "The server's pod has the label app: mcp-server-manager" in texts
    assert "Deployment mcp-server-jupyter: strategy Recreate, 1 replica" in texts
    assert any(text.endswith("run on the server's node (node-1)") for text in texts)
    assert texts[-1] == "A pod without the server's label reaches no kernel"
    assert list(cluster.objects["pods"]) == ["server-1"]


async def test_a_missing_right_is_named_with_the_line_that_grants_it(
    in_cluster: tuple[Api, Settings], cluster: Cluster
) -> None:
    cluster.denied |= {("patch", "secrets"), ("delete", "secrets"), ("get", "pods/log")}
    async with pods_that_run(cluster, SHUT_OUT):
        findings = await told(*in_cluster)
    assert failures(findings) == [
        "The account may not delete, patch secrets: a kernel's keys",
        "The account may not get pods/log: the reason why a kernel did not start",
    ]
    advice = next(finding.advice for finding in findings if "secrets" in finding.text)
    assert '- {apiGroups: [""], resources: ["secrets"], verbs: ["patch"]}' in advice


@pytest.mark.parametrize(
    ("change", "text", "advice"),
    [
        (
            lambda cluster, root: own_pod(cluster, root, app="mcp-jupyter"),
            "The server's pod has the label app: mcp-jupyter",
            "Put app: mcp-server-manager into the Deployment's pod template",
        ),
        (
            lambda cluster, root: deployment(cluster, strategy="RollingUpdate", replicas=3),
            "Deployment mcp-server-jupyter: strategy RollingUpdate, 3 replicas",
            "Set strategy: {type: Recreate}",
        ),
    ],
)
async def test_what_is_deployed_otherwise_is_a_failure_with_advice(
    in_cluster: tuple[Api, Settings],
    cluster: Cluster,
    change: Callable[[Cluster, Path], None],
    text: str,
    advice: str,
) -> None:
    api, settings = in_cluster
    change(cluster, settings.root)
    async with pods_that_run(cluster, SHUT_OUT):
        findings = await told(api, settings)
    assert failures(findings) == [text]
    assert advice in next(finding.advice for finding in findings if finding.text == text)


async def test_policies_that_hold_nobody_back_are_a_failure(in_cluster: tuple[Api, Settings], cluster: Cluster) -> None:
    async with pods_that_run(cluster, 0):
        findings = await told(*in_cluster)
    assert failures(findings) == [f"{REACHED} {AGENT_PORT}"]
    assert "policies.yaml" in findings[-1].advice
    assert list(cluster.objects["pods"]) == ["server-1"]


async def test_a_stranger_that_could_not_even_try_proves_nothing(
    in_cluster: tuple[Api, Settings], cluster: Cluster
) -> None:
    async with pods_that_run(cluster, 127):
        (failure,) = failures(await told(*in_cluster))
    assert "could not try to reach a kernel: exit code 127" in failure


async def test_a_laptop_that_reaches_no_pod_is_told_of_telepresence(
    settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.doctor_pods.REACH_SECONDS", 0.2)
    async with pods_that_run(cluster, SHUT_OUT, listening=False):
        findings = [finding async for finding in examine(settings)]
    (failure,) = [finding for finding in findings if "cannot be reached from here" in finding.text]
    assert "telepresence" in failure.advice
    assert "port-forward" in failure.advice
    assert not any("label app" in finding.text for finding in findings)


async def test_without_a_cluster_the_doctor_says_how_to_name_one(settings: Settings, tmp_path: Path) -> None:
    nowhere = replace(settings, kubeconfig=str(tmp_path / "none"))
    (finding,) = [finding async for finding in examine(nowhere)]
    assert not finding.fine
    assert "KUBECONFIG" in finding.advice
