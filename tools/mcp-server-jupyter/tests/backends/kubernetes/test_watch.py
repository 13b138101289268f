"""The pods as they are now: through lists, watches, and a server that forgets or goes away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.api import Api
from mcp_server_jupyter.backends.kubernetes.watch import Pods

pytestmark = pytest.mark.anyio


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"ours": "yes"} | labels}}


@pytest.fixture
async def pods(api: Api) -> AsyncIterator[Pods]:
    watched = Pods(api, "ours=yes")
    await watched.list()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.run)
        yield watched
        tasks.cancel_scope.cancel()


async def seen(pods: Pods, name: str, present: bool = True) -> None:
    with anyio.fail_after(60):
        await pods.until(name, lambda found: (found is not None) == present)


async def test_pods_are_known_as_they_come_change_and_go(pods: Pods, api: Api, cluster: Cluster) -> None:
    await api.create("pods", pod("a"))
    await seen(pods, "a")
    cluster.set_status("a", phase="Running")
    with anyio.fail_after(60):
        await pods.until("a", lambda found: found is not None and found.get("status", {}).get("phase") == "Running")
    await api.delete("pods", "a")
    await seen(pods, "a", present=False)

    last = pods.last("a")
    assert last is not None
    assert last["status"]["phase"] == "Running"


async def test_a_pod_just_made_is_known_before_the_watch_tells_of_it(pods: Pods, api: Api) -> None:
    pods.put(await api.create("pods", pod("a")))

    assert pods.get("a") is not None


async def test_what_is_known_of_a_pod_holds_nothing_of_who_wrote_it(pods: Pods, api: Api, cluster: Cluster) -> None:
    await api.create("pods", pod("a"))
    found = cluster.objects["pods"]["a"]
    cluster.put("pods", {**found, "metadata": {**found["metadata"], "managedFields": [{"manager": "somebody"}]}})
    await pods.list()
    known = pods.get("a")
    assert known is not None
    assert "managedFields" not in known["metadata"]


async def test_a_server_that_has_forgotten_is_asked_for_everything_again(
    pods: Pods, api: Api, cluster: Cluster
) -> None:
    await api.create("pods", pod("a"))
    await api.create("pods", pod("b"))
    await seen(pods, "b")
    # While the watch is told 410, one goes and one comes.
    cluster.objects["pods"].pop("a")
    cluster.forget_history()
    await seen(pods, "a", present=False)
    await api.create("pods", pod("c"))
    await seen(pods, "c")

    assert sorted(one["metadata"]["name"] for one in pods.all()) == ["b", "c"]


async def test_a_server_that_is_away_changes_nothing_that_is_known(pods: Pods, api: Api, cluster: Cluster) -> None:
    await api.create("pods", pod("a"))
    await seen(pods, "a")
    cluster.present.clear()
    cluster.forget_history()
    await anyio.sleep(0.3)
    assert pods.get("a") is not None

    cluster.present.set()
    await api.create("pods", pod("b"))
    await seen(pods, "b")
    assert pods.get("a") is not None


async def test_an_idle_watch_asks_nothing(pods: Pods, api: Api, cluster: Cluster) -> None:
    await api.create("pods", pod("a"))
    await seen(pods, "a")
    cluster.requests.clear()
    for _ in range(3):
        cluster.bookmark()
        await anyio.sleep(0.05)

    assert cluster.requests == []
