"""A resolver for one command of the host: the cluster's names from the cluster, all others from where the host asks.

It passes queries and answers on as they are, and reads nothing of them but the name.
"""

from __future__ import annotations

import socket
import socketserver
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from types import TracebackType

from testcluster.config import CLUSTER_DOMAIN, DNS_SERVICE_IP, POD_CIDR, SERVICE_CIDR
from testcluster.dns import question

Server = tuple[str, int]
_SECONDS = 5.0


def _reverse(cidr: str) -> str:
    first, second, *_ = cidr.split(".")
    return f"{second}.{first}.in-addr.arpa"


_CLUSTERS = (CLUSTER_DOMAIN, _reverse(POD_CIDR), _reverse(SERVICE_CIDR))


def resolver_file(hosts: str, address: str) -> str:
    """A resolv.conf that asks ``address``, with the cluster's search domains before the host's."""
    lines = [line.split() for line in hosts.splitlines()]
    search = [domain for line in lines if line[:1] in (["search"], ["domain"]) for domain in line[1:]]
    kept = [" ".join(line) for line in lines if line[:1] == ["options"]]
    domains = " ".join((f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN, *search))
    return "\n".join((f"nameserver {address}", f"search {domains}", *kept)) + "\n"


def nameservers(hosts: str) -> list[Server]:
    """Whom a resolv.conf asks."""
    lines = [line.split() for line in hosts.splitlines()]
    return [(line[1], 53) for line in lines if line[:1] == ["nameserver"] and len(line) > 1]


class Split:
    """Answers at ``address`` as long as it is entered, for as many commands at once as there are."""

    def __init__(self, hosts: str, cluster: Server = (DNS_SERVICE_IP, 53), port: int = 53) -> None:
        self._cluster, self._others, self._port = cluster, nameservers(hosts), port
        self._servers: list[socketserver.BaseServer] = []
        self.address, self.port = "", port

    def __enter__(self) -> Split:
        for last in range(1, 255):
            try:
                self._listen(f"127.53.246.{last}")
            except OSError:  # another command's, or this machine's own
                if last == 254:
                    raise
                continue
            break
        for server in self._servers:
            Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def _listen(self, address: str) -> None:
        datagrams = _Datagrams((address, self._port), _Datagram)
        try:
            streams = _Streams((address, datagrams.server_address[1]), _Stream)
        except OSError:
            datagrams.server_close()
            raise
        datagrams.split = streams.split = self
        self._servers = [datagrams, streams]
        self.address, self.port = address, int(datagrams.server_address[1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def whom(self, query: bytes) -> list[Server]:
        """The servers for a query, the first to be asked first."""
        name = question(query).lower().rstrip(".")
        inside = any(name == domain or name.endswith(f".{domain}") for domain in _CLUSTERS)
        return [self._cluster] if inside else self._others


class _Datagrams(socketserver.ThreadingUDPServer):
    daemon_threads = True
    split: Split


class _Streams(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    split: Split


class _Datagram(socketserver.BaseRequestHandler):
    server: _Datagrams

    def handle(self) -> None:
        query, channel = self.request
        if answer := _first(self.server.split.whom(query), query, _ask_by_datagram):
            with suppress(OSError):  # the command may have ended
                channel.sendto(answer, self.client_address)


class _Stream(socketserver.BaseRequestHandler):
    server: _Streams

    def handle(self) -> None:
        self.request.settimeout(_SECONDS)
        with suppress(OSError):
            query = _message(self.request)
            if answer := _first(self.server.split.whom(query), query, _ask_by_stream):
                self.request.sendall(struct.pack("!H", len(answer)) + answer)


def _first(servers: list[Server], query: bytes, ask: Callable[[Server, bytes], bytes]) -> bytes:
    """The answer of the first server that gives one."""
    for server in servers:
        with suppress(OSError):
            return ask(server, query)
    return b""


def _ask_by_datagram(server: Server, query: bytes) -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_SECONDS)
        channel.connect(server)
        channel.send(query)
        answer = channel.recv(65535)
        while answer[:2] != query[:2]:
            answer = channel.recv(65535)
        return answer


def _ask_by_stream(server: Server, query: bytes) -> bytes:
    with socket.create_connection(server, _SECONDS) as channel:
        channel.sendall(struct.pack("!H", len(query)) + query)
        return _message(channel)


def _message(channel: socket.socket) -> bytes:
    """One message of a stream, which comes after its length."""
    with channel.makefile("rb") as stream:
        head = stream.read(2)
        message = stream.read(struct.unpack("!H", head)[0]) if len(head) == 2 else b""
    if not message:
        raise ConnectionError("the stream ended before a message")
    return message
