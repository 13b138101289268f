"""NetworkPolicies as nftables rules: pure functions from objects to text.

Every pod address that is known has a verdict per direction; an address that is
not known yet is closed both ways. A pod no policy selects is open. A selected
pod jumps to a chain that returns for what is admitted and drops the rest, so a
packet passes only if the sender's egress and the receiver's ingress both let it.
Traffic the node itself sends to a pod is always let in, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from testcluster.config import POD_CIDR

TABLE = "testcluster-policy"
Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod with an address, as far as policies look at it."""

    namespace: str
    name: str
    address: str
    labels: Mapping[str, str]
    ports: Mapping[tuple[str, str], int]  # (name, protocol) -> number


def pod_from(manifest: Object, address: str) -> Pod:
    """What of a pod's manifest matters here."""
    spec = manifest["spec"]
    # An init container that is always started again is a sidecar: it listens as long as the pod lives.
    sidecars = [one for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]
    ports = {
        (port["name"], port.get("protocol", "TCP")): int(port["containerPort"])
        for container in [*sidecars, *spec.get("containers", [])]
        for port in container.get("ports", [])
        if "name" in port
    }
    metadata = manifest["metadata"]
    return Pod(metadata["namespace"], metadata["name"], address, metadata.get("labels", {}), ports)


def ruleset(pods: Iterable[Pod], policies: Iterable[Object], namespaces: Mapping[str, Mapping[str, str]]) -> str:
    """The whole table, replacing the one before it in one transaction."""
    pods, policies = sorted(pods, key=lambda pod: pod.address), list(policies)
    chains: list[str] = []
    verdicts: dict[str, list[str]] = {"ingress": [], "egress": []}
    for pod in pods:
        for direction in ("ingress", "egress"):
            selecting = [p for p in policies if _selects(p, pod, direction)]
            if not selecting:
                continue
            chain = f"{direction}-{pod.address}"
            rules = [
                rule
                for policy in selecting
                for clause in policy["spec"].get(direction) or []
                for rule in _rules(clause, direction, pod, policy["metadata"]["namespace"], pods, namespaces)
            ]
            chains.append(_chain(chain, [*dict.fromkeys(rules), "counter drop"], f"{pod.namespace}/{pod.name}"))
            verdicts[direction].append(f"{pod.address} : jump {chain}")
    lines = [
        f"table inet {TABLE} {{}}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        _set("known", "ipv4_addr", [pod.address for pod in pods]),
        *chains,
        _map("ingress", verdicts["ingress"]),
        _map("egress", verdicts["egress"]),
        *_BASE_CHAINS,
        "}",
    ]
    return "\n".join(lines) + "\n"


_OUTGOING = [
    "ct state established,related accept",
    f"ip saddr {POD_CIDR} ip saddr != @known counter drop",
    "ip saddr vmap @egress",
]
_BASE_CHAINS = [
    "\n".join(
        [
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            *(f"    {rule}" for rule in _OUTGOING),
            f"    ip daddr {POD_CIDR} ip daddr != @known counter drop",
            "    ip daddr vmap @ingress",
            "  }",
            "  chain input {",
            "    type filter hook input priority filter; policy accept;",
            *(f"    {rule}" for rule in _OUTGOING),
            "  }",
        ]
    )
]


def _selects(policy: Object, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    if policy["metadata"]["namespace"] != pod.namespace:
        return False
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    return direction.capitalize() in types and matches(spec.get("podSelector"), pod.labels)


def matches(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a label selector; an empty selector takes all."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_satisfies(expression, labels) for expression in selector.get("matchExpressions") or [])


def _satisfies(expression: Object, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:  # DoesNotExist
            return key not in labels


def _rules(
    clause: Object,
    direction: str,
    pod: Pod,
    namespace: str,
    pods: list[Pod],
    namespaces: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """The rules one ingress or egress clause adds to a pod's chain."""
    far = "saddr" if direction == "ingress" else "daddr"
    peers = clause.get("from" if direction == "ingress" else "to")
    rules: list[str] = []
    if not peers:
        reached = [p for p in pods if p is pod] if direction == "ingress" else pods
        rules += [f"{port} return" for port in _ports(clause, reached if _named(clause) else None, direction)]
        return rules
    for peer in peers:
        if block := peer.get("ipBlock"):
            excluded = "".join(f" ip {far} != {cidr}" for cidr in block.get("except") or [])
            family = "ip6" if ":" in block["cidr"] else "ip"
            if family == "ip":
                subject = f"ip {far} {block['cidr']}{excluded}"
                reached = [pod] if direction == "ingress" else []
                rules += [f"{subject} {port} return" for port in _ports(clause, reached, direction)]
            continue
        chosen = [p for p in pods if _is_peer(peer, p, namespace, namespaces)]
        if not chosen:
            continue
        if direction == "egress" and _named(clause):
            for target in chosen:
                rules += [f"ip {far} {target.address} {port} return" for port in _ports(clause, [target], direction)]
            continue
        addresses = ", ".join(p.address for p in chosen)
        rules += [f"ip {far} {{ {addresses} }} {port} return" for port in _ports(clause, [pod], direction)]
    return rules


def _is_peer(peer: Object, pod: Pod, namespace: str, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], namespaces.get(pod.namespace, {})):
            return False
    elif pod.namespace != namespace:
        return False
    return matches(peer.get("podSelector"), pod.labels)


def _named(clause: Object) -> bool:
    return any(isinstance(port.get("port"), str) for port in clause.get("ports") or [])


def _ports(clause: Object, targets: list[Pod] | None, direction: str) -> list[str]:
    """Port conditions of a clause; names are looked up on the pods they are reached at."""
    if not clause.get("ports"):
        return [""]
    conditions: list[str] = []
    for port in clause["ports"]:
        protocol, number = port.get("protocol", "TCP"), port.get("port")
        if number is None:
            conditions.append(f"meta l4proto {protocol.lower()}")
        elif isinstance(number, str):
            for target in targets or []:
                if (number, protocol) in target.ports:
                    guard = f"ip daddr {target.address} " if direction == "egress" else ""
                    conditions.append(f"{guard}{protocol.lower()} dport {target.ports[number, protocol]}")
        else:
            last = f"-{port['endPort']}" if port.get("endPort") else ""
            conditions.append(f"{protocol.lower()} dport {number}{last}")
    return conditions


def _chain(name: str, rules: list[str], comment: str) -> str:
    body = "\n".join(f"    {' '.join(rule.split())}" for rule in rules)
    return f"  chain {name} {{ # {comment}\n{body}\n  }}"


def _set(name: str, kind: str, elements: list[str]) -> str:
    listed = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"  set {name} {{ type {kind};{listed} }}"


def _map(name: str, elements: list[str]) -> str:
    listed = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"  map {name} {{ type ipv4_addr : verdict;{listed} }}"
