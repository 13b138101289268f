"""The cluster's DNS: headless Services as CoreDNS answers for them, its memory of what is missing included."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from .cluster import Cluster


class DnsServer(asyncio.DatagramProtocol):
    """Answers over UDP from the Services and Pods of a `Cluster`."""

    def __init__(self, cluster: Cluster, domain: str = "cluster.local") -> None:
        self.cluster, self.domain = cluster, domain
        self.negative_seconds = 1
        self.silent = False
        self.additional = True
        """Whether addresses come with SRV answers."""
        self.queries: list[str] = []
        self._missing: dict[tuple[str, int], float] = {}
        self._transport: Any = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[DnsServer]:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        try:
            yield self
        finally:
            self._transport.close()

    def resolver(self) -> dns.asyncresolver.Resolver:
        """One that asks this server."""
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers = ["127.0.0.1"]
        made.port = self._transport.get_extra_info("sockname")[1]
        made.cache = None
        return made

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), question.rdtype
        self.queries.append(f"{name} {dns.rdatatype.to_text(kind)}")
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        if self._missing.get((name, kind), 0) > time.monotonic() or not self._fill(answer, name, kind):
            self._missing.setdefault((name, kind), time.monotonic() + self.negative_seconds)
            answer.set_rcode(dns.rcode.NXDOMAIN)
            soa = f"ns.dns.{self.domain}. hostmaster.{self.domain}. 1 7200 1800 86400 {self.negative_seconds}"
            answer.authority.append(dns.rrset.from_text(f"{self.domain}.", self.negative_seconds, "IN", "SOA", soa))
        else:
            self._missing.pop((name, kind), None)
        self._transport.sendto(answer.to_wire(), address)

    def _fill(self, answer: dns.message.Message, name: str, kind: int) -> bool:
        for service in self.cluster.objects["services"].values():
            base = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.{self.domain}."
            if not name.endswith(base):
                continue
            targets = {f"{ip.replace('.', '-')}.{base}": ip for ip in self._addresses(service)}
            for port in service["spec"]["ports"]:
                if name == f"_{port['name']}._tcp.{base}" and kind == dns.rdatatype.SRV and targets:
                    records = [f"0 100 {port['port']} {target}" for target in targets]
                    answer.answer.append(dns.rrset.from_text(name, 5, "IN", "SRV", *records))
                    for target, ip in targets.items() if self.additional else ():
                        answer.additional.append(dns.rrset.from_text(target, 5, "IN", "A", ip))
                    return True
            found = list(targets.values()) if name == base else [ip for target, ip in targets.items() if name == target]
            if found and kind == dns.rdatatype.A:
                answer.answer.append(dns.rrset.from_text(name, 5, "IN", "A", *found))
                return True
        return False

    def _addresses(self, service: dict[str, Any]) -> list[str]:
        selector = service["spec"]["selector"]
        return [
            pod["status"]["podIP"]
            for pod in self.cluster.objects["pods"].values()
            if selector.items() <= pod["metadata"]["labels"].items() and pod.get("status", {}).get("podIP")
        ]
