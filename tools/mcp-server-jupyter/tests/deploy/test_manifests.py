"""The manifests of `deploy/kubernetes`, read as they are written. What kustomize makes of them: `tests/e2e/cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_server_jupyter import __version__
from mcp_server_jupyter.backends.kubernetes.profiles import parse_profiles
from mcp_server_jupyter.settings import Settings

KUBERNETES = Path(__file__).resolve().parents[4] / "deploy" / "kubernetes"
DOCKER = KUBERNETES.parent / "docker"
Object = dict[str, Any]

NAME = "mcp-server-jupyter"
SERVER_LABELS = {"app": "mcp-server-manager", "app.kubernetes.io/instance": NAME}
KERNEL_LABELS = {"app.kubernetes.io/managed-by": NAME, "mcp-jupyter/role": "kernel"}
KERNEL_PORTS = [{"protocol": "TCP", "port": 52317, "endPort": 52322}]
DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        },
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}


def objects(*path: str) -> list[Object]:
    return list(yaml.safe_load_all(KUBERNETES.joinpath(*path).read_text()))


def the(kind: str, name: str, *path: str) -> Object:
    (found,) = [one for one in objects(*path) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def test_the_server_is_one_pod_that_ends_before_the_next_one_starts() -> None:
    (deployment,) = objects("base", "deployment.yaml")
    container = deployment["spec"]["template"]["spec"].pop("containers")
    assert deployment == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": SERVER_LABELS},
            "template": {
                "metadata": {"labels": {**SERVER_LABELS, "app.kubernetes.io/name": NAME}},
                "spec": {
                    "serviceAccountName": NAME,
                    "automountServiceAccountToken": True,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "fsGroup": 10001,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "volumes": [
                        {"name": "data", "persistentVolumeClaim": {"claimName": NAME}},
                        {"name": "profiles", "configMap": {"name": f"{NAME}-profiles"}},
                        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                    ],
                },
            },
        },
    }
    assert container == [
        {
            "name": "server",
            "image": f"{NAME}/server:{__version__}",
            "args": [
                "serve",
                "--root=/notebooks",
                "--state-dir=/state",
                "--host=0.0.0.0",
                "--allowed-hosts=$(SERVICE),$(SERVICE).$(POD_NAMESPACE),$(SERVICE).$(POD_NAMESPACE).svc,"
                "$(SERVICE).$(POD_NAMESPACE).svc.cluster.local",
                "--kernels=kubernetes",
                "--kernel-profiles=/etc/mcp-server-jupyter/profiles.yaml",
                "--keep-kernels",
                "--log-json",
            ],
            "env": [
                {"name": "MCP_JUPYTER_TOKEN", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "token"}}},
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                field("POD_UID", "metadata.uid"),
                field("NODE_NAME", "spec.nodeName"),
                field("SERVICE", "metadata.labels['app.kubernetes.io/instance']"),
            ],
            "ports": [{"name": "http", "containerPort": 4040}],
            "startupProbe": {
                "httpGet": {"path": "/health", "port": "http"},
                "periodSeconds": 1,
                "failureThreshold": 120,
            },
            "readinessProbe": {
                "httpGet": {"path": "/api/readyz", "port": "http"},
                "periodSeconds": 5,
                "timeoutSeconds": 5,
            },
            "livenessProbe": {
                "httpGet": {"path": "/health", "port": "http"},
                "periodSeconds": 10,
                "timeoutSeconds": 10,
                "failureThreshold": 6,
            },
            "resources": {
                "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
                "limits": {"memory": "2Gi", "ephemeral-storage": "2Gi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "data", "mountPath": "/notebooks", "subPath": "notebooks"},
                {"name": "data", "mountPath": "/state", "subPath": "state"},
                {"name": "profiles", "mountPath": "/etc/mcp-server-jupyter", "readOnly": True},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
    ]


def test_the_servers_account_may_do_what_its_work_takes_and_no_more() -> None:
    assert objects("base", "account.yaml") == [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": NAME},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": NAME},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["pods", "services", "secrets"],
                    "verbs": ["create", "get", "list", "watch", "patch", "delete"],
                },
                {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "list", "patch", "delete"]},
                {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
                {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["list"]},
                {
                    "apiGroups": [""],
                    "resources": ["persistentvolumeclaims"],
                    "resourceNames": [NAME],
                    "verbs": ["get"],
                },
                {"apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["get"]},
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "verbs": ["create", "get", "update", "delete"],
                },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME}],
        },
    ]


def test_kernels_are_reached_by_servers_alone_and_reach_dns_alone() -> None:
    assert the("NetworkPolicy", f"{NAME}-kernels", "base", "policies.yaml")["spec"] == {
        "podSelector": {"matchLabels": KERNEL_LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "mcp-server-manager"}}}], "ports": KERNEL_PORTS},
        ],
        "egress": [DNS],
    }


def test_the_server_is_reached_by_its_clients_and_reaches_kernels_dns_and_the_api_server() -> None:
    assert the("NetworkPolicy", NAME, "base", "policies.yaml")["spec"] == {
        "podSelector": {"matchLabels": SERVER_LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"mcp-jupyter/client": "true"}}}],
                "ports": [{"protocol": "TCP", "port": 4040}],
            }
        ],
        "egress": [
            {"to": [{"podSelector": {"matchLabels": KERNEL_LABELS}}], "ports": KERNEL_PORTS},
            DNS,
            {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]},
        ],
    }


def test_the_service_and_the_claim_have_the_servers_name() -> None:
    assert objects("base", "service.yaml") == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {
                "selector": SERVER_LABELS,
                "ports": [{"name": "http", "port": 4040, "targetPort": "http"}],
            },
        }
    ]
    assert objects("base", "claim.yaml") == [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": NAME},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
        }
    ]


def test_the_namespace_admits_restricted_pods_only() -> None:
    (namespace,) = objects("namespace", "namespace.yaml")
    prefix = "pod-security.kubernetes.io"
    assert namespace["metadata"]["labels"] == {
        f"{prefix}/enforce": "restricted",
        f"{prefix}/enforce-version": "latest",
        f"{prefix}/warn": "restricted",
        f"{prefix}/audit": "restricted",
    }


def test_no_manifest_holds_a_token() -> None:
    assert [path for path in KUBERNETES.rglob("*.yaml") if "kind: Secret" in path.read_text()] == []


def test_every_folder_of_manifests_lists_what_is_in_it() -> None:
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        told = yaml.safe_load(kustomization.read_text())
        generated = [file for one in told.get("configMapGenerator", []) for file in one["files"]]
        listed = {*told.get("resources", []), *told.get("components", []), *generated}
        here = {file.name for file in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if not name.startswith("..")} == here
        assert all(kustomization.parent.joinpath(name).exists() for name in listed)


@pytest.mark.parametrize("overlay", ["kind", "second", "telepresence-dev", "example"])
def test_an_overlay_of_a_cluster_names_its_namespace(overlay: str) -> None:
    (told,) = objects("overlays", overlay, "kustomization.yaml")
    assert told["namespace"] == "mcp-jupyter"


def test_kernels_leave_for_cluster_computers_by_a_label_of_their_profile() -> None:
    found = {}
    for policy in objects("components", "egress", "policies.yaml"):
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert KERNEL_LABELS.items() <= selected.items()
        (rule,) = policy["spec"]["egress"]
        (to,) = rule["to"]
        assert to["namespaceSelector"] == {}
        opened = (to["podSelector"]["matchLabels"], [port["port"] for port in rule["ports"]])
        (label,) = selected.keys() - KERNEL_LABELS.keys()
        found[label] = opened
    assert found == {
        "egress.mcp-jupyter/ray": ({"ray.io/node-type": "head"}, [10001, 8265]),
        "egress.mcp-jupyter/dask": ({"dask.org/component": "scheduler"}, [8786, 8787]),
        "egress.mcp-jupyter/spark": ({"spark-role": "connect-server"}, [15002]),
    }


def test_the_packages_component_opens_no_private_network() -> None:
    (policy,) = objects("components", "package-index", "policy.yaml")
    assert policy["spec"] == {
        "podSelector": {"matchLabels": KERNEL_LABELS},
        "policyTypes": ["Egress"],
        "egress": [
            {
                "to": [
                    {
                        "ipBlock": {
                            "cidr": "0.0.0.0/0",
                            "except": [
                                "10.0.0.0/8",
                                "100.64.0.0/10",
                                "169.254.0.0/16",
                                "172.16.0.0/12",
                                "192.168.0.0/16",
                            ],
                        }
                    }
                ],
                "ports": [{"protocol": "TCP", "port": 443}],
            }
        ],
    }


def test_the_images_run_as_the_users_that_the_pods_have() -> None:
    assert "\nUSER 10001:10001\n" in (DOCKER / "server.Dockerfile").read_text()
    assert "\nUSER 1000:1000\n" in (DOCKER / "kernel.Dockerfile").read_text()


def test_the_profile_of_the_base_starts_the_kernel_image_of_this_version() -> None:
    (profiles,) = objects("base", "profiles.yaml")
    assert {name: profile["image"] for name, profile in profiles.items()} == {
        "python3": f"mcp-server-jupyter/kernel:{__version__}"
    }


def test_the_options_of_the_deployment_are_settings() -> None:
    (deployment,) = objects("base", "deployment.yaml")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    names = {argument.removeprefix("--").partition("=")[0].replace("-", "_") for argument in arguments[1:]}
    assert names <= set(Settings.__dataclass_fields__)


def test_the_cluster_tests_run_the_images_that_the_manifests_name() -> None:
    listed = (Path(__file__).parents[1] / "e2e" / "cluster" / "images.txt").read_text().splitlines()
    names = {line.split()[0] for line in listed if line and not line.startswith("#")}
    assert {f"{NAME}/server:{__version__}", f"{NAME}/kernel:{__version__}"} <= names


@pytest.mark.parametrize("path", ["base/profiles.yaml", "overlays/example/profiles.yaml"])
def test_the_profiles_are_ones_that_the_server_takes(path: str) -> None:
    assert "python3" in parse_profiles((KUBERNETES / path).read_text(), path)
