"""Why a pod does not start, and how it ended, from statuses as kubelets and schedulers write them."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server_jupyter.backends.kubernetes.causes import Stage, death, over, running, stage
from mcp_server_jupyter.ports import Death


def pod(**status: Any) -> dict[str, Any]:
    container = {"image": "kernel:1", "resources": {"limits": {"memory": "512Mi"}}}
    return {"metadata": {"name": "k"}, "spec": {"containers": [container]}, "status": status}


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "kernel", "state": state}]


def condition(kind: str, **more: str) -> list[dict[str, str]]:
    return [{"type": kind, **more}]


SCHEDULED = condition("PodScheduled", status="True")
UNSCHEDULABLE = condition(
    "PodScheduled", status="False", reason="Unschedulable", message="0/3 nodes are available: 3 Insufficient memory."
)


def event(reason: str, message: str, at: int = 0) -> dict[str, str]:
    return {"reason": reason, "message": message, "lastTimestamp": f"2026-01-01T00:00:{at:02d}Z"}


@pytest.mark.parametrize(
    ("status", "events", "expected"),
    [
        ({}, [], Stage("waiting for the scheduler", waits_for_node=True)),
        (
            {"conditions": UNSCHEDULABLE},
            [],
            Stage("waiting for a node: 0/3 nodes are available: 3 Insufficient memory.", waits_for_node=True),
        ),
        (
            {"conditions": SCHEDULED, "containerStatuses": container(waiting={"reason": "ContainerCreating"})},
            [event("Scheduled", "…"), event("Pulling", 'Pulling image "kernel:1"', 1)],
            Stage("pulling image kernel:1"),
        ),
        (
            {"conditions": SCHEDULED},
            [event("Pulling", "…"), event("Pulled", "…", 1)],
            Stage("creating the container"),
        ),
        (
            {"conditions": SCHEDULED},
            [event("FailedMount", 'MountVolume.SetUp failed: secret "x" not found')],
            Stage('waiting for its node: MountVolume.SetUp failed: secret "x" not found', waits_for_node=True),
        ),
        (
            {
                "conditions": SCHEDULED,
                "containerStatuses": container(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling"}),
            },
            [
                event("Failed", 'Failed to pull image "kernel:1": not found', 1),
                event("Failed", "Error: ErrImagePull", 2),
            ],
            Stage('ImagePullBackOff: Failed to pull image "kernel:1": not found (image kernel:1)', fatal=True),
        ),
        (
            {
                "conditions": SCHEDULED,
                "containerStatuses": container(
                    waiting={"reason": "CreateContainerConfigError", "message": 'configmap "common" not found'}
                ),
            },
            [],
            Stage('CreateContainerConfigError: configmap "common" not found (image kernel:1)', fatal=True),
        ),
    ],
)
def test_a_stage_says_what_is_waited_for(status: dict[str, Any], events: list[Any], expected: Stage) -> None:
    assert stage(pod(**status), events) == expected


def test_a_container_that_runs_runs_and_one_that_ended_is_over() -> None:
    runs = pod(phase="Running", containerStatuses=container(running={"startedAt": "…"}))
    assert running(runs)
    assert not over(runs)
    assert over(pod(phase="Running", containerStatuses=container(terminated={"exitCode": 1})))
    assert over(pod(phase="Failed"))
    # A node out of reach, and a pod that is being deleted, have not ended.
    assert not over(pod(phase="Unknown"))
    deleted = pod(phase="Running")
    deleted["metadata"]["deletionTimestamp"] = "…"
    assert not over(deleted)


OOM = container(terminated={"exitCode": 137, "reason": "OOMKilled"})


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        (
            {"phase": "Failed", "containerStatuses": OOM},
            None,
            Death(
                -9,
                "out of memory, limit 512Mi; the whole container was ended, and what it had not sent yet is lost",
            ),
        ),
        (
            {"phase": "Failed", "containerStatuses": OOM},
            Death(-9, "out of memory"),
            Death(-9, "out of memory, limit 512Mi"),
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds 4Gi. "},
            None,
            Death(None, "evicted: Pod ephemeral local storage usage exceeds 4Gi"),
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded", "message": "…"},
            None,
            Death(None, "it had reached max_hours, the longest time its profile allows"),
        ),
        (
            {
                "phase": "Failed",
                "conditions": condition(
                    "DisruptionTarget", status="True", reason="PreemptionByScheduler", message="by lab/big"
                ),
            },
            None,
            Death(None, "preempted by a pod of higher priority: by lab/big"),
        ),
        (
            {
                "phase": "Running",
                "conditions": condition(
                    "DisruptionTarget", status="True", reason="EvictionByEvictionAPI", message="Eviction API: evicting"
                ),
            },
            Death(-15, "SIGTERM"),
            Death(-15, "evicted through the Eviction API: Eviction API: evicting"),
        ),
        (
            {"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 3})},
            None,
            Death(3, "exit code 3"),
        ),
        (
            {
                "phase": "Succeeded",
                "containerStatuses": container(
                    terminated={"exitCode": 0, "message": '{"epoch": 1, "exit_code": -15, "oom": false}'}
                ),
            },
            None,
            Death(-15, "SIGTERM"),
        ),
        ({"phase": "Running"}, Death(-9, "out of memory"), Death(-9, "out of memory, limit 512Mi")),
        (
            {"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 137, "reason": "Error"})},
            None,
            Death(-9, "SIGKILL"),
        ),
    ],
)
def test_a_death_is_told_by_the_best_of_what_is_known(
    status: dict[str, Any], told: Death | None, expected: Death
) -> None:
    assert death(pod(**status), pod(**status), told) == expected


def test_a_pod_that_is_gone_was_deleted_unless_its_last_status_says_why() -> None:
    assert death(None, pod(phase="Running"), None) == Death(None, "its pod was deleted by somebody else")
    assert death(None, pod(phase="Failed", reason="Evicted", message="node low"), None).reason == "evicted: node low"


def test_what_the_agent_saw_stands_where_the_cluster_did_nothing() -> None:
    assert death(pod(phase="Running"), pod(phase="Running"), Death(-11, "SIGSEGV")) == Death(-11, "SIGSEGV")
