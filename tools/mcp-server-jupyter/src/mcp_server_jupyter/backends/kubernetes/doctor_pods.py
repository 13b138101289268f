"""Whether the network policies hold: a pod labelled as a kernel, which the server reaches and a stranger does not."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ...errors import JupyterMcpError
from ...ports import Finding
from ...settings import Settings
from .api import Api
from .host import AGENT_PORT
from .names import reaches
from .objects import ROLE_LABEL, labels
from .own import Own

Json = dict[str, Any]

_START_SECONDS = 120.0
REACH_SECONDS = 5.0
_LISTEN = f"import socket; s = socket.create_server(('', {AGENT_PORT})); [s.accept()[0].close() for _ in iter(int, 1)]"
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
except OSError:
    sys.exit(7)
"""
SHUT_OUT = 7
_SLOW = "See `kubectl describe pod` of a kernel; its image must have python3 and be there for every node."


async def try_network(api: Api, settings: Settings, own: Own, pod: Json | None) -> AsyncIterator[Finding]:
    """Start two pods of the server's own image (outside the cluster: the kernel image) and remove them."""
    image = pod["spec"]["containers"][0]["image"] if pod is not None else settings.kernel_image
    name = f"jupyter-doctor-{secrets.token_hex(3)}"
    try:
        # An instance of its own: no server takes this pod for a kernel that it has lost.
        listening = _pod(name, image, own, {**labels("doctor"), ROLE_LABEL: "kernel"}, _LISTEN)
        async with _running(api, listening) as target:
            address = target["status"]["podIP"]
            yield await _own_way(settings, address)
            stranger = _pod(f"{name}-stranger", image, own, {}, _CONNECT, address, str(AGENT_PORT))
            async with _running(api, stranger) as tried:
                yield await _strangers_way(api, tried)
    except JupyterMcpError as error:
        yield Finding(False, f"The network policies were not tried: {error.message}", error.hint or _SLOW)
    except TimeoutError:
        yield Finding(
            False, f"The network policies were not tried: {name} did not start in {_START_SECONDS:.0f} s", _SLOW
        )


async def _own_way(settings: Settings, address: str) -> Finding:
    if settings.kernel_access == "port-forward":
        return Finding(True, "Kernels are reached through the API server, not at their own address")
    if await reaches(address, AGENT_PORT, REACH_SECONDS):
        return Finding(True, f"A kernel's port {AGENT_PORT} can be reached from here")
    return Finding(
        False,
        f"A kernel's port {AGENT_PORT} cannot be reached from here",
        "In a cluster: the pod template needs the label app: mcp-server-manager, and policies.yaml must be applied. On "
        "a laptop: connect it to the pods' network and apply overlays/telepresence-dev, or give --kernel-access "
        "port-forward.",
    )


async def _strangers_way(api: Api, pod: Json) -> Finding:
    name = pod["metadata"]["name"]
    with anyio.fail_after(_START_SECONDS):
        while (ended := _terminated(pod)) is None:
            await anyio.sleep(0.2)
            pod = await api.get("pods", name)
    if ended["exitCode"] == 0:
        return Finding(
            False,
            f"A pod without the server's label reached a kernel's port {AGENT_PORT}",
            "Apply deploy/kubernetes/base/policies.yaml; if it is applied, the cluster's network plugin enforces no "
            "NetworkPolicy. Kernels are still encrypted and want a key.",
        )
    if ended["exitCode"] != SHUT_OUT:
        why = ended.get("message") or ended.get("reason") or ""
        return Finding(
            False, f"The pod {name} could not try to reach a kernel: exit code {ended['exitCode']} {why}", _SLOW
        )
    return Finding(True, "A pod without the server's label reaches no kernel")


@asynccontextmanager
async def _running(api: Api, manifest: Json) -> AsyncIterator[Json]:
    """The pod once it has an address and its container has started; it is removed at the end.

    Raises:
        TimeoutError
    """
    name = manifest["metadata"]["name"]
    pod = await api.create("pods", manifest)
    try:
        with anyio.fail_after(_START_SECONDS):
            while not (pod.get("status", {}).get("podIP") and _started(pod)):
                await anyio.sleep(0.2)
                pod = await api.get("pods", name)
        yield pod
    finally:
        with anyio.CancelScope(shield=True):
            await api.delete("pods", name, grace_seconds=0)


def _started(pod: Json) -> bool:
    states = [one["state"] for one in pod["status"].get("containerStatuses") or ()]
    return bool(states) and all("waiting" not in state for state in states)


def _terminated(pod: Json) -> Json | None:
    for one in pod["status"].get("containerStatuses") or ():
        ended: Json | None = one["state"].get("terminated")
        return ended
    return None


def _pod(name: str, image: str, own: Own, given: Json, code: str, *arguments: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": given, "ownerReferences": own.owners},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            # Should nobody be left to remove it.
            "activeDeadlineSeconds": 300,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": one} for one in own.image_pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "doctor",
                    "image": image,
                    "command": ["python3", "-c", code, *arguments],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "32Mi"},
                        "limits": {"cpu": "500m", "memory": "64Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                }
            ],
        },
    }
