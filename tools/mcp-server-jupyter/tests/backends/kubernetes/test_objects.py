"""Every object, whole: what a cluster is asked for is exactly this."""

from __future__ import annotations

import base64
from typing import Any

from mcp_server_jupyter.backends.kubernetes import objects
from mcp_server_jupyter.backends.kubernetes.delivery import ENTRY
from mcp_server_jupyter.backends.kubernetes.objects import Identity
from mcp_server_jupyter.backends.kubernetes.own import Files, Own
from mcp_server_jupyter.backends.kubernetes.profiles import Profile, parse_profiles

IDENTITY = Identity("abc123def456", "lab", generation=2)
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mcp-server-jupyter", "uid": "d-1"}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "jupyter-kernel-abc123def456", "uid": "s-1"}}
OWNED = [{"apiVersion": "v1", "kind": "Secret", "name": "jupyter-kernel-abc123def456", "uid": "s-1"}]
LABELS = {
    "app.kubernetes.io/managed-by": "mcp-server-jupyter",
    "app.kubernetes.io/instance": "lab",
    "mcp-jupyter/kernel-id": "abc123def456",
    "mcp-jupyter/role": "kernel",
}
PORTS = {"shell": 52317, "iopub": 52318, "stdin": 52319, "control": 52320, "hb": 52321, "agent": 52322}
CODE: dict[str, Any] = {"metadata": {"name": "jupyter-kernel-agent-x"}, "data": {"a..b.py": "pass", "c.py": "pass"}}


def test_the_secret_is_the_anchor_owned_by_the_deployment() -> None:
    made = objects.secret(IDENTITY, [DEPLOYMENT], {"agent.json": b"{}"}, {"epoch": "3", "cwd": "below"})

    assert made == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "jupyter-kernel-abc123def456",
            "labels": {**LABELS, "mcp-jupyter/state": "used"},
            "annotations": {"mcp-jupyter/epoch": "3", "mcp-jupyter/cwd": "below"},
            "ownerReferences": [DEPLOYMENT],
        },
        "type": "Opaque",
        "data": {"agent.json": base64.b64encode(b"{}").decode()},
    }


def test_the_service_is_headless_and_points_to_one_generation() -> None:
    assert objects.service(IDENTITY, SECRET) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "jupyter-kernel-svc-abc123def456", "labels": LABELS, "ownerReferences": OWNED},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"mcp-jupyter/kernel-id": "abc123def456", "mcp-jupyter/gen": "2"},
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in PORTS.items()],
        },
    }


def plain_pod() -> dict[str, Any]:
    """The pod of the default profile of a server outside the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "jupyter-kernel-abc123def456-g2",
            "labels": {**LABELS, "mcp-jupyter/gen": "2", "mcp-jupyter/state": "used"},
            "annotations": {
                "mcp-jupyter/template": objects.template(Profile("python3"), Own("lab", "me"), "kernel:1"),
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
            "ownerReferences": OWNED,
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 10,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "kernel",
                    "image": "kernel:1",
                    "command": ["python3", "-I", f"/opt/mcp-jupyter/{ENTRY}", "/run/mcp-jupyter/secret/agent.json"],
                    "workingDir": "/home/kernel",
                    "env": [
                        {"name": "HOME", "value": "/home/kernel"},
                        {"name": "USER", "value": "kernel"},
                        {"name": "LOGNAME", "value": "kernel"},
                        {"name": "TMPDIR", "value": "/tmp"},
                    ],
                    "ports": [{"name": name, "containerPort": port} for name, port in PORTS.items()],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "256Mi"},
                        "limits": {"memory": "1Gi", "ephemeral-storage": "4Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                    "volumeMounts": [
                        {"name": "agent", "mountPath": "/opt/mcp-jupyter", "readOnly": True},
                        {"name": "secret", "mountPath": "/run/mcp-jupyter/secret", "readOnly": True},
                        {"name": "keys", "mountPath": "/run/mcp-jupyter/keys"},
                        {"name": "record", "mountPath": "/run/mcp-jupyter/record"},
                        {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},
                        {"name": "scratch", "mountPath": "/home/kernel", "subPath": "home"},
                    ],
                }
            ],
            "volumes": [
                {
                    "name": "agent",
                    "configMap": {
                        "name": "jupyter-kernel-agent-x",
                        "items": [{"key": "a..b.py", "path": "a/b.py"}, {"key": "c.py", "path": "c.py"}],
                    },
                },
                {
                    "name": "secret",
                    "secret": {"secretName": "jupyter-kernel-abc123def456", "defaultMode": 0o440},
                },
                {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "record", "emptyDir": {"sizeLimit": "320Mi"}},
                {"name": "scratch", "emptyDir": {"sizeLimit": "4Gi"}},
            ],
        },
    }


def test_the_pod_of_the_default_profile_outside_a_cluster() -> None:
    assert objects.pod(IDENTITY, SECRET, Profile("python3"), Own("lab", "me"), "kernel:1", CODE) == plain_pod()


def test_the_pod_of_a_profile_that_says_everything_beside_a_volume_of_one_node() -> None:
    profile = parse_profiles(
        """
gpu:
  python: /opt/python
  argv: [R, "{connection_file}"]
  resources: {limits: {memory: 16Gi, nvidia.com/gpu: 1}, requests: {cpu: 2}}
  nodeSelector: {pool: gpu}
  tolerations: [{key: gpu, operator: Exists}]
  runtimeClass: gvisor
  priorityClass: research
  serviceAccount: reader
  env: {NOT: in the pod}
  envFrom: [{configMapRef: {name: common}}]
  volumes: [{mountPath: /data, readOnly: true, persistentVolumeClaim: {claimName: data}}]
  labels: {team: vision}
  max_hours: 1.5
""",
        "here",
    )["gpu"]
    files = Files("notebooks", "/work", sub_path="root/a", node="node-1")
    own = Own("lab", "me", [DEPLOYMENT], files, user=1234, fs_group=7, groups=(8,), image_pull_secrets=("pull",))
    made = objects.pod(IDENTITY, SECRET, profile, own, "torch:3", CODE)

    wanted = plain_pod()
    wanted["metadata"]["labels"]["team"] = "vision"
    wanted["metadata"]["annotations"]["mcp-jupyter/template"] = objects.template(profile, own, "torch:3")
    [container] = wanted["spec"]["containers"]
    container["image"] = "torch:3"
    container["command"][0] = "/opt/python"
    container["envFrom"] = [{"configMapRef": {"name": "common"}}]
    container["resources"] = {
        "requests": {"cpu": "2", "memory": "256Mi", "ephemeral-storage": "256Mi"},
        "limits": {"memory": "16Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": "1"},
    }
    container["volumeMounts"] += [
        {"name": "root", "mountPath": "/work", "subPath": "root/a"},
        {"name": "volume-0", "mountPath": "/data", "readOnly": True},
    ]
    wanted["spec"]["volumes"] += [
        {"name": "root", "persistentVolumeClaim": {"claimName": "notebooks"}},
        {"name": "volume-0", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    wanted["spec"]["securityContext"] |= {
        "runAsUser": 1234,
        "runAsGroup": 1234,
        "fsGroup": 7,
        "supplementalGroups": [8],
    }
    wanted["spec"] |= {
        "serviceAccountName": "reader",
        "runtimeClassName": "gvisor",
        "priorityClassName": "research",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "activeDeadlineSeconds": 5400,
        "imagePullSecrets": [{"name": "pull"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
                    ]
                }
            }
        },
    }
    assert made == wanted


def test_a_profile_without_files_mounts_none_and_runs_anywhere() -> None:
    own = Own("lab", "me", files=Files("notebooks", "/work", node="node-1"), user=1234)
    made = objects.pod(IDENTITY, SECRET, Profile("python3", files="none"), own, "kernel:1", CODE)

    assert made["spec"] == plain_pod()["spec"]


def test_two_pods_have_one_template_if_a_kernel_could_be_in_either() -> None:
    own = Own("lab", "me")
    usual = objects.template(Profile("python3"), own, "kernel:1")

    assert objects.template(Profile("other", argv=("R",), env={"A": "1"}, warm=3), own, "kernel:1") == usual
    assert objects.template(Profile("python3", priorityClass="x"), own, "kernel:1") != usual
    assert objects.template(Profile("python3"), own, "kernel:2") != usual


def test_the_agents_files_have_a_name_of_their_contents_and_their_installation() -> None:
    one = objects.agent_code("lab", [DEPLOYMENT], {"a/b.py": "1"})
    again = objects.agent_code("lab", [DEPLOYMENT], {"a/b.py": "1"})
    other = objects.agent_code("lab", [DEPLOYMENT], {"a/b.py": "2"})
    elsewhere = objects.agent_code("lab2", [], {"a/b.py": "1"})

    assert (
        one
        == again
        == {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": one["metadata"]["name"],
                "labels": {
                    "app.kubernetes.io/managed-by": "mcp-server-jupyter",
                    "app.kubernetes.io/instance": "lab",
                    "mcp-jupyter/role": "agent",
                },
                "ownerReferences": [DEPLOYMENT],
            },
            "immutable": True,
            "data": {"a..b.py": "1"},
        }
    )
    assert len({made["metadata"]["name"] for made in (one, other, elsewhere)}) == 3


def test_labels_of_a_profile_never_win_over_our_own() -> None:
    profile = Profile("x", labels={"mcp-jupyter/kernel-id": "somebody-else"})
    made = objects.pod(IDENTITY, SECRET, profile, Own("lab", "me"), "kernel:1", CODE)

    assert made["metadata"]["labels"]["mcp-jupyter/kernel-id"] == "abc123def456"
