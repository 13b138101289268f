"""Names asked of a real DNS server on this machine."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from fake_cluster import Cluster, DnsServer
from mcp_server_jupyter.backends.kubernetes.names import Found, Names, cluster_domain

pytestmark = pytest.mark.anyio


def publish(cluster: Cluster, name: str, *ips: str, gen: str = "1") -> None:
    ports = [{"name": "agent", "port": 52322}]
    service: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "lab"},
        "spec": {"selector": {"gen": gen}, "ports": ports},
    }
    cluster.put("services", service)
    for number, ip in enumerate(ips):
        pod = {"metadata": {"name": f"p{number}", "labels": {"gen": gen}}, "status": {"podIP": ip}}
        cluster.put("pods", pod)


@pytest.fixture
async def names(dns_server: DnsServer) -> Names:
    return Names("lab", resolver=dns_server.resolver(), domain="cluster.local")


async def asked(server: DnsServer) -> None:
    """Wait until it has been asked something."""
    with anyio.fail_after(60):
        while not server.queries:  # noqa: ASYNC110  (it does not say so)
            await anyio.sleep(0.001)


async def test_one_query_finds_the_address_of_a_published_pod(
    names: Names, cluster: Cluster, dns_server: DnsServer
) -> None:
    publish(cluster, "svc-a", "10.0.0.7")

    assert await names.find("svc-a", "agent", "10.0.0.7") == Found("10.0.0.7")
    assert dns_server.queries == ["_agent._tcp.svc-a.lab.svc.cluster.local. SRV"]


async def test_targets_without_an_address_are_asked_for(names: Names, cluster: Cluster, dns_server: DnsServer) -> None:
    dns_server.additional = False
    publish(cluster, "svc-a", "10.0.0.7")

    assert await names.find("svc-a", "agent", "10.0.0.7") == Found("10.0.0.7")
    assert dns_server.queries[1:] == ["10-0-0-7.svc-a.lab.svc.cluster.local. A"]


async def test_after_two_misses_the_api_servers_word_counts_and_is_marked(names: Names, dns_server: DnsServer) -> None:
    with anyio.fail_after(60):
        found = await names.find("svc-a", "agent", "10.0.0.7")

    assert (found.address, found.degraded) == ("10.0.0.7", True)
    assert "is not in DNS" in found.reason
    name = "svc-a.lab.svc.cluster.local."
    assert dns_server.queries == [f"_agent._tcp.{name} SRV", f"{name} A"]


async def test_a_name_published_a_moment_late_is_found_past_what_dns_remembers_as_missing(
    names: Names, cluster: Cluster, dns_server: DnsServer
) -> None:
    async with anyio.create_task_group() as tasks:

        async def publish_later() -> None:
            await asked(dns_server)
            publish(cluster, "svc-a", "10.0.0.7")

        tasks.start_soon(publish_later)
        with anyio.fail_after(60):
            assert await names.find("svc-a", "agent", "10.0.0.7") == Found("10.0.0.7")


async def test_a_silent_dns_is_given_up_and_marked(names: Names, dns_server: DnsServer) -> None:
    dns_server.silent = True
    with anyio.fail_after(60):
        found = await names.find("svc-a", "agent", "10.0.0.7")

    assert (found.address, found.degraded) == ("10.0.0.7", True)
    assert "does not answer" in found.reason


async def test_a_name_that_still_points_to_the_pod_before_is_asked_again(
    names: Names, cluster: Cluster, dns_server: DnsServer
) -> None:
    publish(cluster, "svc-a", "10.0.0.6", "10.0.0.7")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_later, cluster, dns_server)
        with anyio.fail_after(60):
            assert await names.find("svc-a", "agent", "10.0.0.7") == Found("10.0.0.7")


async def _later(cluster: Cluster, dns_server: DnsServer) -> None:
    await asked(dns_server)
    del cluster.objects["pods"]["p0"]


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("search lab.svc.example.org svc.example.org example.org\nnameserver 10.96.0.10\n", "example.org"),
        ("nameserver 192.168.0.1\nsearch home.lan\n", "cluster.local"),
        ("", "cluster.local"),
    ],
)
def test_the_clusters_domain_is_read_from_the_search_list(text: str, domain: str) -> None:
    assert cluster_domain(text) == domain
