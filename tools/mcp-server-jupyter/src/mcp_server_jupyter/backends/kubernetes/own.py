"""What the server's own pod says: which installation this is, what owns its kernels, and where its root lies.

Outside a cluster there is no such pod: kernels then belong to nobody but the server, and start in an empty home.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InvalidRequest, JupyterMcpError
from ...settings import Settings
from .api import Api
from .refusals import Hopeless, Missing

Json = dict[str, Any]

INSTANCE_LABEL = "app.kubernetes.io/instance"
_UID = 1000


@dataclass(frozen=True, slots=True)
class Files:
    """The part of a claim that the root is on, as kernels mount it.

    Args:
        path: where, in the server's pod and in kernels' alike.
        node: the one that kernels must run on; empty when any will do.
    """

    claim: str
    path: str
    sub_path: str = ""
    read_only: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class Own:
    """Where this server is.

    Args:
        instance: keeps two installations in one namespace apart.
        identity: of the server, for people: the pod's name, or host and process.
        owners: references that make the cluster remove kernels with the installation.
        files: None where kernels start in an empty home; `no_files` says why.
        user: the user and group id that kernels run as: the server's own where they share files.
        lasts: whether the installation is the owners' own, and stays when this server has ended. Another one beside it
            (of `run`, of `doctor`), or one that nothing owns, leaves nothing but the kernels that are left on purpose.
    """

    instance: str
    identity: str
    owners: list[Json] = field(default_factory=list)
    files: Files | None = None
    no_files: str = ""
    user: int = _UID
    groups: tuple[int, ...] = ()
    fs_group: int | None = None
    image_pull_secrets: tuple[str, ...] = ()
    lasts: bool = False


async def look_around(api: Api, settings: Settings) -> Own:
    """Read the server's own pod, or say what a server outside a cluster is.

    Raises:
        Hopeless: in a cluster, and its own pod is not where it should be.
        InvalidRequest: the state folder is where kernels would see it.
    """
    if not api.in_cluster:
        identity = f"{socket.gethostname()}/{os.getpid()}"
        return Own(
            settings.instance or _instance_of(settings.root),
            identity,
            no_files="the server runs outside the cluster, and a kernel pod cannot see its files",
        )
    name = settings.pod_name or socket.gethostname()
    try:
        pod = await api.get("pods", name)
    except Missing as error:
        raise Hopeless(
            f"The server's own pod {name!r} is not in the namespace {api.namespace!r}.",
            hint="Set POD_NAME from metadata.name and POD_NAMESPACE from metadata.namespace by the Downward API.",
        ) from error
    labels = pod["metadata"].get("labels") or {}
    instance = settings.instance or labels.get(INSTANCE_LABEL) or _instance_of(settings.root)
    files, why = await _files(api, pod, settings)
    owners = await _owners(api, pod)
    return Own(
        instance,
        f"{name}/{pod['metadata']['uid']}",
        owners=owners,
        lasts=bool(owners) and instance == labels.get(INSTANCE_LABEL, instance),
        files=files,
        no_files=why,
        image_pull_secrets=tuple(one["name"] for one in pod["spec"].get("imagePullSecrets") or ()),
        **(_ids(pod, settings.root) if files else {}),
    )


def _instance_of(root: Path) -> str:
    """A valid label value for a host and root."""
    place = f"{socket.gethostname()}:{os.path.realpath(root)}"
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:40] or "server"
    return f"{host}-{blake2b(os.fsencode(place), digest_size=5).hexdigest()}"


async def _owners(api: Api, pod: Json) -> list[Json]:
    """The Deployment above the pod. Never the pod itself: its kernels would go with it."""
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner["kind"] == "ReplicaSet":
            try:
                above = (await api.get("replicasets", owner["name"]))["metadata"].get("ownerReferences") or ()
            except Missing:
                return []
            return [_reference(one) for one in above if one["kind"] == "Deployment"]
        if owner["kind"] == "StatefulSet":
            return [_reference(owner)]
    return []


def _reference(owner: Json) -> Json:
    return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}


async def _files(api: Api, pod: Json, settings: Settings) -> tuple[Files | None, str]:
    found = _mount(pod, settings.root)
    if found is None:
        return None, f"the server's root {settings.root} is on no volume that a kernel pod could mount"
    claim, mount = found
    if mount.get("subPathExpr"):
        return None, "the server's root is mounted by subPathExpr, which cannot be told to a kernel pod"
    inside = PurePosixPath(settings.root).relative_to(mount["mountPath"])
    _keep_state_apart(settings)
    try:
        modes = ((await api.get("persistentvolumeclaims", claim))["spec"]).get("accessModes") or []
    except JupyterMcpError as error:
        # Without the right to read it the mode is not known; one node is then right for all but one mode.
        modes = ["ReadWriteOnce"]
        if isinstance(error, Missing):
            return None, f"there is no claim {claim!r}"
    if "ReadWriteMany" not in modes and modes == ["ReadWriteOncePod"]:
        return None, f"the claim {claim!r} is ReadWriteOncePod: no other pod may mount it"
    node = "" if {"ReadWriteMany", "ReadOnlyMany"} & set(modes) else pod["spec"].get("nodeName", "")
    sub_path = str(PurePosixPath(mount.get("subPath", "")) / inside)
    return Files(
        claim,
        str(settings.root),
        "" if sub_path == "." else sub_path,
        read_only=bool(mount.get("readOnly")) or modes == ["ReadOnlyMany"],
        node=node,
    ), ""


def _mount(pod: Json, root: Path) -> tuple[str, Json] | None:
    """The claim and the mount that hold a folder of this pod."""
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"].get("volumes") or ()
        if "persistentVolumeClaim" in volume
    }
    mounts = [
        mount
        for container in pod["spec"]["containers"]
        for mount in container.get("volumeMounts") or ()
        if PurePosixPath(root).is_relative_to(mount["mountPath"])
    ]
    # The deepest mount is the one the folder is on, be it of a claim or not.
    best = max(mounts, key=lambda mount: len(PurePosixPath(mount["mountPath"]).parts), default=None)
    return (claims[best["name"]], best) if best is not None and best["name"] in claims else None


def _keep_state_apart(settings: Settings) -> None:
    if settings.state_dir.is_relative_to(settings.root):
        raise InvalidRequest(
            f"The state folder {settings.state_dir} is below the root, where every kernel could read it.",
            hint="Give --state-dir another folder, on another subPath of the volume.",
        )


def _ids(pod: Json, root: Path) -> Json:
    """Kernels that share the server's files are its user: what one of them writes the other can change."""
    of_pod = pod["spec"].get("securityContext") or {}
    of_container: Json = {}
    for container in pod["spec"]["containers"]:
        if any(PurePosixPath(root).is_relative_to(one["mountPath"]) for one in container.get("volumeMounts") or ()):
            of_container = container.get("securityContext") or {}
    user = of_container.get("runAsUser", of_pod.get("runAsUser"))
    return {
        "user": _UID if not user else int(user),
        "fs_group": of_pod.get("fsGroup"),
        "groups": tuple(of_pod.get("supplementalGroups") or ()),
    }
