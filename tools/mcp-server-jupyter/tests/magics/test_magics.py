"""The magics in real kernels of a real server, which they call while their own cell runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import KernelManager

from mcp_server_jupyter.errors import NotFound, Unavailable
from mcp_server_jupyter.magics.server import find
from mcp_server_jupyter.operations import OPERATIONS
from support import Server, eventually

# One server, with two kernels that are up, for all of them.
pytestmark = pytest.mark.xdist_group("magics")
LOAD = "%load_ext mcp_server_jupyter"
HERE, THERE = "folder/here.ipynb", "there.ipynb"
SECONDS = 120.0
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("magics")).start()
    (server.root / "folder").mkdir()
    try:
        for path in (HERE, THERE):
            ask(server, "create_notebook", notebook_path=path)
            # Not by start_kernel, which starts it in the root.
            ask(server, "execute_code", code="0", notebook_path=path, timeout_seconds=SECONDS)
        run(server, LOAD)
        yield server
    finally:
        server.stop()


def ask(server: Server, operation: str, **arguments: Any) -> dict[str, Any]:
    """What an operation answers, however busy the machine is."""
    return server.call(operation, timeout=SECONDS + 30, **arguments)


def run(server: Server, code: str) -> str:
    """What a cell of HERE shows, which must have ended by itself."""
    answer = ask(server, "execute_code", code=code, notebook_path=HERE, timeout_seconds=SECONDS)
    assert answer["data"]["status"] in ("ok", "error"), answer
    return str(answer["text"])


def kernel_id(server: Server, notebook: str) -> str:
    kernels = ask(server, "list_kernels")["data"]["kernels"]
    return next(str(each["kernel_id"]) for each in kernels if each["notebook_path"] == notebook)


def test_it_lists_what_the_server_can_do(server: Server) -> None:
    listed = ask(server, "execute_code", code=f"{LOAD}\n%mcp tools", notebook_path=HERE, timeout_seconds=SECONDS)
    told = ask(server, "get_execution", execution_id=listed["data"]["execution_id"], cursor=0)["text"]
    assert [name for name in OPERATIONS if f"\n{name}(" not in f"\n{told}"] == []


def test_it_lists_the_notebooks(server: Server) -> None:
    told = run(server, "%mcp notebooks")
    assert HERE in told
    assert THERE in told


@pytest.mark.parametrize("magic", ["%%tk", "%%mcp"])
def test_a_known_phrase_needs_no_model_and_says_so(server: Server, magic: str) -> None:
    told = run(server, f"{magic}\nList all notebooks in the current directory")
    assert "a known phrase, no model" in told
    assert HERE in told
    assert THERE not in told
    assert "Traceback" not in told


def test_a_call_that_names_no_notebook_means_its_own(server: Server) -> None:
    source = "It is 'this' one, {here}"
    run(server, f"%mcp call append_markdown_cell {json.dumps({'cell_source': source})}")
    assert source in run(server, "%mcp call read_cell cell_index=-1")
    assert "".join(server.notebook(HERE)["cells"][-1]["source"]) == source


def test_arguments_are_words_with_values_in_json_or_text(server: Server) -> None:
    told = run(server, f"%mcp call execute_code notebook_path={THERE} code='print(6 * 7)' timeout_seconds=60.5")
    assert "\n42" in told


def test_code_runs_in_the_kernel_of_another_notebook(server: Server) -> None:
    run(server, f"%mcp call append_execute_code_cell notebook_path={THERE} cell_source='from_here = 6 * 7'")
    assert "from_here: int" in run(server, f"%mcp call list_variables notebook_path={THERE}")
    assert "NameError" in run(server, "from_here")


def test_pictures_are_shown_as_pictures(server: Server) -> None:
    shown = f"from IPython.display import display; display({{'image/png': {PICTURE!r}}}, raw=True)"
    there = ask(server, "append_execute_code_cell", notebook_path=THERE, cell_source=shown)
    assert there["images"]
    code = f"%mcp call read_cell notebook_path={THERE} cell_index=-1"
    answer = ask(server, "execute_code", code=code, notebook_path=HERE, timeout_seconds=SECONDS)
    assert [image["mime_type"] for image in answer["images"]] == ["image/png"]


@pytest.mark.parametrize(
    "call",
    [
        "execute_code code=1",
        "append_execute_code_cell cell_source=1",
        "list_variables",
        "inspect_variable name=In",
        "interrupt_kernel",
        "restart_kernel",
        "shutdown_kernel",
        "execute_code code=1 kernel_id=OWN",
        "restart_kernel kernel_id=OWN",
        f"execute_code code=1 notebook_path={HERE}",
    ],
)
def test_a_call_into_the_kernel_that_asks_is_refused_and_changes_nothing(server: Server, call: str) -> None:
    own = kernel_id(server, HERE)
    run(server, "kept = 'as it was'")
    before = server.notebook(HERE)["cells"]
    told = run(server, f"%mcp call {call.replace('OWN', own[:12])}")
    assert "This kernel is running the very cell that asks. Name another" in told
    assert "Traceback" not in told
    assert server.notebook(HERE)["cells"] == before
    assert (kernel_id(server, HERE), "as it was" in run(server, "kept")) == (own, True)


def test_the_phrase_that_runs_this_notebook_is_refused(server: Server) -> None:
    ask(server, "insert_cell", notebook_path=HERE, cell_index=-1, cell_type="code", cell_source="ran = True")
    assert "the very cell that asks" in run(server, "%%tk\nrun this notebook")
    assert "NameError" in run(server, "ran")


def test_an_interrupt_ends_the_wait_and_what_was_asked_for_goes_on(server: Server) -> None:
    slow = "import time; slow = 'begun'; time.sleep(600)"
    code = f"%mcp call execute_code notebook_path={THERE} timeout_seconds=900 code={json.dumps(slow)}"
    waiting = ask(server, "execute_code", code=code, notebook_path=HERE, timeout_seconds=0)["data"]["execution_id"]

    def state() -> str:
        kernels = ask(server, "list_kernels")["data"]["kernels"]
        return next(str(each["state"]) for each in kernels if each["notebook_path"] == THERE)

    try:
        eventually(lambda: state() == "busy", SECONDS)
        ask(server, "interrupt_kernel", notebook_path=HERE)
        told = ask(server, "get_execution", execution_id=waiting, wait_seconds=60)
        assert "KeyboardInterrupt" in told["text"]
        assert state() == "busy"
    finally:
        ask(server, "interrupt_kernel", notebook_path=THERE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%mcp", "%mcp tools | notebooks | call NAME"),
        ("%mcp call", "%mcp tools | notebooks | call NAME"),
        ("%mcp call read_cell 3", "'3' is no argument"),
        ("%mcp call read_cell {", "no JSON"),
        ("%mcp call read_cell x='", "cannot be read"),
        ("%mcp call no_such_thing", "Unknown operation"),
        ("%mcp call read_cell cell_index=900", "900"),
        ("%tk", "call NAME"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(server: Server, line: str, said: str) -> None:
    told = run(server, line)
    assert said in told
    assert told.startswith("error")
    assert "Traceback" not in told


# ------------------------------------------------------------------ a model


def test_without_a_key_no_model_is_asked_and_the_known_phrases_are_named(server: Server) -> None:
    run(server, "import os; os.environ.pop('ANTHROPIC_API_KEY', None)")
    told = run(server, "%%tk\nplot the sales of last year")
    assert "ANTHROPIC_API_KEY is not set" in told
    assert "list notebooks [in FOLDER" in told


@contextmanager
def a_model(*replies: dict[str, Any] | int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A service of the Messages API with these answers, for want of a real one; its address and what it was asked."""
    asked: list[dict[str, Any]] = []
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({**body, "path": self.path, "key": self.headers["x-api-key"]})
            reply = left.pop(0)
            sent = json.dumps({"error": {"message": "no"}} if isinstance(reply, int) else reply).encode()
            self.send_response(reply if isinstance(reply, int) else 200)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            """Nothing is said of requests."""

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{service.server_port}", asked
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


def with_key(server: Server, address: str) -> None:
    run(server, f"import os; os.environ.update(ANTHROPIC_API_KEY='the-key', ANTHROPIC_BASE_URL={address!r})")


def use(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    block = {"type": "tool_use", "id": f"use-{number}", "name": name, "input": arguments}
    return {"content": [block], "stop_reason": "tool_use"}


def text(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}], "stop_reason": "end_turn"}


def test_with_a_key_a_model_answers_by_the_servers_operations(server: Server) -> None:
    calls = [
        use(1, "execute_code", notebook_path=THERE, code="40 + 2"),
        use(2, "execute_code", code="1"),
    ]
    with a_model(*calls, text("It is forty-two.")) as (address, asked):
        with_key(server, address)
        told = run(server, "%%mcp\nadd two to forty, over there")
    assert "[answered by " in told
    assert "[execute_code" in told
    assert "It is forty-two." in told
    assert "the-key" not in told
    assert {(each["path"], each["key"]) for each in asked} == {("/v1/messages", "the-key")}
    assert {tool["name"] for tool in asked[0]["tools"]} == set(OPERATIONS)
    first, second = asked[1]["messages"][-1]["content"][0], asked[2]["messages"][-1]["content"][0]
    assert "42" in first["content"]
    assert "is_error" not in first
    assert (second["tool_use_id"], second["is_error"]) == ("use-2", True)
    assert "the very cell that asks" in second["content"]


def test_what_agents_may_not_do_a_model_may_not_do(server: Server) -> None:
    with a_model(use(1, "execute_code", notebook_path=THERE, code="1"), text("It may not.")) as (address, asked):
        with_key(server, address)
        try:
            policy(server, run="deny", notebook_path=THERE)
            run(server, "%%mcp\nrun something over there")
        finally:
            policy(server, run="allow", notebook_path=THERE)
    refused = asked[1]["messages"][-1]["content"][0]
    assert refused["is_error"]


def policy(server: Server, **rule: Any) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{server.address}/api/agents",
        json.dumps(rule).encode(),
        {"Authorization": "Bearer secret-token", "Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200


def test_a_model_that_refuses_is_told_of_without_the_key(server: Server) -> None:
    with a_model(401) as (address, _):
        with_key(server, address)
        told = run(server, "%%mcp\nanything at all")
    assert "answered 401" in told
    assert "the-key" not in told


# ------------------------------------------------------------------ no server


async def test_a_kernel_of_nobody_we_know_is_told_so(tmp_path: Path) -> None:
    manager = KernelManager(connection_file=str(tmp_path / "kernel.json"), transport="ipc", ip=str(tmp_path / "k"))
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        said.append(str(message["content"].get("text", "")))

    try:
        client.start_channels()
        client.wait_for_ready(timeout=SECONDS)
        client.execute_interactive(f"{LOAD}\n%mcp notebooks", timeout=SECONDS, output_hook=hear)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        client.context.destroy(linger=0)
    assert "No mcp-server-jupyter started this kernel, and no Jupyter" in "".join(said)


def test_a_server_that_is_gone_is_named_with_what_starts_it(tmp_path: Path) -> None:
    state = tmp_path / "roots" / "root-1"
    (state / "kernels" / "k-1").mkdir(parents=True)
    (state / "root").write_text("/some/folder")
    with pytest.raises(Unavailable, match=r"The server of /some/folder does not run\.") as raised:
        find(state / "kernels" / "k-1" / "connection.json", {})
    assert raised.value.hint == "`mcp-server-jupyter up --root /some/folder` starts one that does."


def test_a_connection_file_elsewhere_is_nobodys(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find(tmp_path / "kernels" / "k-1" / "connection.json", {})
    with pytest.raises(NotFound):
        find(tmp_path / "kernel-1.json", {"JPY_PARENT_PID": "1"})
