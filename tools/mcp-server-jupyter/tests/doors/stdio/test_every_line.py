"""Whatever a client writes is answered, line by line, and neither the relay nor the server behind it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from http_app import Stdio, stdio
from inputs import Inputs, call_of
from support import Server

BATCH = 50


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "--kernels=memory").start()
    yield server
    server.stop()


def lines(inputs: Inputs, first: int) -> Iterator[tuple[int | None, bytes]]:
    """A batch of lines, and the id by which each is answered; None for one that asks for no answer of its own."""
    for number in range(first, first + BATCH):
        message: Any = call_of(inputs) if inputs.often(0.97) else inputs.value()
        asks = isinstance(message, dict) and message.get("id") == 1
        if asks:
            message["id"] = number
        line = inputs.body(message).replace(b"\n", b" ")
        yield number if asks and _is_request(line, number) else None, line


def _is_request(line: bytes, number: int) -> bool:
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("id") == number and isinstance(message.get("method"), str)


def ask(client: Stdio, inputs: Inputs, first: int) -> None:
    """Write a batch at once, and take every answer."""
    batch = list(lines(inputs, first))
    client.write(b"".join(line + b"\n" for _, line in batch))
    for number, line in batch:
        if number is not None:
            answer = client.receive(number, 60)
            assert ("result" in answer) != ("error" in answer), (line, answer)
            assert answer.get("error", {}).get("code") != -32603, (line, answer)
            assert "Traceback" not in str(answer.get("error", "")), (line, answer)
    assert "result" in client.ask("ping")
    for other in client.others:
        assert "method" in other or other["id"] is None or "error" in other or "result" in other
    client.others.clear()


def work(server: Server, tmp_path: Path, seed: int, count: int) -> None:
    log = tmp_path / "relay.log"
    assert server.process is not None
    with stdio(server.root, server.state, log=log) as client:
        client.initialize()
        for first in range(10, 10 + count, BATCH):
            ask(client, Inputs(seed + first), first)
        assert client.process.poll() is None
    assert server.process.poll() is None
    assert "Traceback" not in log.read_text() + server.log.read_text()


def test_a_thousand_lines_are_answered(server: Server, tmp_path: Path) -> None:
    work(server, tmp_path, 1, 1_000)


@pytest.mark.long
def test_fifty_thousand_lines_are_answered(server: Server, tmp_path: Path) -> None:
    work(server, tmp_path, 1_000_000, 50_000)
