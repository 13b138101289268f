"""The Kubernetes objects of a kernel, as plain dicts. Pure functions: what comes in is all they know.

    Secret jupyter-kernel-ID            the anchor: keys and what to start; owned by the server's Deployment
      Service jupyter-kernel-svc-ID     headless, points to the pod of the current generation
      Pod jupyter-kernel-ID-gN          one generation; the next one has another name
    ConfigMap jupyter-kernel-agent-HASH the agent's files, shared by every kernel of the installation

No finalizers: the cluster's own garbage collector removes what an owner leaves.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from .delivery import ENTRY
from .host import AGENT_PORT, CHANNEL_PORTS
from .own import INSTANCE_LABEL, Own
from .profiles import Profile

Json = dict[str, Any]

MANAGED_BY = {"app.kubernetes.io/managed-by": "mcp-server-jupyter"}
ID_LABEL = "mcp-jupyter/kernel-id"
ROLE_LABEL = "mcp-jupyter/role"
GENERATION_LABEL = "mcp-jupyter/gen"
STATE_LABEL = "mcp-jupyter/state"
PREFIX = "mcp-jupyter/"
TEMPLATE_ANNOTATION = "mcp-jupyter/template"
"""Of a pod: a hash of everything it is made of, but for its name."""

AGENT_FOLDER = "/opt/mcp-jupyter"
SECRET_FOLDER = "/run/mcp-jupyter/secret"
KEYS_FOLDER = "/run/mcp-jupyter/keys"
RECORD_FOLDER = "/run/mcp-jupyter/record"
HOME = "/home/kernel"
AGENT_JSON = "agent.json"
AGENT_PORT_NAME = "agent"

GRACE_SECONDS = 8
"""How long a kernel may take to end; its pod has two more."""
_RECORD_SIZE = "320Mi"
_NO_CODE: Json = {"metadata": {"name": ""}, "data": {}}


@dataclass(frozen=True, slots=True)
class Identity:
    """The names and labels of one kernel's objects."""

    id: str
    instance: str
    generation: int = 1
    state: str = "used"
    """"used", or "warm" while it waits for its first user."""

    @property
    def secret(self) -> str:
        return f"jupyter-kernel-{self.id}"

    @property
    def service(self) -> str:
        return f"jupyter-kernel-svc-{self.id}"

    @property
    def pod(self) -> str:
        return f"jupyter-kernel-{self.id}-g{self.generation}"

    @property
    def labels(self) -> dict[str, str]:
        """Of everything of this kernel."""
        return {**labels(self.instance), ID_LABEL: self.id, ROLE_LABEL: "kernel"}

    def next(self) -> Identity:
        """Of the pod after this one."""
        return replace(self, generation=self.generation + 1)


def labels(instance: str) -> dict[str, str]:
    """Of everything of an installation."""
    return {**MANAGED_BY, INSTANCE_LABEL: instance}


def lease_name(instance: str) -> str:
    """The Lease of an installation: at most the 253 characters that a name may have."""
    return f"mcp-server-jupyter-{instance}"[:253]


def selector(instance: str, **more: str) -> str:
    """The label selector for an installation's objects."""
    return ",".join(f"{name}={value}" for name, value in {**labels(instance), **more}.items())


def reference(owner: Json) -> Json:
    """What an owned object says of its owner."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }


def secret(identity: Identity, owners: list[Json], data: Mapping[str, bytes], annotations: Mapping[str, str]) -> Json:
    """The anchor. `data` is what the agent reads, `annotations` what an adopting server reads (without the prefix)."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": identity.secret,
            "labels": {**identity.labels, STATE_LABEL: identity.state},
            "annotations": {PREFIX + name: value for name, value in annotations.items()},
            "ownerReferences": owners,
        },
        "type": "Opaque",
        "data": {name: b64encode(value).decode() for name, value in data.items()},
    }


def service(identity: Identity, owner: Json) -> Json:
    """The name under which any Jupyter client finds the kernel. Headless, so a port is what it is in the pod."""
    ports = {**CHANNEL_PORTS, AGENT_PORT_NAME: AGENT_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": identity.service,
            "labels": identity.labels,
            "ownerReferences": [reference(owner)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": service_selector(identity),
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()],
        },
    }


def service_selector(identity: Identity) -> dict[str, str]:
    """Of the pod of one generation."""
    return {ID_LABEL: identity.id, GENERATION_LABEL: str(identity.generation)}


def agent_code(instance: str, owners: Sequence[Json], files: Mapping[str, str]) -> Json:
    """The agent's files by their path, under a name that only these contents have."""
    digest = sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:12]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            # One per installation: it goes with its Deployment and no other.
            "name": f"jupyter-kernel-agent-{sha256(instance.encode()).hexdigest()[:6]}-{digest}",
            "labels": {**labels(instance), ROLE_LABEL: "agent"},
            "ownerReferences": list(owners),
        },
        "immutable": True,
        # A key holds no slash.
        "data": {path.replace("/", ".."): text for path, text in files.items()},
    }


def pod(identity: Identity, owner: Json, profile: Profile, own: Own, image: str, code: Json) -> Json:
    """One generation of a kernel. It names no address, no key and no code: those are in the Secret."""
    spec = _pod_spec(identity, profile, own, image, code)
    annotations = {
        TEMPLATE_ANNOTATION: template(profile, own, image),
        # What scales nodes down must not take variables with it.
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": identity.pod,
            "labels": {
                **profile.labels,
                **identity.labels,
                GENERATION_LABEL: str(identity.generation),
                STATE_LABEL: identity.state,
            },
            "annotations": annotations,
            "ownerReferences": [reference(owner)],
        },
        "spec": spec,
    }


def template(profile: Profile, own: Own, image: str) -> str:
    """What two pods have in common if a kernel in one could as well be started in the other."""
    spec = _pod_spec(Identity("", ""), profile, own, image, _NO_CODE)
    return sha256(json.dumps([spec, dict(profile.labels)], sort_keys=True).encode()).hexdigest()[:16]


def _pod_spec(identity: Identity, profile: Profile, own: Own, image: str, code: Json) -> Json:
    shared = own.files is not None and profile.files == "root"
    mounts, volumes = _own_volumes(identity, profile, code)
    if own.files is not None and shared:
        mount: Json = {"name": "root", "mountPath": own.files.path}
        mounts.append({**mount, **_given(subPath=own.files.sub_path, readOnly=own.files.read_only)})
        volumes.append({"name": "root", "persistentVolumeClaim": {"claimName": own.files.claim}})
    for number, volume in enumerate(profile.volumes):
        place: Json = {key: volume[key] for key in ("mountPath", "subPath", "readOnly") if key in volume}
        mounts.append({"name": f"volume-{number}", **place})
        volumes.append({"name": f"volume-{number}", **{key: one for key, one in volume.items() if key not in place}})
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS + 2,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(own, shared=shared),
        "containers": [_container(profile, image, mounts)],
        "volumes": volumes,
        **_given(
            serviceAccountName=profile.serviceAccount,
            runtimeClassName=profile.runtimeClass,
            priorityClassName=profile.priorityClass,
            nodeSelector=dict(profile.nodeSelector),
            tolerations=list(profile.tolerations),
            affinity=_on_node(own.files.node) if own.files is not None and shared and own.files.node else None,
            activeDeadlineSeconds=round(profile.max_hours * 3600) if profile.max_hours else None,
            imagePullSecrets=[{"name": name} for name in own.image_pull_secrets],
        ),
    }


def _container(profile: Profile, image: str, mounts: list[Json]) -> Json:
    ports = {**CHANNEL_PORTS, AGENT_PORT_NAME: AGENT_PORT}
    return {
        "name": "kernel",
        "image": image,
        "command": [profile.python, "-I", f"{AGENT_FOLDER}/{ENTRY}", f"{SECRET_FOLDER}/{AGENT_JSON}"],
        "workingDir": HOME,
        # There is no entry for the user in the image's passwd: tools that ask who they are ask these.
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "USER", "value": "kernel"},
            {"name": "LOGNAME", "value": "kernel"},
            {"name": "TMPDIR", "value": "/tmp"},
        ],
        **_given(envFrom=list(profile.envFrom)),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": {part: dict(amounts) for part, amounts in profile.resources.items()},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
    }


def _own_volumes(identity: Identity, profile: Profile, code: Json) -> tuple[list[Json], list[Json]]:
    """Code and keys, and what may be written: everything else of the container is read-only."""
    size = profile.resources["limits"]["ephemeral-storage"]
    mounts: list[Json] = [
        {"name": "agent", "mountPath": AGENT_FOLDER, "readOnly": True},
        {"name": "secret", "mountPath": SECRET_FOLDER, "readOnly": True},
        {"name": "keys", "mountPath": KEYS_FOLDER},
        {"name": "record", "mountPath": RECORD_FOLDER},
        {"name": "scratch", "mountPath": "/tmp", "subPath": "tmp"},
        {"name": "scratch", "mountPath": HOME, "subPath": "home"},
    ]
    items = [{"key": key, "path": key.replace("..", "/")} for key in code["data"]]
    volumes: list[Json] = [
        {"name": "agent", "configMap": {"name": code["metadata"]["name"], "items": items}},
        {"name": "secret", "secret": {"secretName": identity.secret, "defaultMode": 0o440}},
        # Memory counts into the container's limit: keys and sockets only.
        {"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "record", "emptyDir": {"sizeLimit": _RECORD_SIZE}},
        {"name": "scratch", "emptyDir": {"sizeLimit": size}},
    ]
    return mounts, volumes


def _pod_security(own: Own, *, shared: bool) -> Json:
    user = own.user if shared else 1000
    context: Json = {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        # Also what lets the agent read its Secret.
        "fsGroup": own.fs_group if shared and own.fs_group is not None else user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {**context, **_given(supplementalGroups=list(own.groups) if shared else [])}


def _on_node(node: str) -> Json:
    """A node by its name, past any label that somebody may have changed."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _given(**values: Any) -> Json:
    """The values there are: an API server adds nothing to what is not said."""
    return {name: value for name, value in values.items() if value}
