"""NetworkPolicies are enforced, both ways, from a pod's first packet."""

from __future__ import annotations

from kube import PORT, Namespace, wait_until

FRIEND = {"role": "friend"}
DNS_ONLY = [{"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}]


def _target(namespace: Namespace) -> str:
    namespace.run("target", labels={"app": "target"})
    return namespace.serving("target")


def _admit_friends(namespace: Namespace) -> None:
    namespace.policy(
        "friends-only",
        podSelector={"matchLabels": {"app": "target"}},
        policyTypes=["Ingress"],
        ingress=[{"from": [{"podSelector": {"matchLabels": FRIEND}}], "ports": [{"port": PORT}]}],
    )


def test_without_a_policy_pods_reach_each_other(namespace: Namespace) -> None:
    address = _target(namespace)
    namespace.run("anyone", "connect", address, str(PORT))
    assert namespace.finished("anyone") == (0, "target")


def test_an_admitted_label_connects_with_the_first_thing_a_pod_does(namespace: Namespace) -> None:
    address = _target(namespace)
    _admit_friends(namespace)
    # Less than the second after which TCP would try again: the first packet has to get through.
    namespace.run("friend", "connect", address, str(PORT), "--timeout", "0.9", labels=FRIEND)
    assert namespace.finished("friend") == (0, "target")


def test_a_pod_without_the_label_is_shut_out_from_its_first_packet(namespace: Namespace) -> None:
    address = _target(namespace)
    _admit_friends(namespace)
    namespace.run("stranger", "connect", address, str(PORT))
    code, said = namespace.finished("stranger")
    assert code == 1, said
    assert "serving" in namespace.log("target")


def test_the_other_ports_of_a_guarded_pod_are_shut_for_friends_too(namespace: Namespace) -> None:
    namespace.run("target", "serve", "9000", labels={"app": "target"})
    address = namespace.serving("target")
    _admit_friends(namespace)
    namespace.run("friend", "connect", address, "9000", labels=FRIEND)
    assert namespace.finished("friend")[0] == 1


def test_a_pod_that_gets_the_label_is_admitted_without_a_restart(namespace: Namespace) -> None:
    address = _target(namespace)
    _admit_friends(namespace)
    namespace.run("later")
    assert "Error" in namespace.probe("later", "connect", address, str(PORT), "--timeout", "1")
    namespace.core.patch_namespaced_pod("later", namespace.name, {"metadata": {"labels": FRIEND}})
    wait_until(
        "the label counts",
        lambda: namespace.probe("later", "connect", address, str(PORT), "--timeout", "1") == "target",
        seconds=10,
    )


def test_a_namespace_selector_admits_one_namespace_and_no_other(namespace: Namespace, neighbour: Namespace) -> None:
    address = _target(namespace)
    namespace.policy(
        "own-namespace",
        podSelector={"matchLabels": {"app": "target"}},
        ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}]}],
    )
    namespace.run("inside", "connect", address, str(PORT))
    assert namespace.finished("inside") == (0, "target")
    neighbour.run("foreigner", "connect", address, str(PORT))
    assert neighbour.finished("foreigner")[0] == 1


def test_egress_is_denied_and_dns_still_answers(namespace: Namespace) -> None:
    address = _target(namespace)
    namespace.policy(
        "dns-only",
        podSelector={"matchLabels": {"app": "caged"}},
        policyTypes=["Egress"],
        egress=DNS_ONLY,
    )
    namespace.run("first-packet", "connect", address, str(PORT), labels={"app": "caged"})
    assert namespace.finished("first-packet")[0] == 1
    namespace.run("caged", labels={"app": "caged"})
    assert namespace.lookup("caged", "kubernetes.default.svc.cluster.local", "A").code == "NOERROR"
    assert "Error" in namespace.probe("caged", "connect", address, str(PORT))
    assert "Error" in namespace.probe("caged", "connect", "kubernetes.default.svc.cluster.local", "443")


def test_default_deny_closes_both_directions(namespace: Namespace) -> None:
    address = _target(namespace)
    namespace.policy("nothing", policyTypes=["Ingress", "Egress"])
    namespace.run("shut", "connect", address, str(PORT))
    assert namespace.finished("shut")[0] == 1
