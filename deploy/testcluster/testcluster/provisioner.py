"""The StorageClasses' provisioner: per claim a file system of its own, as large as was asked for.

Like most disks of a cloud it belongs to root, has mode 0755 and is one node's:
who is not root needs ``fsGroup``, and only the class ``shared`` serves many nodes.
"""

from __future__ import annotations

import http.client
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from testcluster.config import NODE_NAME, SHARED_STORAGE_CLASS, Paths, quantity
from testcluster.kubeapi import Api, ApiError, Mirror, Object
from testcluster.shell import CommandFailed, note, run

LEAST_SIZE = 4 << 20
NAME = "testcluster/local"
_MADE_BY = "pv.kubernetes.io/provisioned-by"
_ASKED_OF = "volume.kubernetes.io/storage-provisioner"
_SCHEDULED_ON = "volume.kubernetes.io/selected-node"
_OF_MANY_NODES = ("ReadWriteMany", "ReadOnlyMany")


def serve(paths: Paths) -> None:
    """Run for ever: make volumes for claims, remove those that were released."""
    api = Api(paths.pki, "provisioner")
    changed = Event()
    claims = Mirror(api, "/api/v1/persistentvolumeclaims", changed.set)
    volumes = Mirror(api, "/api/v1/persistentvolumes", changed.set)
    claims.start()
    volumes.start()
    while True:
        changed.wait(timeout=60)
        changed.clear()
        done = [_tried(_provision, api, paths, claim) for claim in claims.objects() if is_waiting(claim)]
        done += [_tried(_discard, api, paths, volume) for volume in volumes.objects() if is_discarded(volume)]
        if not all(done):
            time.sleep(0.5)
            changed.set()


def _tried(act: Callable[[Api, Paths, Object], None], api: Api, paths: Paths, subject: Object) -> bool:
    """Whether it was done: what fails for one claim must not keep the others waiting."""
    try:
        act(api, paths, subject)
    except (ApiError, CommandFailed, OSError, http.client.HTTPException) as error:
        note(f"{subject['metadata']['name']}: {error}; trying again")
        return False
    return True


def refusal(claim: Object) -> str:
    """Why no volume can be made for a claim, or nothing."""
    spec = claim["spec"]
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        return "there are no block volumes here"
    many = [mode for mode in spec["accessModes"] if mode in _OF_MANY_NODES]
    if many and spec["storageClassName"] != SHARED_STORAGE_CLASS:
        return (
            f"class {spec['storageClassName']} makes volumes of one node, not {many[0]}: ask for {SHARED_STORAGE_CLASS}"
        )
    try:
        quantity(spec["resources"]["requests"]["storage"])
    except ValueError as error:
        return str(error)
    return ""


def is_waiting(claim: Object) -> bool:
    """Whether the claim is for us to serve, now that its pod has a node."""
    notes = claim["metadata"].get("annotations", {})
    return (
        claim["status"].get("phase") == "Pending"
        and not claim["spec"].get("volumeName")
        and notes.get(_ASKED_OF) == NAME
        and _SCHEDULED_ON in notes
    )


def is_discarded(volume: Object) -> bool:
    """Whether the volume is ours and its claim is gone."""
    return (
        volume["metadata"].get("annotations", {}).get(_MADE_BY) == NAME
        and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        and volume["status"].get("phase") in ("Released", "Failed")
    )


def volume_for(claim: Object, directory: Path) -> Object:
    """The volume that serves a claim from a directory of this node."""
    metadata, spec = claim["metadata"], claim["spec"]
    on_this_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": directory.name, "annotations": {_MADE_BY: NAME}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": "Filesystem",
            "storageClassName": spec["storageClassName"],
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "local": {"path": str(directory)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_this_node]}]}},
        },
    }


def _provision(api: Api, paths: Paths, claim: Object) -> None:
    if reason := refusal(claim):
        _tell(api, claim, reason)
        return
    directory = paths.volumes / f"pvc-{claim['metadata']['uid']}"
    make(directory, quantity(claim["spec"]["resources"]["requests"]["storage"]))
    try:
        api.request("POST", "/api/v1/persistentvolumes", volume_for(claim, directory))
    except ApiError as error:
        if error.status != http.client.CONFLICT:
            raise


def make(directory: Path, size: int) -> None:
    """Mount an empty file system of so many bytes; again is harmless."""
    directory.mkdir(parents=True, exist_ok=True)
    if directory.is_mount():
        return
    disk = _disk(directory)
    if not disk.exists():
        unfinished = disk.with_suffix(".new")
        with unfinished.open("wb") as file:
            file.truncate(max(size, LEAST_SIZE))
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", unfinished)
        unfinished.rename(disk)
    run("mount", "-o", "loop", disk, directory)
    shutil.rmtree(directory / "lost+found", ignore_errors=True)
    directory.chmod(0o755)


def remove(directory: Path) -> None:
    """Unmount a volume and delete what was on it; again is harmless."""
    if directory.is_mount():
        run("umount", directory)
    _disk(directory).unlink(missing_ok=True)
    if directory.exists():
        directory.rmdir()


def _disk(directory: Path) -> Path:
    return directory.with_suffix(".disk")


def _tell(api: Api, claim: Object, reason: str) -> None:
    """An event at the claim; its name keeps it from being told twice."""
    metadata = claim["metadata"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "metadata": {"name": f"{metadata['name']}.refused-{metadata['uid'][:8]}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": "Warning",
        "reason": "ProvisioningFailed",
        "message": reason,
        "source": {"component": NAME},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        api.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)
    except ApiError as error:
        if error.status != http.client.CONFLICT:
            raise


def _discard(api: Api, paths: Paths, volume: Object) -> None:
    name = volume["metadata"]["name"]
    remove(paths.volumes / name)
    try:
        api.request("DELETE", f"/api/v1/persistentvolumes/{name}")
    except ApiError as error:
        if error.status != http.client.NOT_FOUND:
            raise
