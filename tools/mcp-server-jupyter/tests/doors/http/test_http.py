"""The HTTP doors: MCP of both eras, plain calls, REST, health, metrics, events, and an orderly end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from http_app import BASE, INITIALIZE, META, MODERN, TOKEN, App, notebook, open_app
from mcp_server_jupyter import __version__
from mcp_server_jupyter.doors.http import events as event_log
from mcp_server_jupyter.doors.http.events import EventLog
from mcp_server_jupyter.events import Event, Events
from mcp_server_jupyter.operations import OPERATIONS
from support import Server, eventually

JSON = {"content-type": "application/json"}
BOTH = {**JSON, "accept": "application/json, text/event-stream"}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path) as app:
        (app.services.settings.root / "a.ipynb").write_text(notebook("x = 1", "print(x + 1)"))
        yield app


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx2.AsyncClient]:
    async with app.client() as client:
        yield client


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


# --------------------------------------------------------------------------- health


async def test_health_names_the_service_and_its_version(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/health")).json()
    assert answer == {"status": "ok", "service": "mcp-server-jupyter", "version": __version__, "api": 1}


async def test_healthz_tells_how_the_kernels_are(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/healthz")).json() == {"status": "healthy", "kernel_status": "none"}
    call = {"code": "1", "notebook_path": "a.ipynb"}
    # A kernel may take longer to start than a call waits for it.
    while (await client.post("/api/operations/execute_code", json=call)).status_code == 503:
        pass
    assert (await client.get("/api/healthz")).json() == {"status": "healthy", "kernel_status": "idle"}


@pytest.mark.parametrize(("where", "reason"), [("temporary", "TMPDIR"), ("state", "--state-dir")])
async def test_readyz_says_why_no_work_can_be_done(
    client: httpx2.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch, where: str, reason: str
) -> None:
    assert (await client.get("/api/readyz")).status_code == 200
    state = app.services.journal.path.parent
    real = tempfile.TemporaryFile

    def full(dir: Path | None = None) -> Any:
        if dir == (state if where == "state" else None):
            raise OSError(28, "No space left on device")
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    answer = await client.get("/api/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    (said,) = answer.json()["reasons"]
    assert reason in said
    assert str(state) not in said


async def test_a_server_that_stops_is_not_ready(client: httpx2.AsyncClient, app: App) -> None:
    app.app.state.stopping = True
    answer = await client.get("/api/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["The server is stopping."])


# --------------------------------------------------------------------------- plain calls


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/"])
async def test_a_single_call_with_nothing_but_a_content_type_is_answered_as_json(
    client: httpx2.AsyncClient, path: str
) -> None:
    body = json.dumps(call("execute_code", code="print(40 + 2)", notebook_path="a.ipynb"))
    answer = await client.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert "42" in answer.json()["result"]["content"][0]["text"]
    assert answer.json()["id"] == 1
    assert "mcp-session-id" not in answer.headers


async def test_a_call_may_leave_out_version_and_id(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/", json={"method": "tools/list", "params": {}})
    assert {tool["name"] for tool in answer.json()["result"]["tools"]} >= set(OPERATIONS)


async def test_any_accept_header_gets_json_for_a_plain_call(client: httpx2.AsyncClient) -> None:
    for accept in ("*/*", "text/event-stream", "application/json"):
        answer = await client.post("/mcp", json={"method": "ping"}, headers={"accept": accept})
        assert answer.json()["result"] == {}, accept


async def test_an_unknown_tool_is_an_invalid_parameter(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/mcp", json=call("nope"))).json()["error"]["code"] == -32602


async def test_form_data_is_not_a_call(client: httpx2.AsyncClient) -> None:
    headers = {"content-type": "text/plain"}
    answer = await client.post("/mcp", content=json.dumps(call("list_notebooks")), headers=headers)
    assert answer.status_code == 400


async def test_an_initialize_opens_a_session_of_the_handshake_era(client: httpx2.AsyncClient) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    answer = await client.post("/mcp", json=hello, headers=BOTH)
    assert answer.status_code == 200
    session = {**BOTH, "mcp-session-id": answer.headers["mcp-session-id"]}
    await client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
    listed = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, headers=session)
    assert "list_notebooks" in listed.text
    unknown = {**session, "mcp-session-id": "unknown"}
    again = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 3, "method": "tools/list"}, headers=unknown)
    assert again.status_code == 404


async def test_a_call_of_the_modern_era_needs_no_session(client: httpx2.AsyncClient) -> None:
    body = call("execute_code", code="print(6 * 7)", notebook_path="a.ipynb")
    body["params"]["_meta"] = META
    headers = {**BOTH, "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "execute_code"}
    answer = await client.post("/mcp", json=body, headers=headers)
    assert "42" in answer.text
    assert "mcp-session-id" not in answer.headers


# --------------------------------------------------------------------------- connect

CONNECT = {
    "provider": "jupyter",
    "room_url": BASE,
    "room_id": "data_analysis.ipynb",
    "room_token": TOKEN,
    "runtime_url": BASE.replace("127.0.0.1", "localhost"),
    "runtime_id": None,
    "runtime_token": TOKEN,
}


async def test_connect_makes_the_room_the_default_notebook(client: httpx2.AsyncClient, app: App) -> None:
    answer = await client.put("/api/connect", json=CONNECT)
    assert (answer.status_code, answer.json()["created"]) == (200, True)
    assert answer.json()["notebook"] == "data_analysis.ipynb"
    assert (app.services.settings.root / "data_analysis.ipynb").exists()
    again = await client.put("/api/connect", json=CONNECT)
    assert (again.status_code, again.json()["created"]) == (200, False)
    text = (await client.post("/mcp", json=call("get_notebook_info"))).json()["result"]["content"][0]["text"]
    assert "data_analysis.ipynb" in text


@pytest.mark.parametrize("name", ["room_token", "runtime_token"])
async def test_connect_names_the_wrong_token_and_does_not_repeat_it(client: httpx2.AsyncClient, name: str) -> None:
    answer = await client.put("/api/connect", json={**CONNECT, name: "not-this-one"})
    assert answer.status_code == 401
    assert name in answer.json()["message"]
    assert "not-this-one" not in answer.text


@pytest.mark.parametrize("name", ["room_url", "runtime_url"])
@pytest.mark.parametrize("url", ["http://user:pw@jupyter:4040/?token=abc", "ftp://127.0.0.1", "http://[::1"])
async def test_connect_takes_addresses_without_secrets(client: httpx2.AsyncClient, name: str, url: str) -> None:
    answer = await client.put("/api/connect", json={**CONNECT, name: url})
    assert answer.status_code == 400
    assert name in answer.json()["message"]
    assert "pw" not in answer.text
    assert "abc" not in answer.text


@pytest.mark.parametrize(
    "body", [{"provider": "other"}, {"room_id": 5}, {"room_url": "http://[::1"}, {"room_id": "no-notebook.txt"}]
)
async def test_connect_refuses_what_cannot_be_right(client: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.put("/api/connect", json=body)).status_code == 400


async def test_connect_to_an_unknown_kernel_is_not_found(client: httpx2.AsyncClient) -> None:
    assert (await client.put("/api/connect", json={"runtime_id": "nope"})).status_code == 404


async def test_a_connect_that_is_refused_has_bound_no_kernel_and_made_no_notebook(
    client: httpx2.AsyncClient, app: App
) -> None:
    root = app.services.settings.root
    (root / "broken.ipynb").write_text("{")
    while (started := await client.post("/api/operations/start_kernel", json={})).status_code == 503:
        pass
    kernel_id = started.json()["data"]["kernel_id"]
    broken = await client.put("/api/connect", json={"room_id": "broken.ipynb", "runtime_id": kernel_id})
    unknown = await client.put("/api/connect", json={"room_id": "new.ipynb", "runtime_id": "nope"})

    assert (broken.status_code // 100, unknown.status_code) == (4, 404)
    assert app.services.sessions.get(kernel_id).notebooks == ()
    assert not (root / "new.ipynb").exists()
    assert app.services.default_notebook not in ("broken.ipynb", "new.ipynb")


# --------------------------------------------------------------------------- REST


async def test_every_operation_is_listed_with_its_schema(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/api/operations")).json()["operations"]
    assert {entry["name"] for entry in listed} == set(OPERATIONS)
    for entry in listed:
        assert entry["inputSchema"]["type"] == "object"
        assert entry["description"]


async def test_an_operation_answers_with_text_and_data(client: httpx2.AsyncClient) -> None:
    body = {"notebook_path": "a.ipynb", "cell_source": "print('hi')"}
    answer = (await client.post("/api/operations/append_execute_code_cell", json=body)).json()
    assert set(answer) == {"text", "data", "is_error", "links", "images"}
    assert "hi" in answer["text"]
    assert answer["data"]["status"] == "ok"
    assert answer["is_error"] is False


async def test_an_alias_works_here_too(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/api/operations/read_notebook", json={"notebook_path": "a.ipynb"})
    assert "print(x + 1)" in answer.json()["text"]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "code"),
    [
        ("read_all_cells", {"notebook_path": "none.ipynb"}, 404, "not_found"),
        ("read_all_cells", {"notebook_path": "../a.ipynb"}, 403, "outside_root"),
        ("create_notebook", {"notebook_path": "a.ipynb"}, 409, "already_exists"),
        ("read_all_cells", {"nonsense": 1}, 400, "invalid_request"),
        ("nonsense", {}, 400, "invalid_request"),
        ("interrupt_kernel", {"kernel_id": "none"}, 404, "not_found"),
    ],
)
async def test_errors_have_their_status_and_say_what_to_do(
    client: httpx2.AsyncClient, name: str, arguments: dict[str, Any], status: int, code: str
) -> None:
    answer = await client.post(f"/api/operations/{name}", json=arguments)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert set(answer.json()) == {"error", "message", "hint"}


async def test_an_unknown_route_and_a_wrong_method_are_said_in_json(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/nowhere")).json()["error"] == "not_found"
    wrong = await client.get("/api/connect")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "method_not_allowed")


async def test_metrics_count_operations_executions_and_kernels(client: httpx2.AsyncClient) -> None:
    await client.post("/api/operations/execute_code", json={"code": "1", "notebook_path": "a.ipynb"})
    await client.post("/api/operations/read_cell", json={"notebook_path": "none.ipynb"})

    async def metrics() -> str:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text

    wanted = [
        'mcp_jupyter_operation_seconds_count{ok="true",operation="execute_code"} 1.0',
        'mcp_jupyter_operation_seconds_count{ok="false",operation="read_cell"} 1.0',
        'mcp_jupyter_executions_total{status="ok"} 1.0',
        'mcp_jupyter_kernel_events_total{what="started"} 1.0',
        'mcp_jupyter_kernels{state="idle"} 1.0',
    ]
    with anyio.fail_after(60):
        while missing := [line for line in wanted if line not in await metrics()]:
            assert missing
            await anyio.sleep(0.01)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
async def test_metrics_carry_no_series_of_when_they_were_made(client: httpx2.AsyncClient, accept: str) -> None:
    await client.post("/api/operations/execute_code", json={"code": "1", "notebook_path": "a.ipynb"})
    text = (await client.get("/metrics", headers={"accept": accept})).text
    assert "mcp_jupyter_operation_seconds_count" in text
    assert "_created" not in text


# --------------------------------------------------------------------------- events


async def take(log: EventLog, last_id: str | None, count: int) -> list[str]:
    """The first `count` pieces after the opening one."""
    stream = log.stream(last_id)
    pieces: list[str] = []
    with anyio.fail_after(60):
        assert (await anext(stream)).startswith(b"retry:")
        while len(pieces) < count:
            pieces.append((await anext(stream)).decode())
    await stream.aclose()
    return pieces


def ids(pieces: list[str]) -> list[str]:
    return [line[4:] for piece in pieces for line in piece.splitlines() if line.startswith("id: ")]


def filled(kept: int, count: int) -> EventLog:
    log = EventLog(Events(), kept=kept)
    for number in range(count):
        log._append(Event("cell.ran", {"number": number}))
    return log


async def test_a_client_that_was_cut_off_goes_on_where_it_was() -> None:
    log = filled(10, 5)
    first, second, *rest = ids(await take(log, f"{log._start}-0", 5))
    assert len(rest) == 3
    again = await take(log, first, 1)
    assert ids(again) == [second]
    assert '"number":1' in again[0]


async def test_a_client_that_missed_events_is_told_to_start_anew() -> None:
    log = filled(3, 10)
    for last_id in (f"{log._start}-2", "another-server-4", "nonsense", f"{log._start}-99"):
        pieces = await take(log, last_id, 2)
        assert pieces[0].startswith("event: reset"), last_id
        assert '"number":7' in pieces[1]


async def test_without_a_last_id_the_stream_begins_now() -> None:
    log = filled(10, 5)
    stream = log.stream(None)
    await anext(stream)
    log._append(Event("cell.ran", {"number": "new"}))
    with anyio.fail_after(60):
        assert b"new" in await anext(stream)
    await stream.aclose()


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "HEARTBEAT_SECONDS", 0.01)
    assert (await take(filled(1, 0), None, 1))[0].startswith(":")


# --------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("http")
    server = Server(folder).start()
    (server.root / "a.ipynb").write_text(notebook("x = 1"))
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_works_in_both_eras(server: Server, mode: Any, tmp_path: Path) -> None:
    headers = {"authorization": "Bearer secret-token"}
    heard: list[str] = []
    go = tmp_path / "go"

    async def progress(value: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        if "begun" in heard[-1]:
            go.touch()

    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{server.address}/mcp", http_client=http), mode=mode) as client,
    ):
        assert len((await client.list_tools()).tools) == len(OPERATIONS)
        code = (
            "import os, time\nprint('begun', flush=True)\n"
            f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\n'done'"
        )
        arguments = {"code": code, "notebook_path": "a.ipynb"}
        result = await client.call_tool("execute_code", arguments, progress_callback=progress)
    assert "done" in result.content[0].text


async def test_events_are_streamed_while_a_cell_runs(server: Server) -> None:
    headers = {"authorization": "Bearer secret-token"}
    seen: list[str] = []
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, base_url=server.address) as http,
        http.stream("GET", "/api/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        with anyio.fail_after(60):
            async for line in stream.aiter_lines():
                if line.startswith("retry"):
                    await http.post("/api/operations/execute_code", json={"code": "1", "notebook_path": "a.ipynb"})
                if line.startswith("event: "):
                    seen.append(line[7:])
                if line == "event: execution.finished":
                    break
    assert seen.index("execution.queued") < seen.index("execution.started") < seen.index("execution.finished")


def test_a_taken_port_is_said_in_one_line(server: Server, tmp_path: Path) -> None:
    import subprocess

    from http_app import COMMAND, clean_environment

    port = server.address.rpartition(":")[2]
    arguments = [*COMMAND, "serve", f"--root={tmp_path}", f"--state-dir={tmp_path / 's'}", f"--port={port}"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: Cannot listen on 127.0.0.1")
    assert "Traceback" not in ended.stderr


def test_a_signal_lets_the_running_cell_finish(tmp_path: Path) -> None:
    server = Server(tmp_path, "--grace-seconds=15").start()
    (server.root / "a.ipynb").write_text(notebook())
    answers: list[dict[str, Any]] = []
    code = "open('started', 'w').close()\nimport time; time.sleep(1.5)\nprint('was not cut off')"

    def run() -> None:
        answers.append(server.call("append_execute_code_cell", notebook_path="a.ipynb", cell_source=code))

    thread = threading.Thread(target=run)
    thread.start()
    eventually((server.root / "started").exists)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    thread.join(60)
    assert "was not cut off" in answers[0]["text"]
    assert "was not cut off" in (server.root / "a.ipynb").read_text()


def test_an_open_event_stream_does_not_hold_the_end_up(tmp_path: Path) -> None:
    server = Server(tmp_path, "--grace-seconds=600").start()
    request = urllib.request.Request(f"{server.address}/api/events", headers={"Authorization": "Bearer secret-token"})
    with urllib.request.urlopen(request, timeout=60) as stream:
        assert stream.readline().startswith(b"retry")
        assert server.stop() == 0


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    server = Server(tmp_path, "--grace-seconds=60").start()
    (server.root / "a.ipynb").write_text(notebook())
    code = "open('started', 'w').close()\nimport time; time.sleep(60)"
    answer = server.call("execute_code", notebook_path="a.ipynb", code=code, timeout_seconds=0)
    assert answer["data"]["status"] in ("queued", "running")
    eventually((server.root / "started").exists)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: not (server.root_state / "server.json").exists(), what="the first signal")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == -signal.SIGTERM
    server.start()
    kernels = server.call("list_kernels")["data"]["kernels"]
    server.call("shutdown_kernel", kernel_id=kernels[0]["kernel_id"])
    server.stop()


@pytest.mark.parametrize("era", ["plain", "modern"])
def test_a_call_that_waits_is_answered_when_the_server_stops_and_its_cell_runs_on(tmp_path: Path, era: str) -> None:
    server = Server(tmp_path, "--keep-kernels", "--grace-seconds=0.2").start()
    (server.root / "a.ipynb").write_text(notebook())
    code = "open('started', 'w').close()\nimport time; time.sleep(3)\nopen('finished', 'w').close()"
    body = call("append_execute_code_cell", notebook_path="a.ipynb", cell_source=code)
    headers = {**BOTH, "authorization": "Bearer secret-token"}
    if era == "modern":
        body["params"]["_meta"] = META
        headers |= {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "append_execute_code_cell"}
    answers: list[httpx2.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(httpx2.post(f"{server.address}/mcp", json=body, headers=headers, timeout=60))
    )
    waiting.start()
    eventually((server.root / "started").exists)
    assert server.stop() == 0
    waiting.join(60)
    if era == "modern" and answers[0].headers["content-type"].startswith("text/event-stream"):
        # On a slow machine the answer has begun, by a ping.
        assert "The server is stopping" in answers[0].text
    else:
        assert (answers[0].status_code, answers[0].json()["error"]) == (503, "unavailable")
    eventually((server.root / "finished").exists, what="the cell, which nobody interrupted")
    server.start()
    for kernel in server.call("list_kernels")["data"]["kernels"]:
        server.call("shutdown_kernel", kernel_id=kernel["kernel_id"])
    assert server.stop() == 0


def test_a_call_whose_answer_has_begun_is_told_that_the_server_stops(tmp_path: Path) -> None:
    server = Server(tmp_path, "--grace-seconds=0.2").start()
    assert server.process is not None
    (server.root / "a.ipynb").write_text(notebook())
    code = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    body = call("append_execute_code_cell", notebook_path="a.ipynb", cell_source=code)
    body["params"]["_meta"] = {**META, "progressToken": 7}
    headers = {**BOTH, "authorization": "Bearer secret-token"}
    headers |= {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "append_execute_code_cell"}
    told: list[dict[str, Any]] = []
    with httpx2.stream("POST", f"{server.address}/mcp", json=body, headers=headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                told.append(json.loads(line.removeprefix("data:")))
                if "begun" in line:
                    server.process.terminate()
    assert server.process.wait(60) == 0
    assert told[0]["method"] == "notifications/progress"
    assert (told[-1]["id"], told[-1]["error"]["code"]) == (body["id"], -32000)
    assert "get_execution of the next server" in told[-1]["error"]["message"]


def test_a_token_of_ones_own_is_not_printed(server: Server) -> None:
    printed = server.log.read_text()
    assert server.address in printed
    assert "secret-token" not in printed


def test_a_server_without_a_temporary_folder_says_so_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    code = (
        "import tempfile\n"
        "def refuse(*a, **k): raise FileNotFoundError(2, 'No usable temporary directory')\n"
        "tempfile.TemporaryFile = refuse\n"
        "from mcp_server_jupyter.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "serve", "--port=0", "--kernels=memory"]
    command += [f"--root={tmp_path / 'root'}", f"--state-dir={tmp_path / 'state'}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "no writable temporary directory: set TMPDIR to one" in line:
                break
        else:
            raise AssertionError("it was not said")
        process.terminate()
        process.communicate(timeout=60)


async def test_metrics_tell_the_memory_there_is(client: httpx2.AsyncClient) -> None:
    lines = dict(line.rsplit(" ", 1) for line in (await client.get("/metrics")).text.splitlines() if line[0] != "#")
    used, limit = (float(lines[f"mcp_jupyter_memory_{what}_bytes"]) for what in ("used", "limit"))
    assert 0 < used < limit
