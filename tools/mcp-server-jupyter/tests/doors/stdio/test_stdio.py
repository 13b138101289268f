"""The bare command: both protocol eras on one pipe, attached to a running server, gone with its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from http_app import INITIALIZE, META, MODERN, Stdio, notebook, stdio, text_of
from mcp_server_jupyter.doors.stdio.wire import Wire
from mcp_server_jupyter.operations import OPERATIONS
from support import Server, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for every client that does not end it."""
    server = Server(tmp_path_factory.mktemp("server")).start()
    (server.root / "a.ipynb").write_text(notebook("x = 1"))
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def root(server: Server) -> Path:
    (server.root / "started").unlink(missing_ok=True)
    return server.root


def attached(server: Server, *options: str) -> Any:
    return stdio(server.root, server.state, *options)


@pytest.fixture
def client(root: Path, server: Server) -> Iterator[Stdio]:
    with attached(server) as client:
        yield client


def modern(client: Stdio, method: str, **params: Any) -> dict[str, Any]:
    return client.ask(method, {**params, "_meta": META})


# --------------------------------------------------------------------------- eras


def test_a_client_of_the_handshake_era_lists_and_calls(client: Stdio) -> None:
    answer = client.initialize()
    assert answer["result"]["protocolVersion"] == INITIALIZE["protocolVersion"]
    assert {tool["name"] for tool in client.ask("tools/list")["result"]["tools"]} == set(OPERATIONS)
    assert "x = 1" in client.call("read_all_cells", notebook_path="a.ipynb")


def test_a_client_of_the_modern_era_discovers_lists_and_calls(client: Stdio) -> None:
    assert MODERN in modern(client, "server/discover")["result"]["supportedVersions"]
    assert modern(client, "tools/list")["result"]["tools"]
    answer = modern(client, "tools/call", name="read_all_cells", arguments={"notebook_path": "a.ipynb"})
    assert "x = 1" in text_of(answer)


def test_a_client_may_discover_and_then_initialize_on_one_pipe(client: Stdio) -> None:
    for _ in range(2):
        assert MODERN in modern(client, "server/discover")["result"]["supportedVersions"]
    assert client.initialize()["result"]["serverInfo"]["name"] == "mcp-server-jupyter"
    assert client.ask("tools/list")["result"]["tools"]


def test_requests_sent_without_waiting_are_all_answered(client: Stdio) -> None:
    first = client.send("initialize", INITIALIZE)
    client.notify("notifications/initialized")
    rest = [client.send("ping") for _ in range(50)]
    assert "result" in client.receive(first)
    assert all("result" in client.receive(request) for request in rest)


def test_a_line_that_is_no_message_does_not_end_the_server(client: Stdio) -> None:
    client.write(b"this is no JSON\n\n[]\n" + b"[" * 5_000 + b"\n")
    assert "result" in client.initialize()


def test_cancelling_a_call_interrupts_its_cell(client: Stdio, root: Path) -> None:
    client.initialize()
    code = "open('started', 'w').close()\nimport time; time.sleep(60)"
    request = client.send(
        "tools/call", {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}}
    )
    eventually((root / "started").exists)
    client.notify("notifications/cancelled", {"requestId": request})
    assert "still here" in client.call("execute_code", code="print('still here')", notebook_path="a.ipynb")


# --------------------------------------------------------------------------- streams and end


def test_nothing_but_messages_is_ever_on_standard_output(client: Stdio) -> None:
    client.initialize()
    code = "import os; print('printed'); os.write(1, b'stray'); os.system('echo from a child')"
    assert "printed" in client.call("execute_code", code=code, notebook_path="a.ipynb")
    assert all("jsonrpc" in message for message in client.others)


def test_the_server_ends_with_its_client(client: Stdio) -> None:
    client.initialize()
    assert client.close() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(client: Stdio, number: signal.Signals) -> None:
    client.initialize()
    client.process.send_signal(number)
    assert client.process.wait(60) == 0


def test_an_answer_bigger_than_the_pipe_arrives_whole(client: Stdio, root: Path) -> None:
    client.initialize()
    big = json.dumps({"cells": [{"cell_type": "raw", "id": "r", "metadata": {}, "source": "ü" * 2_000_000}],
                      "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # fmt: skip
    (root / "big.ipynb").write_text(big)
    answer = client.ask("resources/read", {"uri": "notebook://big.ipynb"})
    assert "üüü" in json.dumps(answer, ensure_ascii=False)


def test_files_as_standard_streams_work_too(root: Path, tmp_path: Path) -> None:
    from http_app import COMMAND, clean_environment

    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    (tmp_path / "in").write_text(json.dumps(hello) + "\n")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        arguments = [*COMMAND, f"--root={root}", f"--state-dir={tmp_path / 'state'}"]
        ended = subprocess.run(
            arguments,
            stdin=source,
            stdout=sink,
            stderr=subprocess.DEVNULL,
            timeout=60,
            env=clean_environment(),
            check=False,
        )
    assert ended.returncode == 0
    assert json.loads((tmp_path / "out").read_text())["result"]["serverInfo"]["name"] == "mcp-server-jupyter"


async def test_a_wire_gives_lines_however_they_arrive() -> None:
    source, feed = os.pipe()
    drain, sink = os.pipe()
    wire = Wire(source, sink, sink_waits=True)
    for piece in (b"on", b"e\ntwo\n\n  \nth", b"ree\n", b"no newline"):
        os.write(feed, piece)
    os.close(feed)
    got: list[bytes] = []
    with anyio.fail_after(60):
        async for line in wire.lines():
            got.append(line)
    assert got == [b"one", b"two", b"three"]
    for descriptor in (source, sink, drain):
        os.close(descriptor)


async def test_a_wire_waits_for_a_slow_reader_without_mixing_messages() -> None:
    source, feed = os.pipe()
    drain, sink = os.pipe()
    wire = Wire(source, sink, sink_waits=True)
    got = bytearray()

    def read() -> None:
        while b"".join([b"b" * 300_000, b"\n"]) not in got:
            got.extend(os.read(drain, 10_000))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, read)
            tasks.start_soon(wire.send, b"a" * 300_000)
            tasks.start_soon(wire.send, b"b" * 300_000)
    assert bytes(got) == b"a" * 300_000 + b"\n" + b"b" * 300_000 + b"\n"
    for descriptor in (source, feed, sink, drain):
        os.close(descriptor)


# --------------------------------------------------------------------------- attach


def test_clients_of_one_root_share_the_running_servers_kernel(server: Server) -> None:
    with attached(server) as one, attached(server) as two:
        one.initialize()
        two.initialize()
        one.call("execute_code", code="x = 'set by the other'", notebook_path="a.ipynb")
        assert "set by the other" in two.call("execute_code", code="print(x)", notebook_path="a.ipynb")
    kernels = server.call("list_kernels")["data"]["kernels"]
    assert len(kernels) == 1


def test_an_attached_client_may_be_of_either_era(server: Server) -> None:
    with attached(server) as client:
        assert MODERN in modern(client, "server/discover")["result"]["supportedVersions"]
        client.initialize()
        assert client.ask("tools/list")["result"]["tools"]
    with attached(server) as client:
        answer = modern(
            client, "tools/call", name="execute_code", arguments={"code": "print(6*7)", "notebook_path": "a.ipynb"}
        )
        assert "42" in text_of(answer)
        resource = modern(client, "resources/read", uri="notebook://a.ipynb")
        assert "x = 1" in json.dumps(resource)


def test_an_attached_client_hears_progress_while_the_cell_runs(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def hear(message: dict[str, Any]) -> None:
        if message.get("method") == "notifications/progress" and "begun" in message["params"].get("message", ""):
            go.touch()

    with attached(server) as client:
        client.initialize()
        client.on_other = hear
        code = "import os, time\nprint('begun', flush=True)\n"
        code += f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\n'done'"
        params = {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}}
        assert "done" in text_of(client.ask("tools/call", {**params, "_meta": {"progressToken": "p"}}))


@pytest.mark.parametrize("era", ["handshake", "modern"])
def test_an_attached_client_can_cancel(server: Server, root: Path, era: str) -> None:
    with attached(server) as client:
        meta = {"_meta": META} if era == "modern" else {}
        if era == "handshake":
            client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(60)"
        arguments = {"code": code, "notebook_path": "a.ipynb"}
        request = client.send("tools/call", {"name": "execute_code", "arguments": arguments, **meta})
        eventually((root / "started").exists)
        client.notify("notifications/cancelled", {"requestId": request})
        arguments = {"code": "print('free again')", "notebook_path": "a.ipynb"}
        answer = client.ask("tools/call", {"name": "execute_code", "arguments": arguments, **meta})
        assert "free again" in text_of(answer)


@pytest.mark.parametrize("era", ["handshake", "modern"])
def test_the_end_of_a_client_does_not_stop_its_cell(server: Server, root: Path, era: str) -> None:
    with attached(server) as client:
        meta = {"_meta": META} if era == "modern" else {}
        if era == "handshake":
            client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(1)\nopen('finished', 'w').close()"
        arguments = {"code": code, "notebook_path": "a.ipynb"}
        client.send("tools/call", {"name": "execute_code", "arguments": arguments, **meta})
        eventually((root / "started").exists)
    eventually((root / "finished").exists, 60, "the end of the cell")
    (root / "finished").unlink()


def test_errors_of_the_running_server_reach_the_client(server: Server) -> None:
    with attached(server) as client:
        client.initialize()
        assert client.ask("tools/call", {"name": "nope", "arguments": {}})["error"]["code"] == -32602
        client.write(b"no JSON\n")
        assert client.receive(None)["error"]["code"] == -32700
        assert client.ask("nonsense/method")["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("line", "code", "identity"),
    [
        (b"no JSON", -32700, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "p\xff\xfe"}', -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32600, None),
        (b'[{"jsonrpc": "2.0", "id": 7, "method": "ping"}]', -32600, None),
        (b'"text"', -32600, None),
        (b"null", -32600, None),
        (b'{"id": 7, "method": "ping"}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": 7}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": 5}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": [1]}', -32600, 7),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "two\\nlines"}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "\\ud800"}', -32601, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "a\\nb"}}', -32602, 7),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "\\ud800"}}', -32602, 7),
    ],
)
def test_a_malformed_line_is_answered_and_moves_nobody(
    patient: Stdio, line: bytes, code: int, identity: int | None
) -> None:
    patient.write(line + b"\n")
    assert patient.receive(identity)["error"]["code"] == code
    assert "result" in patient.ask("ping")


@pytest.fixture(scope="module")
def patient(server: Server) -> Iterator[Stdio]:
    """One client for everything that must not end it."""
    with attached(server) as client:
        client.initialize()
        yield client


@pytest.mark.parametrize("version", ["2026-07-28\nX: y", "", 7, None, {}, "\ud800"])
def test_an_odd_protocol_version_is_answered(server: Server, version: Any) -> None:
    with attached(server) as client:
        odd = {**META, "io.modelcontextprotocol/protocolVersion": version}
        assert "error" in client.ask("tools/list", {"_meta": odd})
        assert "id" in client.ask("ping")


def test_escaped_surrogates_reach_a_cell_and_come_back(patient: Stdio, server: Server) -> None:
    arguments = {"notebook_path": "surrogates.ipynb"}
    patient.call("create_notebook", **arguments)
    patient.call("insert_cell", cell_index=0, cell_type="raw", cell_source="<\ud800>", **arguments)
    # As its escape: the protocol's JSON could not carry it otherwise (see `doors/mcp/printable`).
    assert "<\\ud800>" in patient.call("read_all_cells", **arguments)
    assert b"<\\ud800>" in (server.root / "surrogates.ipynb").read_bytes()


def test_a_client_that_asks_for_other_kernels_is_told_why_it_is_not_attached(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with stdio(server.root, server.state, "--kernels=memory", log=log) as client:
        assert client.process.wait(60) == 2
    assert "kernels='local', not kernels='memory'" in log.read_text()
    with attached(server) as client:
        client.initialize()
        assert client.ask("ping")["result"] == {}
