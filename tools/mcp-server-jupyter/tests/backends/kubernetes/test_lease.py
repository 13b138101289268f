"""Who holds the kernels, with the Lease's times shortened to a twenty-fifth."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.api import Api
from mcp_server_jupyter.backends.kubernetes.lease import Lease
from mcp_server_jupyter.backends.kubernetes.refusals import Denied

pytestmark = pytest.mark.anyio

SCALE = 0.04
NAME = "mcp-server-jupyter-lab"


def lease(api: Api, identity: str, **more: Any) -> Lease:
    return Lease(api, NAME, identity, labels={"a": "b"}, owners=[], scale=SCALE, **more)


def renewals(cluster: Cluster) -> int:
    return cluster.requests.count(("update", "leases"))


def stored(cluster: Cluster) -> dict[str, Any]:
    return cluster.objects["leases"][NAME]


async def test_the_first_takes_it_and_the_object_says_so(api: Api, cluster: Cluster) -> None:
    first = lease(api, "pod-a/uid")
    told: list[str] = []
    await first.acquire(told.append)

    found = stored(cluster)
    assert told == []
    assert found["metadata"]["labels"] == {"a": "b"}
    times = {found["spec"].pop("acquireTime"), found["spec"].pop("renewTime")}
    assert all(time.endswith("Z") for time in times)
    assert found["spec"] == {"holderIdentity": "pod-a/uid", "leaseDurationSeconds": 15, "leaseTransitions": 0}
    assert first.number >= time.time() - 5


async def test_the_second_waits_with_the_holders_name_until_it_is_released(
    api: Api, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From one renewal to the next passes half of what a Lease lasts, however long it really takes.
    clock = SimpleNamespace(monotonic=lambda: 7.5 * SCALE * renewals(cluster), time=time.time)
    monkeypatch.setattr("mcp_server_jupyter.backends.kubernetes.lease.time", clock)
    first, second = lease(api, "a"), lease(api, "b")
    told: list[str] = []
    await first.acquire(told.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.keep)
        tasks.start_soon(second.acquire, told.append)
        with anyio.fail_after(60):
            while not told or renewals(cluster) < 6:  # noqa: ASYNC110 - other tasks' doings
                await anyio.sleep(0.01)
        assert (told, second.number) == (["held by a"], 0)
        tasks.cancel_scope.cancel()
    await first.release()
    with anyio.fail_after(60):
        await second.acquire(told.append)

    assert told == ["held by a"]
    assert second.number > 0


async def test_one_that_is_not_renewed_is_taken_over_and_the_number_rises(api: Api, cluster: Cluster) -> None:
    first, second = lease(api, "a"), lease(api, "b")
    await first.acquire(lambda _: None)
    start = time.monotonic()
    with anyio.fail_after(60):
        await second.acquire(lambda _: None)

    assert time.monotonic() - start >= 15 * SCALE
    assert second.number > first.number
    assert stored(cluster)["spec"]["leaseTransitions"] == 1


async def test_a_holder_that_finds_anothers_name_is_superseded_and_touches_nothing(api: Api, cluster: Cluster) -> None:
    first, second = lease(api, "a"), lease(api, "b")
    await first.acquire(lambda _: None)
    await second.acquire(lambda _: None)
    with anyio.fail_after(60):
        await first.keep()
        assert await first.superseded() == "b"
    await first.release()

    assert stored(cluster)["spec"]["holderIdentity"] == "b"


async def test_a_holder_goes_on_while_the_server_is_away(api: Api, cluster: Cluster) -> None:
    first = lease(api, "a")
    await first.acquire(lambda _: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.keep)
        cluster.present.clear()
        with anyio.move_on_after(0.3) as waited:
            await first.superseded()
        cluster.present.set()
        tasks.cancel_scope.cancel()

    assert waited.cancelled_caught


async def test_a_deleted_lease_is_made_again_with_a_higher_number(api: Api, cluster: Cluster) -> None:
    first = lease(api, "a")
    await first.acquire(lambda _: None)
    before = first.number
    await api.delete("leases", NAME)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.keep)
        with anyio.fail_after(60):
            while first.number == before:  # noqa: ASYNC110 - another task's doing
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert first.number > before
    assert NAME in cluster.objects["leases"]


async def test_two_that_start_together_never_both_hold_it(api: Api, cluster: Cluster) -> None:
    many = [lease(api, f"s{number}") for number in range(4)]
    async with anyio.create_task_group() as tasks:
        for one in many:
            tasks.start_soon(one.acquire, lambda _: None)
        with anyio.fail_after(60):
            while not any(one.number for one in many):  # noqa: ASYNC110 - whoever is first
                await anyio.sleep(0.001)
        assert sum(one.number > 0 for one in many) == 1
        tasks.cancel_scope.cancel()


async def test_a_missing_right_is_not_waited_for(api: Api, cluster: Cluster) -> None:
    cluster.denied.add(("create", "leases"))
    with anyio.fail_after(60), pytest.raises(Denied, match="may not create leases"):
        await lease(api, "a").acquire(lambda _: None)
