"""The bare command: both protocol eras on one pipe, attached to a running server, gone with its client."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from http_app import INITIALIZE, META, MODERN, Stdio, notebook, stdio, text_of
from mcp_server_jupyter.doors.stdio.relay import _header_value
from mcp_server_jupyter.doors.stdio.wire import Wire
from mcp_server_jupyter.operations import OPERATIONS
from mcp_server_jupyter.ownership import RunningServer, announced, find_server, own_state_dir
from mcp_server_jupyter.settings import Settings
from support import Server, eventually


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a.ipynb").write_text(notebook("x = 1"))
    return folder


@pytest.fixture
def client(root: Path, tmp_path: Path) -> Iterator[Stdio]:
    with stdio(root, tmp_path / "state") as client:
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
    root = Path(client.process.args[3].removeprefix("--root="))  # type: ignore[index]
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
    started = time.monotonic()
    assert client.close() == 0
    assert time.monotonic() - started < 1


def test_kernels_end_with_the_client(client: Stdio, tmp_path: Path) -> None:
    import psutil

    client.initialize()
    text = client.call("execute_code", code="import os; print('pid', os.getpid())", notebook_path="a.ipynb")
    pid = int(text.partition("pid ")[2].split()[0])
    assert psutil.pid_exists(pid)
    assert client.close() == 0
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(client: Stdio, number: signal.Signals) -> None:
    client.initialize()
    client.process.send_signal(number)
    assert client.process.wait(10) == 0


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
            timeout=30,
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
    with anyio.fail_after(5):
        async for line in wire.lines():
            got.append(line)
            if line == b"two":
                wire.push_back(b"again")
    assert got == [b"one", b"two", b"again", b"three"]
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

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, read)
            tasks.start_soon(wire.send, b"a" * 300_000)
            tasks.start_soon(wire.send, b"b" * 300_000)
    assert bytes(got) == b"a" * 300_000 + b"\n" + b"b" * 300_000 + b"\n"
    for descriptor in (source, feed, sink, drain):
        os.close(descriptor)


# --------------------------------------------------------------------------- attach


def shared(state: Path) -> bool:
    """Whether the server on stdio has opened its door for others."""
    return (state / "server.json").exists()


def test_two_clients_on_stdio_share_one_kernel_which_outlives_the_first(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with stdio(root, state) as first:
        first.initialize()
        first.call("execute_code", code="x = 'set by the first'", notebook_path="a.ipynb")
        eventually(lambda: shared(state))
        with stdio(root, state) as second, stdio(root, state) as third:
            second.initialize()
            third.initialize()
            assert "set by the first" in second.call("execute_code", code="print(x)", notebook_path="a.ipynb")
            first.close()
            assert "set by the first" in second.call("execute_code", code="print(x)", notebook_path="a.ipynb")
            assert "set by the first" in third.call("execute_code", code="print(x)", notebook_path="a.ipynb")


def test_the_last_client_takes_the_kernels_along(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with stdio(root, state) as first:
        first.initialize()
        pid = int(text_of(first.ask("tools/call", {"name": "execute_code", "arguments": PID})).split()[-1])
        eventually(lambda: shared(state))
        with stdio(root, state) as second:
            second.initialize()
            assert str(pid) in second.call("execute_code", code=PID["code"], notebook_path="a.ipynb")
            first.close()
            assert str(pid) in second.call("execute_code", code=PID["code"], notebook_path="a.ipynb")
    eventually(lambda: not Path(f"/proc/{pid}").exists())


PID = {"code": "import os; print(os.getpid())", "notebook_path": "a.ipynb"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path).start()
    (server.root / "a.ipynb").write_text(notebook("x = 1"))
    yield server
    server.stop()


def attached(server: Server) -> Any:
    return stdio(server.root, server.state)


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


def test_an_attached_client_hears_progress(server: Server) -> None:
    with attached(server) as client:
        client.initialize()
        code = "import time\nfor i in range(4):\n    print('step', i, flush=True)\n    time.sleep(0.4)"
        params = {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}}
        assert "step 3" in text_of(client.ask("tools/call", {**params, "_meta": {"progressToken": "p"}}))
    assert any(message.get("method") == "notifications/progress" for message in client.others)


@pytest.mark.parametrize("era", ["handshake", "modern"])
def test_an_attached_client_can_cancel(server: Server, era: str) -> None:
    with attached(server) as client:
        meta = {"_meta": META} if era == "modern" else {}
        if era == "handshake":
            client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(60)"
        arguments = {"code": code, "notebook_path": "a.ipynb"}
        request = client.send("tools/call", {"name": "execute_code", "arguments": arguments, **meta})
        eventually((server.root / "started").exists)
        client.notify("notifications/cancelled", {"requestId": request})
        arguments = {"code": "print('free again')", "notebook_path": "a.ipynb"}
        answer = client.ask("tools/call", {"name": "execute_code", "arguments": arguments, **meta})
        assert "free again" in text_of(answer)


def test_errors_of_the_running_server_reach_the_client(server: Server) -> None:
    with attached(server) as client:
        client.initialize()
        assert client.ask("tools/call", {"name": "nope", "arguments": {}})["error"]["code"] == -32602
        client.write(b"no JSON\n")
        assert client.receive(None)["error"]["code"] == -32700
        assert client.ask("nonsense/method")["error"]["code"] == -32601


def test_when_the_server_stops_the_client_is_served_on(server: Server) -> None:
    with attached(server) as client:
        client.initialize()
        assert "1" in client.call("execute_code", code="print(1)", notebook_path="a.ipynb")
        server.stop()
        assert "fresh" in client.call("execute_code", code="print('fresh')", notebook_path="a.ipynb")
        assert client.ask("tools/list")["result"]["tools"]


def test_a_call_cut_off_by_the_servers_death_is_answered(server: Server) -> None:
    with attached(server) as client:
        client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(5)"
        arguments = {"code": code, "notebook_path": "a.ipynb"}
        request = client.send("tools/call", {"name": "execute_code", "arguments": arguments})
        eventually((server.root / "started").exists)
        server.kill()
        error = client.receive(request)["error"]
        assert "stopped" in error["message"]
        assert "x = 1" in client.call("read_all_cells", notebook_path="a.ipynb")


def test_a_client_of_another_root_is_not_attached(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with stdio(other, server.state) as client:
        client.initialize()
        (other / "b.ipynb").write_text(notebook("y = 2"))
        assert "y = 2" in client.call("read_all_cells", notebook_path="b.ipynb")
        assert (server.state / "instances" / "1" / "server.lock").exists()


@pytest.mark.parametrize("value", ["plain", "with space inside", "ünï", " edge", "=?base64?x?="])
def test_routing_headers_are_written_as_the_sdk_reads_them(value: str) -> None:
    from mcp.shared.inbound import decode_header_value

    assert _header_value(value).isascii()
    assert decode_header_value(_header_value(value)) == value


# --------------------------------------------------------------------------- who owns the state directory


def settings(folder: Path, **options: Any) -> Settings:
    return Settings.load({"root": folder, "state_dir": folder / "state", **options}, environ={})


def test_each_server_has_a_state_directory_of_its_own(tmp_path: Path) -> None:
    base = settings(tmp_path)
    with own_state_dir(base) as one, own_state_dir(base) as two:
        assert one.state_dir == base.state_dir
        assert two.state_dir == base.state_dir / "instances" / "1"
        with own_state_dir(base) as three:
            assert three.state_dir == base.state_dir / "instances" / "2"
    with own_state_dir(base) as again:
        assert again.state_dir == base.state_dir


def test_a_record_without_a_living_owner_is_no_server(tmp_path: Path) -> None:
    base = settings(tmp_path)
    with own_state_dir(base) as owned, announced(owned, "http://127.0.0.1:1/mcp", "t", "1"):
        found = find_server(base)
        assert found == RunningServer(
            "http://127.0.0.1:1/mcp", "t", os.getpid(), str(tmp_path), "1", str(tmp_path / "state")
        )
        record = (owned.state_dir / "server.json").read_text()
    (base.state_dir / "server.json").write_text(record)
    assert find_server(base) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"unknown": true}'])
def test_a_damaged_record_is_no_server(tmp_path: Path, text: str) -> None:
    base = settings(tmp_path)
    with own_state_dir(base) as owned:
        (owned.state_dir / "server.json").write_text(text)
        assert find_server(base) is None


def test_a_look_at_the_lock_does_not_send_a_starting_server_elsewhere(tmp_path: Path) -> None:
    base = settings(tmp_path)
    base.state_dir.mkdir()
    descriptor = os.open(base.state_dir / "server.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(0.002, os.close, (descriptor,)).start()
    with own_state_dir(base) as owned:
        assert owned.state_dir == base.state_dir
