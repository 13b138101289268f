"""`doctor kubernetes`: what the cluster lets a server do, asked of the cluster itself, and what to do about the rest.

Deployed, it looks at its own pod and Deployment; on a laptop, at what a server there would have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from ...errors import JupyterMcpError
from ...ports import Finding
from ...settings import Settings
from .api import Api, open_api
from .doctor_pods import try_network
from .extra import require_extra
from .names import RESOLV_CONF, cluster_domain
from .own import Own, look_around
from .refusals import role_rule

Json = dict[str, Any]

SERVER_LABEL = {"app": "mcp-server-manager"}
_DNS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Right:
    """What the server's account needs to do with one kind of object. `why` is for whoever has to grant it."""

    resource: str
    verbs: tuple[str, ...]
    why: str


_KEEP = ("create", "get", "list", "watch", "patch", "delete")
RIGHTS = (
    Right("pods", _KEEP, "kernels are pods"),
    Right("services", _KEEP, "a kernel's name in DNS"),
    Right("secrets", _KEEP, "a kernel's keys"),
    Right("pods/log", ("get",), "the reason why a kernel did not start"),
    Right("configmaps", ("create", "get", "list", "patch", "delete"), "the program that starts a kernel in its pod"),
    Right("events", ("list", "watch"), "what a pod waits for"),
    Right("resourcequotas", ("list",), "how many kernels there is room for"),
    Right("deployments", ("get",), "what kernels belong to"),
    Right("replicasets", ("get",), "what kernels belong to"),
    Right("leases", ("create", "get", "update", "delete"), "one server at a time"),
)
CLAIM_RIGHT = Right("persistentvolumeclaims", ("get",), "whether kernels on other nodes see the notebooks")


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at the cluster, the quick things first; the last one starts two pods and removes them."""
    try:
        require_extra()
        async with open_api(settings) as api:
            async for finding in look(api, settings):
                yield finding
    except JupyterMcpError as error:
        yield Finding(False, error.message, error.hint or "")


async def look(api: Api, settings: Settings) -> AsyncIterator[Finding]:
    """The same with a connection that is there."""
    if await api.allowed("get", "pods") is None:
        yield Finding(
            False,
            f"The API server does not say what the account may do in the namespace {api.namespace}",
            "Let the server's pod reach it: policies.yaml allows TCP 443 and 6443."
            if api.in_cluster
            else "See that this machine reaches it: `kubectl auth can-i --list` must answer.",
        )
        return
    where = "as the pod's own account" if api.in_cluster else "as the kubeconfig says"
    yield Finding(True, f"The API server answers, {where}; namespace {api.namespace}")
    try:
        own = await look_around(api, settings)
        pod = await _own_pod(api, own)
    except JupyterMcpError as error:
        for finding in await _rights(api, RIGHTS):
            yield finding
        yield Finding(False, error.message, error.hint or "")
        return
    for finding in await _rights(api, RIGHTS, claim=own.files.claim if own.files else ""):
        yield finding
    yield await _dns(settings)
    if pod is not None:
        yield _label(pod)
        yield await _singleton(api, own)
    yield _files(own)
    async for finding in try_network(api, settings, own, pod):
        yield finding


async def _own_pod(api: Api, own: Own) -> Json | None:
    """The server's pod; None for a server outside the cluster."""
    return await api.get("pods", own.identity.partition("/")[0]) if api.in_cluster else None


async def _rights(api: Api, rights: Sequence[Right], *, claim: str = "") -> list[Finding]:
    asked = [(right, verb, "") for right in rights for verb in right.verbs]
    if claim:
        asked += [(CLAIM_RIGHT, verb, claim) for verb in CLAIM_RIGHT.verbs]
    missing: dict[Right, list[str]] = {}

    async def ask(right: Right, verb: str, name: str) -> None:
        if not await api.allowed(verb, right.resource, name):
            missing.setdefault(right, []).append(verb)

    async with anyio.create_task_group() as group:
        for one in asked:
            group.start_soon(ask, *one)
    lacking = [
        Finding(
            False,
            f"The account may not {', '.join(sorted(verbs))} {right.resource}: {right.why}",
            "Add to its Role:" + "".join(f"\n        {role_rule(verb, right.resource)}" for verb in sorted(verbs)),
        )
        for right, verbs in missing.items()
    ]
    return lacking or [Finding(True, f"The account may do all that is needed ({len(asked)} verbs)")]


async def _dns(settings: Settings) -> Finding:
    import dns.asyncresolver  # noqa: PLC0415 - part of the extra
    import dns.exception  # noqa: PLC0415

    name = f"kubernetes.default.svc.{cluster_domain(_text(RESOLV_CONF))}."
    try:
        answer = await dns.asyncresolver.resolve(name, "A", search=False, lifetime=_DNS_SECONDS)
    except (dns.exception.DNSException, OSError) as error:
        if settings.kernel_access == "port-forward":
            return Finding(True, f"{name} is not known here; kernels are reached through the API server")
        return Finding(
            False,
            f"{name} cannot be resolved: {type(error).__name__}",
            "In a cluster: see that CoreDNS runs and that the policies let port 53 through. On a laptop: connect it to "
            "the cluster's network (Telepresence or a VPN), or give --kernel-access port-forward.",
        )
    return Finding(True, f"{name} is {', '.join(sorted(record.address for record in answer))}")


def _label(pod: Json) -> Finding:
    ((name, value),) = SERVER_LABEL.items()
    has = (pod["metadata"].get("labels") or {}).get(name)
    return Finding(
        has == value,
        f"The server's pod has the label {name}: {has or '(none)'}",
        "" if has == value else f"Put {name}: {value} into the Deployment's pod template: kernels let no one else in.",
    )


async def _singleton(api: Api, own: Own) -> Finding:
    """One server at a time, and none that waits for a volume the old one still has."""
    deployments = [owner["name"] for owner in own.owners if owner["kind"] == "Deployment"]
    if not deployments:
        return Finding(
            False,
            "The server's pod belongs to no Deployment",
            "Deploy it by deploy/kubernetes: kernels are then removed with it, and only then.",
        )
    spec = (await api.get("deployments", deployments[0]))["spec"]
    replicas, strategy = spec.get("replicas", 1), spec["strategy"]["type"]
    advice = []
    if strategy != "Recreate":
        advice.append("Set strategy: {type: Recreate}, or an upgrade waits for a volume that the old pod holds.")
    if replicas != 1:
        advice.append("Set replicas: 1: a second server only waits for the first one to go.")
    text = f"Deployment {deployments[0]}: strategy {strategy}, {replicas} replica{'' if replicas == 1 else 's'}"
    return Finding(not advice, text, " ".join(advice))


def _files(own: Own) -> Finding:
    """No failure: kernels without the notebooks' folder may be what is wanted."""
    if own.files is None:
        return Finding(True, f"Kernels start in an empty home: {own.no_files}")
    if own.files.node:
        return Finding(
            True,
            f"Kernels see {own.files.path}, and run on the server's node ({own.files.node})",
            f"For kernels on any node, give the claim {own.files.claim} the access mode ReadWriteMany.",
        )
    return Finding(True, f"Kernels on any node see {own.files.path}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
