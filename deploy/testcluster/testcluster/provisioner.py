"""The default StorageClass's provisioner: a directory of the node per claim."""

from __future__ import annotations

import http.client
import shutil
import sys
import time
from pathlib import Path
from threading import Event

from testcluster.config import NODE_NAME, Paths
from testcluster.kubeapi import Api, ApiError, Mirror, Object

NAME = "testcluster/local"
_MADE_BY = "pv.kubernetes.io/provisioned-by"
_ASKED_OF = "volume.kubernetes.io/storage-provisioner"
_SCHEDULED_ON = "volume.kubernetes.io/selected-node"


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
        try:
            for claim in claims.objects():
                if is_waiting(claim):
                    _provision(api, paths, claim)
            for volume in volumes.objects():
                if is_discarded(volume):
                    _discard(api, paths, volume)
        except (ApiError, OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"{error}; trying again\n")
            time.sleep(0.5)
            changed.set()


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
            "volumeMode": spec.get("volumeMode", "Filesystem"),
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
    directory = paths.volumes / f"pvc-{claim['metadata']['uid']}"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    try:
        api.request("POST", "/api/v1/persistentvolumes", volume_for(claim, directory))
    except ApiError as error:
        if error.status != http.client.CONFLICT:
            raise


def _discard(api: Api, paths: Paths, volume: Object) -> None:
    name = volume["metadata"]["name"]
    shutil.rmtree(paths.volumes / name, ignore_errors=True)
    try:
        api.request("DELETE", f"/api/v1/persistentvolumes/{name}")
    except ApiError as error:
        if error.status != http.client.NOT_FOUND:
            raise
