"""Claims: bound by the default class, outliving the pods that use them."""

from __future__ import annotations

from kube import Namespace, api, wait_until
from kubernetes import client

MOUNTED = {"container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}}
CLAIMED = {
    "securityContext": {"fsGroup": 1000},  # the probe is not root, and a volume is root's
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "notebooks"}}],
}


def test_a_claim_survives_its_pod_and_its_volume_goes_with_the_claim(namespace: Namespace) -> None:
    namespace.core.create_namespaced_persistent_volume_claim(
        namespace.name,
        {
            "metadata": {"name": "notebooks"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}},
        },
    )
    namespace.run("writer", **MOUNTED, **CLAIMED)
    namespace.execute("writer", "sh", "-c", "echo kept > /data/note")
    namespace.delete("writer")
    namespace.run("reader", **MOUNTED, **CLAIMED)
    assert namespace.execute("reader", "cat", "/data/note") == "kept"
    namespace.delete("reader")

    claim = namespace.core.read_namespaced_persistent_volume_claim("notebooks", namespace.name)
    assert claim.status.phase == "Bound"
    namespace.core.delete_namespaced_persistent_volume_claim("notebooks", namespace.name)
    volumes = client.CoreV1Api(api()).list_persistent_volume
    wait_until(
        "the volume gone",
        lambda: claim.spec.volume_name not in [volume.metadata.name for volume in volumes().items],
    )
