"""Ask the cluster's DNS from the host: just enough of the protocol for A and SRV."""

from __future__ import annotations

import secrets
import socket
import struct
from dataclasses import dataclass, field

from testcluster.config import DNS_SERVICE_IP

TYPES = {"A": 1, "SRV": 33}
CODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}


@dataclass(frozen=True)
class Answer:
    """A reply: its code, the records asked for, and the addresses sent along."""

    code: str
    records: list[str] = field(default_factory=list)
    additional: list[str] = field(default_factory=list)


def resolve(name: str, record: str = "A", server: str = DNS_SERVICE_IP, timeout: float = 2, port: int = 53) -> Answer:
    """One query, one answer; raises OSError when no reply comes."""
    number = secrets.randbelow(1 << 16)
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".")) + b"\0"
    query = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", TYPES[record], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(timeout)
        channel.connect((server, port))
        channel.send(query)
        reply = channel.recv(4096)
        while struct.unpack_from("!H", reply)[0] != number:
            reply = channel.recv(4096)
    return _parse(reply, TYPES[record])


def question(query: bytes) -> str:
    """The name a query asks for; nothing where it is no query."""
    try:
        return _name(query, 12)[0]
    except (IndexError, UnicodeDecodeError, ValueError, struct.error):
        return ""


def _parse(reply: bytes, wanted: int) -> Answer:
    _, flags, questions, answers, authorities, extras = struct.unpack_from("!6H", reply)
    position = 12
    for _ in range(questions):
        _, position = _name(reply, position)
        position += 4
    sections: list[list[str]] = [[], [], []]
    for section, count in enumerate((answers, authorities, extras)):
        for _ in range(count):
            owner, position = _name(reply, position)
            kind, _, _, length = struct.unpack_from("!2HIH", reply, position)
            position += 10
            if kind == TYPES["A"]:
                address = socket.inet_ntoa(reply[position : position + 4])
                sections[section].append(address if wanted == kind else f"{owner} {address}")
            elif kind == TYPES["SRV"]:
                priority, weight, port = struct.unpack_from("!3H", reply, position)
                target, _ = _name(reply, position + 6)
                sections[section].append(f"{priority} {weight} {port} {target}")
            position += length
    return Answer(CODES.get(flags & 15, str(flags & 15)), sections[0], sections[2])


def _name(reply: bytes, position: int) -> tuple[str, int]:
    labels: list[str] = []
    after = -1
    for _ in range(128):
        length = reply[position]
        if length & 0xC0 == 0xC0:
            after = position + 2 if after < 0 else after
            position = struct.unpack_from("!H", reply, position)[0] & 0x3FFF
        elif length:
            labels.append(reply[position + 1 : position + 1 + length].decode())
            position += 1 + length
        else:
            return ".".join(labels) + ".", (position + 1 if after < 0 else after)
    raise ValueError("a name in the reply refers to itself")
