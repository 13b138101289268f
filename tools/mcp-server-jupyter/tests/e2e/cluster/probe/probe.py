"""What the cluster tests ask of a pod: serve, connect, look a name up, call an API, eat memory."""

# ruff: noqa: T201 - a pod's standard output is its answer

import argparse
import json
import secrets
import socket
import ssl
import struct
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TYPES = {"A": 1, "SRV": 33}
CODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def serve(port: int) -> None:
    """Greet everyone who connects with this pod's name, for ever."""
    with socket.create_server(("0.0.0.0", port)) as server:
        print("serving", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(socket.gethostname().encode())


def connect(host: str, port: int, timeout: float) -> int:
    """Print who answers; fail when the connection is not made within the time."""
    started = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout) as channel:
            channel.settimeout(10)
            print(channel.recv(100).decode())
            return 0
    except OSError as error:
        print(f"{type(error).__name__} after {time.monotonic() - started:.1f} s: {error}")
        return 1


def reach(host: str, port: int, timeout: float) -> int:
    """Whether a connection can be made, whoever listens."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print("reached")
    return 0


def lookup(name: str, record: str) -> None:
    """Print one DNS answer as JSON: code, records, additional records."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    server = next(line.split()[1] for line in lines if line.startswith("nameserver"))
    number = secrets.randbelow(1 << 16)
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(3)
        channel.connect((server, 53))
        channel.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", TYPES[record], 1))
        try:
            reply = channel.recv(4096)
        except OSError as error:
            print(json.dumps({"code": type(error).__name__, "records": [], "additional": []}))
            return
    print(json.dumps(parse(reply)))


def parse(reply: bytes) -> dict[str, object]:
    _, flags, questions, *counts = struct.unpack_from("!6H", reply)
    position = 12
    for _ in range(questions):
        position = name_at(reply, position)[1] + 4
    sections: list[list[str]] = []
    for count in counts:
        sections.append([])
        for _ in range(count):
            owner, position = name_at(reply, position)
            kind, _, _, length = struct.unpack_from("!2HIH", reply, position)
            position += 10
            if kind == TYPES["A"]:
                sections[-1].append(f"{owner} {socket.inet_ntoa(reply[position : position + 4])}")
            elif kind == TYPES["SRV"]:
                port = struct.unpack_from("!3H", reply, position)[2]
                sections[-1].append(f"{port} {name_at(reply, position + 6)[0]}")
            position += length
    return {"code": CODES.get(flags & 15, str(flags & 15)), "records": sections[0], "additional": sections[2]}


def name_at(reply: bytes, position: int) -> tuple[str, int]:
    labels: list[str] = []
    after = 0
    while length := reply[position]:
        if length & 0xC0:
            after = after or position + 2
            position = struct.unpack_from("!H", reply, position)[0] & 0x3FFF
        else:
            labels.append(reply[position + 1 : position + 1 + length].decode())
            position += 1 + length
    return ".".join(labels), after or position + 1


def call_api(method: str, path: str) -> None:
    """Print the status the API server answers this pod's service account with."""
    token = (ACCOUNT / "token").read_text()
    request = urllib.request.Request(f"https://kubernetes.default.svc{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as response:
            print(response.status)
    except urllib.error.HTTPError as error:
        print(error.code)


def call_http(method: str, url: str, body: str, headers: list[str], timeout: float) -> dict[str, object]:
    """A request's status and body; 0 and the reason where there was no answer."""
    request = urllib.request.Request(url, method=method, data=body.encode() if body else None)
    for header in headers:
        name, _, value = header.partition(": ")
        request.add_header(name, value)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return {"status": response.status, "body": response.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}
    except OSError as error:
        return {"status": 0, "body": f"{type(error).__name__}: {error}"}


def repeat_http(seconds: float, *request: object) -> None:
    """Make the same request every half second, and print each answer with its time as it comes."""
    started = time.monotonic()
    while (at := time.monotonic() - started) < seconds:
        answer = call_http(*request)  # type: ignore[arg-type]
        took = time.monotonic() - started - at
        print(json.dumps({"at": round(at, 3), "took": round(took, 3), **answer}), flush=True)
        time.sleep(max(0.5 - took, 0))


def eat(mebibytes: int) -> None:
    """Hold that much memory, then say so."""
    held = [bytearray(b"x" * (1 << 20)) for _ in range(mebibytes)]
    print(f"holding {len(held)} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("port", type=int)
    for name in ("connect", "reach"):
        place = commands.add_parser(name)
        place.add_argument("host")
        place.add_argument("port", type=int)
        place.add_argument("--timeout", type=float, default=3)
    ask = commands.add_parser("lookup")
    ask.add_argument("name")
    ask.add_argument("record", choices=sorted(TYPES))
    api = commands.add_parser("api")
    api.add_argument("method")
    api.add_argument("path")
    for name in ("http", "repeat"):
        web = commands.add_parser(name)
        web.add_argument("method")
        web.add_argument("url")
        web.add_argument("--body", default="")
        web.add_argument("--header", action="append", default=[])
        web.add_argument("--timeout", type=float, default=60)
        if name == "repeat":
            web.add_argument("--seconds", type=float, required=True)
    commands.add_parser("eat").add_argument("mebibytes", type=int)
    arguments = parser.parse_args()
    match arguments.command:
        case "serve":
            serve(arguments.port)
        case "connect":
            return connect(arguments.host, arguments.port, arguments.timeout)
        case "reach":
            return reach(arguments.host, arguments.port, arguments.timeout)
        case "lookup":
            lookup(arguments.name, arguments.record)
        case "api":
            call_api(arguments.method, arguments.path)
        case "http" | "repeat":
            told = (arguments.method, arguments.url, arguments.body, arguments.header, arguments.timeout)
            if arguments.command == "repeat":
                repeat_http(arguments.seconds, *told)
            else:
                print(json.dumps(call_http(*told)))
        case "eat":
            eat(arguments.mebibytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
