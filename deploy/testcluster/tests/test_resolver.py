"""One command's resolver: the cluster's names from the cluster, the others from where the host asks."""

from __future__ import annotations

import socket
import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from testcluster.dns import TYPES, resolve
from testcluster.resolver import Split, nameservers, resolver_file

HOSTS = "# written by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example\noptions timeout:1\n"


def reply(query: bytes, address: str) -> bytes:
    """An answer of one A record to a query of one question."""
    head = query[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0)
    return head + query[12:] + struct.pack("!3HIH", 0xC00C, TYPES["A"], 1, 5, 4) + socket.inet_aton(address)


@contextmanager
def names(address: str) -> Iterator[tuple[str, int]]:
    """A server, by datagram and by stream, that gives this address to every name."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request[1].sendto(reply(self.request[0], address), self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            query = self.rfile.read(struct.unpack("!H", self.rfile.read(2))[0])
            told = reply(query, address)
            self.wfile.write(struct.pack("!H", len(told)) + told)

    here = "127.53.247.1"  # a loopback address of its own: a port that is free by datagram is free by stream
    with (
        socketserver.UDPServer((here, 0), Datagram) as datagrams,
        socketserver.TCPServer(datagrams.server_address, Stream) as streams,
    ):
        threads = [Thread(target=server.serve_forever, args=(0.02,)) for server in (datagrams, streams)]
        for thread in threads:
            thread.start()
        yield here, int(datagrams.server_address[1])
        for server in (datagrams, streams):
            server.shutdown()
        for thread in threads:
            thread.join()


@pytest.fixture
def split() -> Iterator[Split]:
    with names("10.96.0.1") as inside, names("203.0.113.7") as outside:
        made = Split(HOSTS, cluster=inside, port=0)
        made._others = [("127.0.0.1", 9), outside]  # the first of the host's servers is down
        with made:
            yield made


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("kernel.ns.svc.cluster.local", "10.96.0.1"),
        ("KERNEL.ns.svc.Cluster.Local.", "10.96.0.1"),
        ("7.3.244.10.in-addr.arpa", "10.96.0.1"),
        ("pypi.example", "203.0.113.7"),
        ("notcluster.local", "203.0.113.7"),
        ("1.2.0.192.in-addr.arpa", "203.0.113.7"),
    ],
)
def test_a_name_is_asked_of_the_server_that_knows_it(split: Split, name: str, address: str) -> None:
    assert resolve(name, server=split.address, port=split.port).records == [address]


def test_a_long_answer_goes_over_a_stream(split: Split) -> None:
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\4pypi\7example\0" + struct.pack("!2H", TYPES["A"], 1)
    with socket.create_connection((split.address, split.port), timeout=5) as channel:
        channel.sendall(struct.pack("!H", len(query)) + query)
        answer = channel.makefile("rb").read()
    assert answer[2:] == reply(query, "203.0.113.7")


def test_two_commands_at_once_have_a_resolver_each() -> None:
    with Split(HOSTS, port=0) as one, Split(HOSTS, port=one.port) as other:
        assert (one.address != other.address, one.port == other.port) == (True, True)


def test_what_is_no_query_is_sent_to_the_host_and_breaks_nothing(split: Split) -> None:
    assert split.whom(b"\0\0") == split._others
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"nonsense", (split.address, split.port))
    assert resolve("pypi.example", server=split.address, port=split.port).records == ["203.0.113.7"]


def test_the_commands_resolv_conf_keeps_the_hosts_domains_and_options() -> None:
    assert resolver_file(HOSTS, "127.53.246.1").splitlines() == [
        "nameserver 127.53.246.1",
        "search svc.cluster.local cluster.local corp.example",
        "options timeout:1",
    ]
    assert nameservers(HOSTS) == [("192.0.2.1", 53), ("192.0.2.2", 53)]
