"""Kernels in pods, from the start to the end: agents are real, the cluster around them is `fake_cluster`."""

from __future__ import annotations

import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from fake_cluster import Lab, Pods, pod_name
from local_kernels import until_dead
from mcp_server_jupyter.backends.kubernetes import extra, pod
from mcp_server_jupyter.backends.kubernetes.refusals import Denied, NotAdmitted
from mcp_server_jupyter.backends.kubernetes.sweep import Sweep
from mcp_server_jupyter.commands.run import private_state
from mcp_server_jupyter.errors import KernelDead, KernelStartFailed, Unavailable
from mcp_server_jupyter.ports import Kernel, Message
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

KERNELS_OWN = ("secrets", "services", "pods")


def content(code: str) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}


async def run(kernel: Kernel, code: str) -> str:
    with anyio.fail_after(60):
        return printed([message async for message in kernel.request("execute_request", content(code))])


def printed(messages: list[Message]) -> str:
    return "".join(message.content["text"] for message in messages if message.msg_type == "stream")


async def start(pods: Pods, name: str = "python3", **more: Any) -> Kernel:
    with anyio.fail_after(60):
        return await pods.start(name, **more)


def counts(lab: Lab) -> list[int]:
    return [len(lab.fake.objects[kind]) for kind in KERNELS_OWN]


async def until(condition: Any) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - other tasks' and processes' doings
            await anyio.sleep(0.02)


@asynccontextmanager
async def leading(lab: Lab, settings: Settings, **more: Any) -> AsyncIterator[Pods]:
    async with lab.kernels(settings, **more) as opened:
        with anyio.fail_after(60):
            await opened.lead(lambda _: None)
        yield opened


def profiles(settings: Settings, text: str) -> Settings:
    path = settings.state_dir.parent / "profiles.yaml"
    path.write_text(text)
    return replace(settings, kernel_profiles=path)


# --------------------------------------------------------------------------- a start


async def test_a_kernel_runs_in_a_pod_found_by_name_and_leaves_nothing(pods: Pods, lab: Lab) -> None:
    stages: list[str] = []
    kernel = await start(pods, cwd="below", progress=stages.append)

    assert stages[-1] == "starting the kernel"
    assert await run(kernel, "import os\nprint(os.getcwd())") == f"{pods.settings.root}/below\n"
    assert counts(lab) == [1, 1, 1]
    service = f"jupyter-kernel-svc-{kernel.id}.lab.svc.cluster.local."
    assert lab.names.queries == [f"_agent._tcp.{service} SRV"]
    stats = await kernel.stats()
    assert (stats.limit_bytes, stats.where) == (2**30, f"pod jupyter-kernel-{kernel.id}-g1")
    await kernel.shutdown()
    assert counts(lab) == [0, 0, 0]


async def test_cells_write_nothing_to_the_api_server(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    lab.fake.requests.clear()
    for number in range(5):
        await run(kernel, f"print({number})")

    assert {resource for verb, resource in lab.fake.requests if verb not in ("get", "list", "watch")} <= {"leases"}


async def test_a_bad_image_fails_at_once_with_the_events_words(lab: Lab, settings: Settings) -> None:
    lab.node.images = set()
    async with leading(lab, settings) as pods:
        with pytest.raises(KernelStartFailed, match=r'ErrImagePull: Failed to pull image ".*/kernel:.*": not found'):
            await start(pods)
        assert counts(lab) == [0, 0, 0]


async def test_a_quota_fails_at_once_and_leaves_nothing(pods: Pods, lab: Lab) -> None:
    lab.fake.quota["pods"] = 0
    with pytest.raises(NotAdmitted, match="exceeded quota: lab"):
        await start(pods)
    assert counts(lab) == [0, 0, 0]


async def test_a_missing_right_fails_at_once_with_the_roles_line(pods: Pods, lab: Lab) -> None:
    lab.fake.denied.add(("create", "services"))
    with pytest.raises(Denied) as caught:
        await start(pods)
    assert 'resources: ["services"], verbs: ["create"]' in str(caught.value.hint)
    assert counts(lab) == [0, 0, 0]


async def test_a_pod_that_ends_while_it_starts_is_told_with_its_log(lab: Lab, settings: Settings) -> None:
    async with leading(lab, profiles(settings, "broken: {python: /bin/false}")) as pods:
        with pytest.raises(KernelStartFailed, match="ended while it started: exit code 1"):
            await start(pods, "broken")
        assert counts(lab) == [0, 0, 0]


async def test_a_pod_without_a_node_waits_and_says_the_schedulers_reason(pods: Pods, lab: Lab) -> None:
    lab.node.schedulable = False
    stages: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def later() -> None:
            await until(lambda: any("Insufficient memory" in stage for stage in stages))
            lab.node.schedule()

        tasks.start_soon(later)
        kernel = await start(pods, progress=stages.append)

    assert await run(kernel, "print(1)") == "1\n"


async def test_a_pod_without_a_node_is_given_up_after_its_time(lab: Lab, settings: Settings) -> None:
    lab.node.schedulable = False
    async with leading(lab, profiles(settings, "python3: {schedule_seconds: 2}")) as pods:
        with pytest.raises(Unavailable, match=r"No node ran .* 0/1 nodes are available") as caught:
            await start(pods)
        assert "schedule-seconds" in str(caught.value.hint)
        assert counts(lab) == [0, 0, 0]


async def test_a_volume_that_cannot_be_mounted_is_given_up_with_the_nodes_words(lab: Lab, settings: Settings) -> None:
    lab.node.mountable = False
    async with leading(lab, profiles(settings, "python3: {schedule_seconds: 3}")) as pods:
        stages: list[str] = []
        with pytest.raises(Unavailable, match='configmap "data" not found'):
            await start(pods, progress=stages.append)
        assert any("waiting for its node: MountVolume" in stage for stage in stages)
        assert counts(lab) == [0, 0, 0]


async def test_a_cancelled_start_leaves_nothing(pods: Pods, lab: Lab) -> None:
    lab.node.schedulable = False
    with anyio.move_on_after(0.5):
        await pods.start("python3")

    assert counts(lab) == [0, 0, 0]


async def test_outside_the_clusters_network_the_error_names_the_ways_in(
    lab: Lab, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "_REACH_SECONDS", {True: 0.5, False: 0.5})
    lab.node.reachable = False
    async with leading(lab, settings) as pods:
        with pytest.raises(Unavailable, match="outside the cluster's network") as caught:
            await start(pods)
        assert "Telepresence" in str(caught.value.hint)
        assert "--kernel-access port-forward" in str(caught.value.hint)
        assert counts(lab) == [0, 0, 0]


async def test_through_the_api_server_pods_are_reached_from_anywhere(lab: Lab, settings: Settings) -> None:
    lab.node.reachable = False
    async with leading(lab, replace(settings, kernel_access="port-forward"), files=False) as pods:
        stages: list[str] = []
        kernel = await start(pods, progress=stages.append)
        assert any("empty home: the server runs outside the cluster" in stage for stage in stages)
        assert await run(kernel, "print('x' * 300_000)") == "x" * 300_000 + "\n"


def test_without_the_extra_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "kubernetes" else object())
    with pytest.raises(Unavailable, match="kubernetes") as caught:
        extra.require_extra()
    assert 'pip install "mcp-server-jupyter[kubernetes]"' in str(caught.value.hint)


# --------------------------------------------------------------------------- restarts


async def test_a_restart_is_in_place_and_a_lost_pod_gets_a_successor_of_the_same_name(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    [before] = lab.fake.objects["pods"].values()
    with anyio.fail_after(60):
        await kernel.restart()
    [after] = lab.fake.objects["pods"].values()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]

    lab.node.kill(pod_name(kernel))
    with anyio.fail_after(60):
        await kernel.wait_dead()
        await kernel.restart()
    [second] = lab.fake.objects["pods"]
    [service] = lab.fake.objects["services"].values()
    [secret] = lab.fake.objects["secrets"].values()
    assert second == f"jupyter-kernel-{kernel.id}-g2"
    assert service["spec"]["selector"]["mcp-jupyter/gen"] == "2"
    assert secret["metadata"]["annotations"]["mcp-jupyter/epoch"] == "3"
    assert kernel.epoch == 3
    assert await run(kernel, "print('again')") == "again\n"


async def test_a_changed_profile_takes_a_new_pod_at_the_next_restart(lab: Lab, settings: Settings) -> None:
    changed = profiles(settings, "python3: {image: old}")
    async with leading(lab, changed) as pods:
        kernel = await start(pods)
        profiles(settings, "python3: {image: new}")
        with anyio.fail_after(60):
            await kernel.restart()
        [found] = lab.fake.objects["pods"].values()

    assert (found["metadata"]["name"], found["spec"]["containers"][0]["image"]) == (
        f"jupyter-kernel-{kernel.id}-g2",
        "new",
    )


async def test_a_server_of_pods_opens_as_many_files_as_the_system_allows(lab: Lab, settings: Settings) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        async with lab.kernels(settings):
            raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == min(hard, 1 << 20) or sys.platform == "darwin"
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --------------------------------------------------------------------------- ends


async def death_of(kernel: Kernel) -> str:
    with anyio.fail_after(60):
        death = await kernel.wait_dead()
    with pytest.raises(KernelDead):
        await run(kernel, "1")
    return death.reason


async def test_out_of_memory_names_the_limit_and_what_is_lost(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    lab.node.kill(pod_name(kernel), "OOMKilled")

    assert (await death_of(kernel)).startswith("out of memory, limit 1Gi; the whole container was ended")


async def test_a_deleted_pod_is_told_as_such(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    lab.fake.remove("pods", pod_name(kernel))

    assert await death_of(kernel) == "its pod was deleted by somebody else"


async def test_an_evicted_pod_is_told_with_the_clusters_reason(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    lab.fake.set_status(
        pod_name(kernel), phase="Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds 4Gi."
    )

    assert await death_of(kernel) == "evicted: Pod ephemeral local storage usage exceeds 4Gi"


@pytest.mark.parametrize(
    ("disruption", "reason"),
    [
        ("", "its pod was deleted by somebody else"),
        ("EvictionByEvictionAPI", "evicted through the Eviction API"),
        ("PreemptionByScheduler", "preempted by a pod of higher priority"),
    ],
)
async def test_a_cell_whose_pod_is_ended_ends_by_that_with_its_last_words(
    pods: Pods, lab: Lab, disruption: str, reason: str
) -> None:
    kernel = await start(pods)
    code = "import time\nprint('begun')\ntry:\n    time.sleep(600)\nfinally:\n    print('last words', flush=True)"
    with anyio.fail_after(30):
        cell = kernel.request("execute_request", content(code))
        async for message in cell:
            if printed([message]) == "begun\n":
                break
        lab.fake.terminate(pod_name(kernel), disruption)
        messages, error = await until_dead(cell)

    assert (printed(messages), error.reason) == ("last words\n", reason)
    assert not {"error", "execute_reply"} & {message.msg_type for message in messages}
    assert kernel.death is not None
    assert kernel.death.reason == reason


async def test_an_api_server_that_is_away_ends_no_kernel_and_stops_no_cell(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    lab.fake.present.clear()
    assert await run(kernel, "print('goes on')") == "goes on\n"
    await anyio.sleep(0.5)
    assert kernel.death is None
    lab.fake.present.set()
    assert await run(kernel, "print('still')") == "still\n"


# --------------------------------------------------------------------------- servers after servers


async def test_the_next_server_takes_over_kernels_with_their_variables_and_dead_ones_with_their_death(
    lab: Lab, settings: Settings
) -> None:
    async with leading(lab, settings) as first:
        living, doomed = await start(first, cwd="below"), await start(first)
        await run(living, "x = 41")
        await first.release()
    lab.node.kill(pod_name(doomed), "OOMKilled")
    async with leading(lab, settings) as second:
        with anyio.fail_after(60):
            found = {kernel.id: kernel for kernel in await second.adopt()}
        assert found.keys() == {living.id, doomed.id}
        kept, dead = found[living.id], found[doomed.id]
        assert (kept.name, kept.cwd, kept.epoch, kept.state) == ("python3", "below", 1, "idle")
        assert await run(kept, "print(x + 1)") == "42\n"
        assert dead.death is not None
        assert dead.death.reason.startswith("out of memory, limit 1Gi")
        await dead.restart()
        assert await run(dead, "print('new')") == "new\n"


async def test_a_second_server_waits_and_the_first_ends_when_it_is_superseded(lab: Lab, settings: Settings) -> None:
    waited: list[str] = []
    async with lab.kernels(settings) as second:
        async with leading(lab, settings, identity="server-a/1") as first:
            kernel = await start(first)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(second.lead, waited.append)
                await until(lambda: waited)
                tasks.cancel_scope.cancel()
            assert waited == ["held by server-a"]
            # Somebody takes it from the first.
            [lease] = lab.fake.objects["leases"].values()
            lab.fake.put("leases", {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
            with anyio.fail_after(60):
                await second.lead(waited.append)
                assert await first.superseded() != "server-a/1"
        # It has left everything as it was.
        [adopted] = await second.adopt()
        assert adopted.id == kernel.id
        assert await run(adopted, "print('mine')") == "mine\n"


async def test_an_object_that_is_not_as_the_api_describes_it_ends_no_server(
    pods: Pods, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = await start(pods)
    [lease] = lab.fake.objects["leases"].values()
    lab.fake.put("leases", {**lease, "spec": "nothing that the API knows"})
    await until(lambda: "is begun again" in caplog.text)
    lab.fake.put("leases", lease)
    assert await run(kernel, "print('still led')") == "still led\n"
    assert pods.cluster is not None
    assert not pods.cluster.lease.is_lost


async def test_a_server_waits_for_an_api_server_that_does_not_answer_yet(lab: Lab, settings: Settings) -> None:
    waited: list[str] = []
    lab.fake.overloaded = True
    async with lab.kernels(settings) as pods:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pods.lead, waited.append)
            await until(lambda: waited)
            lab.fake.overloaded = False
        assert "answered 503" in waited[0]
        assert await run(await start(pods), "print(1)") == "1\n"


async def test_a_missing_right_is_not_waited_for(lab: Lab, settings: Settings) -> None:
    lab.fake.denied.add(("list", "pods"))
    async with lab.kernels(settings) as pods:
        with anyio.fail_after(60), pytest.raises(Denied, match="may not list pods"):
            await pods.lead(lambda _: None)


async def test_two_installations_in_one_namespace_do_not_see_each_other(lab: Lab, settings: Settings) -> None:
    ours, theirs = replace(settings, instance="ours"), replace(settings, instance="theirs")
    async with leading(lab, ours) as first, leading(lab, theirs) as second:
        kernel = await start(first)
        assert list(await second.adopt()) == []
        assert second.cluster is not None
        sweep = Sweep(second.cluster, dict)
        assert [await sweep.once(), await sweep.once()] == [[], []]
        assert await run(kernel, "print('here')") == "here\n"


async def test_what_a_killed_start_left_is_not_adopted_and_goes_with_the_second_sweep(
    lab: Lab, settings: Settings
) -> None:
    async with leading(lab, settings) as first:
        lab.node.schedulable = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.start, "python3")
            await until(lambda: counts(lab) == [1, 1, 1])
            left = {kind: dict(lab.fake.objects[kind]) for kind in KERNELS_OWN}
            tasks.cancel_scope.cancel()
    # As if it had been killed instead.
    for kind, objects in left.items():
        for one in objects.values():
            lab.fake.put(kind, one, "ADDED")
    async with leading(lab, settings) as second:
        assert list(await second.adopt()) == []
        assert second.cluster is not None
        sweep = Sweep(second.cluster, dict)
        assert await sweep.once() == []
        assert len(await sweep.once()) == 3
        assert counts(lab) == [0, 0, 0]


async def test_a_sweep_leaves_what_is_used_and_takes_old_generations_and_old_agents(pods: Pods, lab: Lab) -> None:
    kernel = await start(pods)
    assert pods.cluster is not None
    [current] = lab.fake.objects["pods"].values()
    labels = {**current["metadata"]["labels"], "mcp-jupyter/gen": "0"}
    old = {**current, "metadata": {**current["metadata"], "name": "old", "uid": "u-1", "labels": labels}}
    lab.fake.put("pods", old, "ADDED")
    [code] = lab.fake.objects["configmaps"].values()
    lab.fake.put("configmaps", {**code, "metadata": {**code["metadata"], "name": "older", "uid": "u-2"}}, "ADDED")
    sweep = Sweep(pods.cluster, lambda: {kernel.id: 1})

    assert [await sweep.once(), await sweep.once()] == [[], ["older", "old"]]
    assert await run(kernel, "print('here')") == "here\n"


async def test_where_nothing_owns_it_the_agents_program_goes_with_the_last_kernel_and_the_lease_with_the_server(
    lab: Lab, settings: Settings
) -> None:
    started: list[Kernel] = []

    async def one_more(pods: Pods) -> None:
        started.append(await start(pods))

    async with leading(lab, settings) as pods:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one_more, pods)
            tasks.start_soon(one_more, pods)
        [code] = lab.fake.objects["configmaps"].values()
        assert {one["name"] for one in code["metadata"]["ownerReferences"]} == {*lab.fake.objects["secrets"]}
        await started[0].shutdown()
        assert len(lab.fake.objects["configmaps"]) == 1
        assert await run(started[1], "print('goes on')") == "goes on\n"
        await started[1].shutdown()
        assert not lab.fake.objects["configmaps"]
        assert lab.fake.objects["leases"]
    assert not lab.fake.objects["leases"]


async def test_two_runs_beside_a_server_wait_for_nobody_and_leave_nothing(
    pods: Pods, lab: Lab, settings: Settings
) -> None:
    waited: list[str] = []
    mine = await start(pods)
    before = {kind: {*lab.fake.objects[kind]} for kind in (*KERNELS_OWN, "configmaps", "leases")}
    with private_state(settings) as first, private_state(settings) as second:
        async with lab.kernels(first) as some, lab.kernels(second) as others:
            with anyio.fail_after(60):
                await some.lead(waited.append)
                await others.lead(waited.append)
            assert await some.adopt() == await others.adopt() == []
            assert await run(await start(some), "print('some')") == "some\n"
            assert await run(await start(others), "print('others')") == "others\n"

    assert waited == []
    assert before == {kind: {*lab.fake.objects[kind]} for kind in before}
    assert await run(mine, "print('mine')") == "mine\n"


async def test_what_a_killed_run_left_goes_once_its_kernel_has_ended_and_it_says_nothing_more(
    pods: Pods, lab: Lab, settings: Settings
) -> None:
    assert pods.cluster is not None
    mine = await start(pods)
    kinds = (*KERNELS_OWN, "configmaps", "leases")
    before = {kind: {*lab.fake.objects[kind]} for kind in kinds}
    with private_state(settings) as own:
        async with leading(lab, own) as killed:
            kernel = await start(killed)
            left = {kind: {name: lab.fake.objects[kind][name] for name in lab.fake.objects[kind]} for kind in kinds}
            sweep = Sweep(pods.cluster, lambda: {mine.id: 1})
            assert [await sweep.once(), await sweep.once()] == [[], []]
            assert await run(kernel, "print('goes on')") == "goes on\n"
    # As if it had been killed instead, and its kernel had then ended by itself.
    for kind, objects in left.items():
        for name in objects.keys() - before[kind]:
            one = {**objects[name], "status": {"phase": "Succeeded"}} if kind == "pods" else objects[name]
            lab.fake.put(kind, one, "ADDED")
    assert await sweep.once() == []
    [lease] = [lab.fake.objects["leases"][name] for name in lab.fake.objects["leases"].keys() - before["leases"]]
    lab.fake.put("leases", {**lease, "spec": {**lease["spec"], "renewTime": "it lives"}}, "MODIFIED")
    assert await sweep.once() == []
    removed = await sweep.once()
    assert lease["metadata"]["name"] in removed
    assert {kind: {*lab.fake.objects[kind]} for kind in kinds} == before
    assert await run(mine, "print('here')") == "here\n"


# --------------------------------------------------------------------------- warm ones


async def test_a_warm_kernel_is_its_first_users_after_one_write(lab: Lab, settings: Settings) -> None:
    warm = profiles(settings, "python3: {warm: 1}")
    async with leading(lab, warm) as pods:
        await pods.adopt()
        await until(lambda: _is_warm(pods))
        lab.fake.requests.clear()
        kernel = await start(pods, cwd="below")
        writes = [request for request in lab.fake.requests if request[0] not in ("get", "list", "watch")]

        assert ("patch", "secrets") in writes
        assert [request for request in writes if request[1] == "secrets" and request[0] == "patch"] == [
            ("patch", "secrets")
        ]
        assert await run(kernel, "import os\nprint(os.getcwd())") == f"{settings.root}/below\n"
        assert kernel.cwd == "below"
        # Another one is made for the next.
        await until(lambda: _is_warm(pods))


async def test_a_warm_kernel_waits_for_the_next_servers_users_too(lab: Lab, settings: Settings) -> None:
    warm = profiles(settings, "python3: {warm: 1}")
    async with leading(lab, warm) as first:
        await first.adopt()
        await until(lambda: _is_warm(first))
        await first.release()
    [name] = lab.fake.objects["pods"]
    async with leading(lab, warm) as second:
        assert list(await second.adopt()) == []
        kernel = await start(second)
        assert pod_name(kernel) == name


def _is_warm(pods: Pods) -> bool:
    assert pods._warm is not None
    return bool(pods._warm._waiting.get("python3"))


async def test_the_profiles_are_what_can_be_started(lab: Lab, settings: Settings, tmp_path: Path) -> None:
    async with lab.kernels(profiles(settings, "gpu: {display_name: With a GPU}")) as pods:
        assert [(spec.name, spec.display_name, spec.source) for spec in await pods.specs()] == [
            ("python3", "Python 3 (pod)", "profile"),
            ("gpu", "With a GPU", "profile"),
        ]
        with pytest.raises(Unavailable, match="does not hold the kernels yet"):
            await pods.start("python3")
