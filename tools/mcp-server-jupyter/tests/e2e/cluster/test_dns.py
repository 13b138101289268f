"""Names: headless services as a pod and as the host see them."""

from __future__ import annotations

from control import Control
from kube import PORT, Namespace, api, pod_manifest, wait_until
from kubernetes import client


def _two_pods(namespace: Namespace) -> set[str]:
    """A Deployment of two pods behind the headless service ``pair``; the pods' addresses."""
    labels = {"app": "pair"}
    pod = pod_manifest("unused", labels=labels)
    pod["spec"]["restartPolicy"] = "Always"
    namespace.apps.create_namespaced_deployment(
        namespace.name,
        {
            "metadata": {"name": "pair"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod["spec"]},
            },
        },
    )
    namespace.headless("pair", labels)
    names = wait_until("two pods", lambda: _if_two(namespace.pod_names("app=pair")))
    for name in names:
        namespace.started(name)
    return {namespace.address(name) for name in names}


def _if_two(names: list[str]) -> list[str]:
    return names if len(names) == 2 else []


def test_a_pod_resolves_a_headless_service_to_both_pods(namespace: Namespace) -> None:
    addresses = _two_pods(namespace)
    namespace.run("asking")
    domain = namespace.domain("pair")

    def answers() -> bool:
        told = namespace.lookup("asking", domain, "A")
        return {record.split()[1] for record in told.records} == addresses

    wait_until("both addresses in the A records", answers, seconds=30)
    told = namespace.lookup("asking", f"_greet._tcp.{domain}", "SRV")
    assert len(told.records) == 2
    assert all(record.startswith(f"{PORT} ") and record.endswith(domain) for record in told.records)
    assert {record.split()[1] for record in told.additional} == addresses
    targets = {record.split()[1] for record in told.records}
    assert targets == {record.split()[0] for record in told.additional}


def test_the_host_resolves_a_headless_service_and_reaches_its_pods(namespace: Namespace, control: Control) -> None:
    addresses = _two_pods(namespace)
    domain = namespace.domain("pair")
    wait_until("both SRV records", lambda: len(_services(control, f"_greet._tcp.{domain}")) == 2, seconds=30)
    assert set(control.addresses(domain)) == addresses
    for record in control.services(f"_greet._tcp.{domain}"):
        port, target = record.split()
        assert (port, control.addresses(target)[0] in addresses) == (str(PORT), True)
    for name in namespace.pod_names("app=pair"):
        namespace.serving(name)
        assert control.greeting(namespace.address(name), PORT) == name


def _services(control: Control, name: str) -> list[str]:
    try:
        return control.services(name)
    except AssertionError:
        return []


def test_a_replaced_pod_keeps_its_name_and_gets_a_new_address(namespace: Namespace) -> None:
    namespace.headless("kernel", {"app": "kernel"})
    placed = {"labels": {"app": "kernel"}, "hostname": "one", "subdomain": "kernel"}
    namespace.run("asking")
    domain = f"one.{namespace.domain('kernel')}"
    seen = []
    for generation in ("kernel-g1", "kernel-g2"):
        namespace.run(generation, **placed)
        address = namespace.serving(generation)
        wait_until(
            f"{domain} is {address}",
            lambda expected=address: namespace.lookup("asking", domain, "A").records == (f"{domain} {expected}",),
            seconds=30,
        )
        assert namespace.probe("asking", "connect", domain, str(PORT)) == "one"
        seen.append(address)
        namespace.delete(generation)
    assert seen[0] != seen[1]


def test_dns_stops_and_returns_with_its_pods(namespace: Namespace, control: Control) -> None:
    namespace.run("asking")
    name = "kubernetes.default.svc.cluster.local"
    assert namespace.lookup("asking", name, "A").code == "NOERROR"
    before = client.AppsV1Api(api()).read_namespaced_deployment_scale("coredns", "kube-system").spec.replicas
    try:
        control.scale_dns(0)
        wait_until("no answer", lambda: namespace.lookup("asking", name, "A").code not in ("NOERROR", "NXDOMAIN"))
    finally:
        control.scale_dns(before)
    wait_until("answers again", lambda: namespace.lookup("asking", name, "A").code == "NOERROR")
