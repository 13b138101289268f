"""NetworkPolicy objects become the rules they mean."""

from __future__ import annotations

from typing import Any

import pytest

from testcluster.policy import Pod, matches, pod_from, ruleset

NAMESPACES = {"a": {"team": "red"}, "b": {"team": "blue"}}
WEB = Pod("a", "web", "10.244.0.2", {"app": "web"}, {("http", "TCP"): 8080})
FRIEND = Pod("a", "friend", "10.244.0.3", {"role": "friend"}, {})
FOREIGNER = Pod("b", "foreigner", "10.244.0.4", {"role": "friend"}, {})
PODS = [WEB, FRIEND, FOREIGNER]


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "a"}, "spec": {"podSelector": {}, **spec}}


def chain(name: str, *policies: dict[str, Any]) -> list[str]:
    """The rules of one chain, or nothing where there is no such chain."""
    lines = ruleset(PODS, policies, NAMESPACES).splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(f"  chain {name} ")]
    if not starts:
        return []
    body = lines[starts[0] + 1 :]
    return [line.strip() for line in body[: body.index("  }")]]


def test_without_a_policy_no_pod_is_isolated() -> None:
    text = ruleset(PODS, [], NAMESPACES)
    assert "jump" not in text
    assert "set known { type ipv4_addr; elements = { 10.244.0.2, 10.244.0.3, 10.244.0.4 }; }" in text


def test_an_address_that_is_not_known_is_closed_both_ways() -> None:
    text = ruleset([], [], {})
    assert "ip saddr 10.244.0.0/16 ip saddr != @known counter drop" in text
    assert "ip daddr 10.244.0.0/16 ip daddr != @known counter drop" in text


def test_a_policy_isolates_only_the_pods_it_selects() -> None:
    deny = policy(podSelector={"matchLabels": {"app": "web"}})
    assert chain("ingress-10.244.0.2", deny) == ["counter drop"]
    assert chain("ingress-10.244.0.3", deny) == []
    assert chain("egress-10.244.0.2", deny) == []


def test_a_policy_does_not_reach_into_another_namespace() -> None:
    assert chain("ingress-10.244.0.4", policy()) == []


def test_a_pod_selector_names_peers_of_the_same_namespace_only() -> None:
    admit = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}], "ports": [{"port": 80}]}])
    assert chain("ingress-10.244.0.2", admit) == ["ip saddr { 10.244.0.3 } tcp dport 80 return", "counter drop"]


def test_namespace_and_pod_selectors_together_must_both_match() -> None:
    blue = {"namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"role": "friend"}}}
    assert chain("ingress-10.244.0.2", policy(ingress=[{"from": [blue]}])) == [
        "ip saddr { 10.244.0.4 } return",
        "counter drop",
    ]


def test_an_empty_clause_admits_everyone_and_no_clause_no_one() -> None:
    assert chain("ingress-10.244.0.2", policy(ingress=[{}])) == ["return", "counter drop"]
    assert chain("ingress-10.244.0.2", policy(ingress=[])) == ["counter drop"]


def test_policies_of_one_pod_add_up() -> None:
    first, second = policy(ingress=[{"ports": [{"port": 1}]}]), policy(ingress=[{"ports": [{"port": 2}]}])
    assert chain("ingress-10.244.0.2", first, second) == ["tcp dport 1 return", "tcp dport 2 return", "counter drop"]


def test_egress_takes_ranges_protocols_and_blocks_with_exceptions() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    out = policy(
        policyTypes=["Egress"],
        egress=[{"to": [block], "ports": [{"port": 1000, "endPort": 2000}, {"protocol": "UDP"}]}],
    )
    assert chain("egress-10.244.0.3", out) == [
        "ip daddr 10.0.0.0/8 ip daddr != 10.1.0.0/16 tcp dport 1000-2000 return",
        "ip daddr 10.0.0.0/8 ip daddr != 10.1.0.0/16 meta l4proto udp return",
        "counter drop",
    ]
    assert chain("ingress-10.244.0.3", out) == []


def test_a_named_port_is_the_number_the_receiving_pod_gives_it() -> None:
    named = [{"port": "http"}]
    assert chain("ingress-10.244.0.2", policy(ingress=[{"ports": named}])) == ["tcp dport 8080 return", "counter drop"]
    out = policy(policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}], "ports": named}])
    assert "ip daddr 10.244.0.2 ip daddr 10.244.0.2 tcp dport 8080 return" in chain("egress-10.244.0.3", out)


def test_a_named_port_of_a_sidecar_counts_and_one_of_a_finished_init_container_does_not() -> None:
    def container(port: str, number: int, **more: str) -> dict[str, Any]:
        return {"name": port, "ports": [{"name": port, "containerPort": number}], **more}

    manifest = {
        "metadata": {"name": "web", "namespace": "a", "labels": {"app": "web"}},
        "spec": {
            "initContainers": [container("proxy", 15001, restartPolicy="Always"), container("setup", 9)],
            "containers": [container("http", 8080)],
        },
    }
    pod = pod_from(manifest, "10.244.0.9")
    assert pod.ports == {("proxy", "TCP"): 15001, ("http", "TCP"): 8080}
    admit = policy(podSelector={"matchLabels": {"app": "web"}}, ingress=[{"ports": [{"port": "proxy"}]}])
    assert "tcp dport 15001 return" in ruleset([pod], [admit], NAMESPACES)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"key": "app", "operator": "In", "values": ["web", "db"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, False),
        ({"key": "other", "operator": "NotIn", "values": ["web"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_expressions_select_as_in_kubernetes(expression: dict[str, Any], expected: bool) -> None:
    assert matches({"matchExpressions": [expression]}, {"app": "web"}) is expected
