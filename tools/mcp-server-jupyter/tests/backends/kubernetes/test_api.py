"""The API server's refusals, pages and watches, over real HTTP to a fake server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.api import Api, open_api
from mcp_server_jupyter.backends.kubernetes.refusals import (
    Changed,
    Denied,
    Exists,
    Expired,
    Missing,
    NotAdmitted,
    role_rule,
)
from mcp_server_jupyter.errors import InvalidRequest, Unavailable
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"containers": []}}


async def test_an_object_is_made_read_changed_and_deleted(api: Api) -> None:
    made = await api.create("pods", pod("a"))
    assert (await api.get("pods", "a")) == made

    changed = await api.patch("pods", "a", {"metadata": {"annotations": {"x": "1"}}})
    assert changed["metadata"]["annotations"] == {"x": "1"}
    await api.delete("pods", "a")
    await api.delete("pods", "a")
    assert await api.find("pods", "a") is None
    with pytest.raises(Missing):
        await api.get("pods", "a")


async def test_a_change_of_an_older_version_is_refused(api: Api) -> None:
    made = await api.create("pods", pod("a"))
    await api.patch("pods", "a", {"metadata": {"labels": {"x": "1"}}})

    with pytest.raises(Changed):
        await api.patch("pods", "a", {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}})
    with pytest.raises(Changed):
        await api.replace("pods", "a", made)
    with pytest.raises(Exists):
        await api.create("pods", pod("a"))


async def test_a_list_is_read_in_pages_and_filtered_by_labels(api: Api, cluster: Cluster) -> None:
    cluster.page = 2
    for number in range(5):
        await api.create("pods", pod(f"p{number}", even=str(number % 2 == 0)))
    cluster.requests.clear()

    assert [one["metadata"]["name"] for one in (await api.list("pods")).items] == ["p0", "p1", "p2", "p3", "p4"]
    assert cluster.requests == [("list", "pods")] * 3
    assert len((await api.list("pods", labels="even=True")).items) == 3


async def test_a_server_that_asks_to_come_later_is_asked_again_then(api: Api, cluster: Cluster) -> None:
    cluster.throttle = 3
    with anyio.fail_after(60):
        await api.create("pods", pod("a"))

    assert cluster.requests.count(("create", "pods")) == 4
    assert list(cluster.objects["pods"]) == ["a"]


async def test_a_missing_right_is_told_with_the_line_the_role_lacks(api: Api, cluster: Cluster) -> None:
    cluster.denied.add(("create", "pods"))
    with pytest.raises(Denied) as caught:
        await api.create("pods", pod("a"))

    assert "may not create pods" in caught.value.message
    assert '- {apiGroups: [""], resources: ["pods"], verbs: ["create"]}' in str(caught.value.hint)
    assert role_rule("update", "leases").startswith('- {apiGroups: ["coordination.k8s.io"]')


async def test_a_quota_is_told_in_the_clusters_words_and_not_as_a_missing_right(api: Api, cluster: Cluster) -> None:
    cluster.quota["pods"] = 0
    with pytest.raises(NotAdmitted, match="exceeded quota: lab"):
        await api.create("pods", pod("a"))


async def test_a_watch_tells_changes_after_its_version_and_bookmarks(api: Api, cluster: Cluster) -> None:
    await api.create("pods", pod("before"))
    version = (await api.list("pods")).version
    await api.create("pods", pod("a", watched="yes"))
    await api.create("pods", pod("b", watched="no"))
    await api.delete("pods", "a")
    cluster.bookmark()

    found = []
    with anyio.fail_after(60):
        async for kind, one in api.watch("pods", version, labels="watched=yes"):
            found.append((kind, one["metadata"].get("name", "")))
            if kind == "BOOKMARK":
                break
    assert found == [("ADDED", "a"), ("DELETED", "a"), ("BOOKMARK", "")]


async def test_a_watch_from_a_forgotten_version_says_so(api: Api, cluster: Cluster) -> None:
    version = (await api.list("pods")).version
    await api.create("pods", pod("a"))
    cluster.forget_history()

    with anyio.fail_after(60), pytest.raises(Expired):
        async for _ in api.watch("pods", version):
            pass


async def test_a_server_that_is_not_there_is_unavailable(settings: Settings, tmp_path: Path) -> None:
    text = (tmp_path / "kubeconfig").read_text()
    kubeconfig = tmp_path / "elsewhere"
    kubeconfig.write_text(
        "\n".join("    server: http://127.0.0.1:9" if "server:" in x else x for x in text.split("\n"))
    )
    async with open_api(replace(settings, kubeconfig=str(kubeconfig))) as api:
        with pytest.raises(Unavailable, match="does not answer"):
            await api.list("pods")


async def test_the_namespace_is_the_one_given_else_the_contexts_else_an_error(
    settings: Settings, tmp_path: Path
) -> None:
    async with open_api(settings) as api:
        assert api.namespace == "lab"
    async with open_api(replace(settings, namespace="other")) as api:
        assert api.namespace == "other"
    path = tmp_path / "kubeconfig"
    path.write_text(path.read_text().replace("    namespace: lab\n", ""))
    with pytest.raises(InvalidRequest, match="No namespace"):
        async with open_api(settings):
            pass


def test_the_namespace_of_the_downward_api_is_a_setting() -> None:
    assert Settings.load({}, {"POD_NAMESPACE": "given"}).namespace == "given"
    assert Settings.load({"namespace": "option"}, {"POD_NAMESPACE": "given"}).namespace == "option"


async def test_no_kubeconfig_at_all_is_told_with_what_to_do(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="There is no cluster") as caught:
        async with open_api(replace(settings, kubeconfig=str(tmp_path / "missing"))):
            pass
    assert "KUBECONFIG" in str(caught.value.hint)
