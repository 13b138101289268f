"""What the server's own pod tells: installation, owner, and how its kernels come to its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.api import Api
from mcp_server_jupyter.backends.kubernetes.own import Files, Own, look_around
from mcp_server_jupyter.errors import InvalidRequest, Unavailable
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def inside(settings: Settings, api: Api) -> Settings:
    """The settings of a server in a pod."""
    api.in_cluster = True
    return replace(settings, root=Path("/srv/notes"), state_dir=Path("/state"), pod_name="server-1")


def deploy(cluster: Cluster, *, mode: str = "ReadWriteOnce", mounts: list[dict[str, Any]] | None = None) -> None:
    """A Deployment's pod whose /work is on a claim."""
    cluster.put("deployments", {"metadata": {"name": "server", "uid": "d-1"}})
    above = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server", "uid": "d-1", "controller": True}
    cluster.put("replicasets", {"metadata": {"name": "server-5d", "uid": "r-1", "ownerReferences": [above]}})
    cluster.put("persistentvolumeclaims", {"metadata": {"name": "data"}, "spec": {"accessModes": [mode]}})
    replicaset = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "server-5d", "uid": "r-1"}
    metadata = {"name": "server-1", "uid": "p-1", "labels": {"app.kubernetes.io/instance": "lab"}}
    container = {
        "name": "server",
        "volumeMounts": mounts
        or [
            {"name": "data", "mountPath": "/srv", "subPath": "root"},
            {"name": "data", "mountPath": "/state", "subPath": "state"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    cluster.put(
        "pods",
        {
            "metadata": {**metadata, "ownerReferences": [replicaset]},
            "spec": {
                "nodeName": "node-1",
                "securityContext": {"runAsUser": 10001, "fsGroup": 10001},
                "containers": [container],
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        },
    )


async def test_a_pod_tells_its_installation_its_deployment_and_where_its_root_lies(
    api: Api, cluster: Cluster, inside: Settings
) -> None:
    deploy(cluster)

    assert await look_around(api, inside) == Own(
        "lab",
        "server-1/p-1",
        [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "server", "uid": "d-1"}],
        Files("data", "/srv/notes", sub_path="root/notes", node="node-1"),
        user=10001,
        fs_group=10001,
        image_pull_secrets=("pull",),
        lasts=True,
    )
    beside = await look_around(api, replace(inside, instance="run-1"))
    assert (beside.instance, beside.lasts, len(beside.owners)) == ("run-1", False, 1)


@pytest.mark.parametrize(
    ("mode", "node", "read_only"),
    [("ReadWriteMany", "", False), ("ReadWriteOnce", "node-1", False), ("ReadOnlyMany", "", True)],
)
async def test_the_claims_mode_says_on_which_nodes_kernels_may_run(
    api: Api, cluster: Cluster, inside: Settings, mode: str, node: str, read_only: bool
) -> None:
    deploy(cluster, mode=mode)
    files = (await look_around(api, inside)).files

    assert files is not None
    assert (files.node, files.read_only) == (node, read_only)


async def test_a_claim_of_one_pod_alone_leaves_kernels_an_empty_home(
    api: Api, cluster: Cluster, inside: Settings
) -> None:
    deploy(cluster, mode="ReadWriteOncePod")
    own = await look_around(api, inside)

    assert own.files is None
    assert "ReadWriteOncePod" in own.no_files
    assert own.user == 1000


async def test_a_root_that_is_on_no_claim_leaves_kernels_an_empty_home(
    api: Api, cluster: Cluster, inside: Settings
) -> None:
    deploy(cluster, mounts=[{"name": "tmp", "mountPath": "/srv"}, {"name": "data", "mountPath": "/"}])
    own = await look_around(api, inside)

    assert own.files is None
    assert "no volume" in own.no_files


async def test_state_below_the_root_is_refused(api: Api, cluster: Cluster, inside: Settings) -> None:
    deploy(cluster)
    with pytest.raises(InvalidRequest, match="below the root"):
        await look_around(api, replace(inside, state_dir=Path("/srv/notes/.state")))


async def test_a_pod_that_cannot_be_found_is_told_with_what_to_set(api: Api, inside: Settings) -> None:
    with pytest.raises(Unavailable, match="own pod 'server-1'") as caught:
        await look_around(api, inside)
    assert "POD_NAME" in str(caught.value.hint)


async def test_outside_a_cluster_nothing_owns_the_kernels_and_the_root_tells_installations_apart(
    api: Api, settings: Settings, tmp_path: Path
) -> None:
    own = await look_around(api, settings)
    other = await look_around(api, replace(settings, root=tmp_path))
    given = await look_around(api, replace(settings, instance="mine"))

    assert (own.owners, own.files, given.instance) == ([], None, "mine")
    assert "outside the cluster" in own.no_files
    assert own.instance != other.instance
    assert len(own.instance) <= 63
