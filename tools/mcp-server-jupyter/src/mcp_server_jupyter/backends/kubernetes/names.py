"""Where a kernel's headless Service points to, asked of the cluster's DNS.

ZMQ is given addresses only: libzmq resolves names in its I/O thread, where one dead name stalls every kernel.
The API server is asked first (`pods`): a name that is asked for before its pod has an address is remembered by the
cluster's DNS as missing for seconds. Source: "Kubernetes DNS-Based Service Discovery" 1.1.0, 2.4 (headless services).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.message
    import dns.name

RESOLV_CONF = Path("/etc/resolv.conf")
_DOMAIN = "cluster.local"
_QUERY_SECONDS = 1.0
_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Found:
    """An address, and whether it is only the API server's word because DNS did not answer."""

    address: str
    degraded: bool = False
    reason: str = ""


class Names:
    """The names of one namespace's services.

    Args:
        resolver: whom to ask; None, the servers of /etc/resolv.conf.
        domain: of the cluster; empty, as the search list of /etc/resolv.conf says, else cluster.local.
    """

    def __init__(self, namespace: str, *, resolver: dns.asyncresolver.Resolver | None = None, domain: str = "") -> None:
        self.domain = domain or cluster_domain(_read(RESOLV_CONF))
        self._namespace = namespace
        self._resolver = resolver

    def fqdn(self, service: str) -> str:
        """The absolute name of a service: with its dot at the end no search list is tried."""
        return f"{service}.{self._namespace}.svc.{self.domain}."

    async def find(self, service: str, port_name: str, pod_ip: str) -> Found:
        """The address behind a service, once it is that of the pod the API server speaks of.

        Args:
            port_name: of the service's ports, asked for by SRV.
            pod_ip: what the API server said; the answer after two misses, or while the name still points elsewhere.
        """
        reason = ""
        # What DNS has said to be missing it says again for seconds: the second question is another one.
        for by_port in (True, False):
            if reason:
                await anyio.sleep(_PAUSE)
            try:
                if by_port:
                    addresses = await self._by_port(service, port_name)
                else:
                    addresses = await self._by_name(self.fqdn(service))
            except _Miss as error:
                reason = str(error)
            else:
                if addresses == {pod_ip}:
                    return Found(pod_ip)
                # The pod before this one is still published, alone or with it.
                reason = f"{service} still points to {', '.join(sorted(addresses))}"
        return Found(pod_ip, degraded=True, reason=reason)

    async def _by_port(self, service: str, port_name: str) -> set[str]:
        """Every address: SRV, its targets from the additional section, those that are not there by A."""
        import dns.rdatatype  # noqa: PLC0415 - part of the extra

        answer = await self._query(f"_{port_name}._tcp.{self.fqdn(service)}", dns.rdatatype.SRV)
        targets = {
            str(record.target) for rrset in answer.answer for record in rrset if rrset.rdtype == dns.rdatatype.SRV
        }
        found: dict[str, set[str]] = {}
        for rrset in answer.additional:
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                found.setdefault(str(rrset.name), set()).update(record.address for record in rrset)
        for target in targets - set(found):
            found[target] = await self._by_name(target)
        return set().union(*(found[target] for target in targets)) if targets else set()

    async def _by_name(self, name: str) -> set[str]:
        import dns.rdatatype  # noqa: PLC0415 - part of the extra

        answer = await self._query(name, dns.rdatatype.A)
        return {record.address for rrset in answer.answer for record in rrset if rrset.rdtype == dns.rdatatype.A}

    async def _query(self, name: str, kind: dns.rdatatype.RdataType) -> dns.message.Message:
        import dns.asyncresolver  # noqa: PLC0415 - part of the extra
        import dns.exception  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        if self._resolver is None:
            self._resolver = dns.asyncresolver.Resolver()
            # A kernel's address changes with its pod: nothing here may be older than the answer.
            self._resolver.cache = None
        try:
            answer = await self._resolver.resolve(name, kind, search=False, lifetime=_QUERY_SECONDS)
        except dns.resolver.NXDOMAIN as error:
            raise _Miss(f"{name} is not in DNS") from error
        except dns.resolver.NoAnswer as error:
            raise _Miss(f"{name} has no such record") from error
        except (dns.exception.DNSException, OSError) as error:
            raise _Miss(f"DNS does not answer ({type(error).__name__})") from error
        return answer.response


class _Miss(Exception):
    """DNS does not know."""


def cluster_domain(resolv_conf: str) -> str:
    """The cluster's domain from a pod's resolv.conf, whose search list holds `svc.DOMAIN`."""
    for line in resolv_conf.splitlines():
        words = line.split()
        if words and words[0] == "search":
            for word in words[1:]:
                if word.startswith("svc."):
                    return word.removeprefix("svc.").rstrip(".")
    return _DOMAIN


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


async def reaches(address: str, port: int, seconds: float) -> bool:
    """Whether something accepts connections there within so many seconds."""
    with anyio.move_on_after(seconds):
        while True:
            try:
                with anyio.fail_after(2):
                    _, writer = await asyncio.open_connection(address, port)
            except (OSError, TimeoutError):
                await anyio.sleep(0.02)
                continue
            writer.close()
            return True
    return False
