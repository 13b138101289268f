"""What a pod's status and events say: why it does not start, and how it ended. Pure functions on plain objects.

Source: kubernetes.io, "Pod Lifecycle" and "Disruptions" (the condition DisruptionTarget).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ports import Death
from ..zmq.kernel import named

Json = dict[str, Any]

# Reasons of a waiting container that no time mends: the image's name, the pod's references, the command.
_FATAL_WAITS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "its node became unfit for it",
    "EvictionByEvictionAPI": "evicted through the Eviction API",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "ended by its node",
}
OUT_OF_MEMORY = "out of memory"
"""The reason by which an agent tells that its kernel was ended for want of memory."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a start has come. `fatal` says why it will never come further; `text` is for people either way."""

    text: str
    fatal: bool = False
    waits_for_node: bool = False


def stage(pod: Json, events: Sequence[Json] = ()) -> Stage:
    """What a pod that does not run yet is waiting for.

    Args:
        events: of the pod, any order; a cause that no status carries (a volume that cannot be mounted) is in them.
    """
    status = pod.get("status") or {}
    waiting = _waiting(status)
    reason = waiting.get("reason", "")
    if reason in _FATAL_WAITS:
        return Stage(_image_trouble(pod, reason, waiting.get("message", ""), events), fatal=True)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        told = scheduled.get("message") or scheduled.get("reason") or "no reason given"
        return Stage(f"waiting for a node: {told}", waits_for_node=True)
    if not scheduled and not pod.get("spec", {}).get("nodeName"):
        return Stage("waiting for the scheduler", waits_for_node=True)
    if trouble := _last(events, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        return Stage(f"waiting for its node: {trouble}", waits_for_node=True)
    image = pod["spec"]["containers"][0]["image"]
    if _last(events, "Pulling") and not _last(events, "Pulled"):
        return Stage(f"pulling image {image}")
    return Stage("creating the container")


def running(pod: Json) -> bool:
    """Whether the kernel's container runs."""
    return any(
        "running" in (one.get("state") or {}) for one in (pod.get("status") or {}).get("containerStatuses") or ()
    )


def over(pod: Json) -> bool:
    """Whether a pod has ended for good. A node that is out of reach, or a pod being deleted, has not ended yet."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded") or bool(_terminated(pod))


def explained(pod: Json) -> bool:
    """Whether a pod that is ending says why already, or has ended."""
    status = pod.get("status") or {}
    disrupted = _condition(status, "DisruptionTarget").get("status") == "True"
    return over(pod) or disrupted or bool(status.get("reason")) or bool(pod["metadata"].get("deletionTimestamp"))


def death(pod: Json | None, last: Json, told: Death | None = None) -> Death:
    """How a pod ended, by the best of what is known.

    Args:
        pod: as it is now; None when the object is gone.
        last: as it was seen last.
        told: what the agent said of its kernel's process, which knows signals and exit codes.
    """
    seen = pod or last
    status = seen.get("status") or {}
    ended = _terminated(seen)
    told = told or _last_word(ended)
    code = told.exit_code if told is not None else _exit_code(ended)
    # A kernel may be ended for want of memory and its container live on (control groups, version 1).
    if ended.get("reason") == "OOMKilled" or (told is not None and told.reason == OUT_OF_MEMORY):
        return Death(code if code is not None else -9, _out_of_memory(seen, whole=told is None))
    if status.get("reason") == "Evicted":
        return Death(code, f"evicted: {status.get('message') or 'no reason given'}".rstrip(". "))
    if status.get("reason") == "DeadlineExceeded":
        return Death(code, "it had reached max_hours, the longest time its profile allows")
    disruption = _condition(status, "DisruptionTarget")
    if disruption.get("status") == "True":
        return Death(code, _disrupted(status, disruption))
    if pod is None or seen["metadata"].get("deletionTimestamp"):
        return Death(code, "its pod was deleted by somebody else")
    if told is not None:
        return told
    return Death(code, _exit_reason(code, ended, status))


def _out_of_memory(pod: Json, *, whole: bool) -> str:
    limit = _limit(pod, "memory")
    text = f"{OUT_OF_MEMORY}, limit {limit}" if limit else OUT_OF_MEMORY
    # cgroup v2 ends every process of the container at once, the agent that would have told us among them.
    return f"{text}; the whole container was ended, and what it had not sent yet is lost" if whole else text


def _disrupted(status: Json, condition: Json) -> str:
    reason = condition.get("reason", "")
    text = _DISRUPTIONS.get(reason, reason or "disrupted")
    message = condition.get("message") or status.get("message") or ""
    return f"{text}: {message}".rstrip(": .") if message else text


def _exit_reason(code: int | None, ended: Json, status: Json) -> str:
    if code is None:
        return str(status.get("message") or status.get("reason") or "its pod ended")
    if code < 0:
        return named(code).reason
    return f"exit code {code}" + (f" ({ended['message']})" if ended.get("message") else "")


def _last_word(ended: Json) -> Death | None:
    """What the agent wrote of its kernel's end before it went itself, where the cluster shows it."""
    try:
        told = json.loads(ended.get("message") or "null")
        code = int(told["exit_code"])
        return Death(code, OUT_OF_MEMORY) if told["oom"] else named(code)
    except (ValueError, KeyError, TypeError):
        return None


def _exit_code(ended: Json) -> int | None:
    code = ended.get("exitCode")
    if code is None:
        return None
    # As shells say it: 128 and the signal's number.
    return 128 - int(code) if 128 < code <= 128 + 64 else int(code)


def _limit(pod: Json, resource: str) -> str:
    return str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get(resource, ""))


def _terminated(pod: Json) -> Json:
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        if ended := (one.get("state") or {}).get("terminated"):
            return dict(ended)
    return {}


def _waiting(status: Json) -> Json:
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if waiting := (one.get("state") or {}).get("waiting"):
            return dict(waiting)
    return {}


def _condition(status: Json, kind: str) -> Json:
    return next((dict(one) for one in status.get("conditions") or () if one["type"] == kind), {})


def _image_trouble(pod: Json, reason: str, message: str, events: Sequence[Json]) -> str:
    # "Back-off pulling image" is what the kubelet says afterwards; the cause is in the event before it.
    cause = _last(events, "Failed", skip="Error: ") if reason in ("ImagePullBackOff", "ErrImagePull") else ""
    image = pod["spec"]["containers"][0]["image"]
    return f"{reason}: {cause or message or 'no reason given'} (image {image})"


def _last(events: Sequence[Json], *reasons: str, skip: str = "") -> str:
    fitting = [one for one in events if one.get("reason") in reasons]
    if skip:
        fitting = [one for one in fitting if not str(one.get("message", "")).startswith(skip)]
    fitting.sort(key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    return str(fitting[-1].get("message", "")) if fitting else ""
