"""One root, one server, one state: whoever starts, ends, is killed or comes late."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from http_app import INITIALIZE, Stdio, stdio, text_of
from mcp_server_jupyter.journal import open_journal
from mcp_server_jupyter.ownership import ask_server, hold, is_held, owned, read_record
from mcp_server_jupyter.settings import Settings
from place import Place, at_once, is_gone, kill, run
from support import Server, eventually


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.end()


# --------------------------------------------------------------------------- starting


def servers(place: Place) -> list[int]:
    """The processes that are no client of ours, no recorder and no kernel."""
    found = []
    for process in place.processes():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if words and process.ppid() != os.getpid() and "ipykernel" not in words and "recorder.py" not in words:
                found.append(process.pid)
    return found


@pytest.mark.parametrize("apart", [0.0, 0.02, 0.1, 0.3, 0.6])
def test_clients_that_start_together_share_one_server_and_one_kernel(place: Place, apart: float) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(place.client())
        time.sleep(apart)
        second = stack.enter_context(place.client())
        at_once(first.initialize, second.initialize)
        pids = at_once(lambda: run(first, "import os; os.getpid()"), lambda: run(second, "import os; os.getpid()"))
        assert len({text.split()[-1] for text in pids}) == 1
        run(first, "x = 'seen by both'")
        assert "seen by both" in run(second, "x")
        # One that finds the root taken needs a moment to end.
        eventually(lambda: len(servers(place)) == 1, what="the end of every server but one")


def test_same_named_notebooks_of_two_roots_never_meet(tmp_path: Path) -> None:
    one, other = Place(tmp_path / "one"), Place(tmp_path / "other")
    other.state = one.state
    try:
        with one.client() as client:
            client.initialize()
            client.call("append_execute_code_cell", cell_source="mine = 'of one'", notebook_path="a.ipynb")
            kill(one.record.pid)
            with other.client() as stranger:
                stranger.initialize()
                assert "NameError" in run(stranger, "mine")
                assert "of one" not in stranger.call("read_all_cells", notebook_path="a.ipynb")
            assert "of one" in run(client, "mine")
        assert one.settings.root_state != other.settings.root_state
        assert "of one" not in (other.root / "a.ipynb").read_text()
    finally:
        other.command("down")
        one.end()


def test_up_starts_one_server_however_many_ask(place: Place) -> None:
    answers = at_once(lambda: place.command("up"), lambda: place.command("up"))
    records = [json.loads(answer.stdout) for answer in answers]
    assert records[0] == records[1]
    assert records[0]["root"] == str(place.root)
    import httpx2

    headers = {"authorization": f"Bearer {records[0]['token']}"}
    address = records[0]["url"].removesuffix("/mcp")
    url = f"{address}/api/operations/execute_code"
    answer = httpx2.post(url, json={"code": "x = 'over HTTP'", "notebook_path": "a.ipynb"}, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert httpx2.post(url, json={}, timeout=60).status_code == 401
    with place.client() as client:
        client.initialize()
        assert "over HTTP" in run(client, "x")


@pytest.mark.parametrize(
    "before",
    [
        "import mcp_server_jupyter.ownership as o; o.has_unix_sockets = lambda: False",
        "import mcp_server_jupyter.doors.stdio.detach as detach; detach.can_fork = lambda: False",
    ],
    ids=["no Unix sockets", "no fork"],
)
def test_what_a_system_lacks_is_done_another_way(place: Place, before: str) -> None:
    env = {"PYTHONPATH": ""}
    with place.client(before=before, env=env) as one, place.client(before=before, env=env) as two:
        one.initialize()
        two.initialize()
        run(one, "x = 'shared'")
        assert "shared" in run(two, "x")


def test_a_long_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    place = Place(tmp_path / ("long" * 20))
    try:
        with place.client() as one, place.client() as two:
            one.initialize()
            two.initialize()
            run(one, "x = 'shared'")
            assert "shared" in run(two, "x")
            address = place.record.socket
            assert isinstance(address, str)
            assert len(address) < 100
    finally:
        place.end()
    assert not Path(address).exists()


_NO_SOCKET = """
class Refused(socket.socket):
    def __init__(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0, fileno=None):
        if fileno is None:
            refuse()
        super().__init__(family, kind, proto, fileno)
socket.socket = Refused"""


@pytest.mark.parametrize(
    "forbid",
    ["socket.socket.bind = refuse", "socket.socket.connect = refuse", _NO_SOCKET],
    ids=["bind", "connect", "socket"],
)
def test_where_sockets_are_forbidden_the_client_is_served_in_its_own_process(
    place: Place, tmp_path: Path, forbid: str
) -> None:
    before = f"import socket\ndef refuse(*_): raise PermissionError(1, 'Operation not permitted')\n{forbid}"
    log = tmp_path / "log"
    with place.client(before=before, log=log) as client:
        client.initialize()
        assert "42" in run(client, "6 * 7")
        assert "--embedded" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_an_embedded_server_is_the_roots_and_leaves_its_kernels_to_those_attached(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with place.client("--embedded", log=log) as embedded:
        embedded.initialize()
        run(embedded, "x = 'kept'")
        assert place.record.pid == embedded.process.pid
        with place.client() as other, place.client("--embedded") as third:
            other.initialize()
            third.initialize()
            assert "kept" in run(other, "x")
            assert embedded.close() == 0
            assert "kept" in run(other, "x")
            assert "kept" in run(third, "x")
    assert "Traceback" not in log.read_text()


def test_an_embedded_servers_kernels_end_with_its_client(place: Place) -> None:
    with place.client("--embedded") as client:
        client.initialize()
        run(client, "x = 1")
    assert not place.processes()


# --------------------------------------------------------------------------- dying


def test_two_clients_keep_their_variables_when_the_server_is_killed_while_both_call(place: Place) -> None:
    with place.client() as one, place.client() as two:
        one.initialize()
        two.initialize()
        run(one, "x = 'of one'", "a.ipynb")
        run(two, "y = 'of two'", "b.ipynb")
        code = "import os, time\nopen('started-{}', 'w').close()\n"
        code += "while not os.path.exists('go'): time.sleep(0.01)\nz = 'finished'"
        waiting = [
            client.send(
                "tools/call", {"name": "execute_code", "arguments": {"code": code.format(n), "notebook_path": n}}
            )
            for client, n in ((one, "a.ipynb"), (two, "b.ipynb"))
        ]
        for name in ("a.ipynb", "b.ipynb"):
            eventually((place.root / f"started-{name}").exists)
        kill(place.record.pid)
        (place.root / "go").touch()
        for client, request in zip((one, two), waiting, strict=True):
            result = client.receive(request)["result"]
            assert result["isError"]
            text = result["content"][0]["text"]
            assert "unknown" in text
            execution = next(word for word in text.replace(";", " ").split() if word.startswith("x"))
            assert "ok" in client.call("get_execution", execution_id=execution, wait_seconds=45)
        assert "of one" in run(one, "x", "a.ipynb")
        assert "of two" in run(two, "y", "b.ipynb")
        assert "finished" in run(one, "z", "a.ipynb")
        assert one.ask("tools/list")["result"]["tools"]


def test_what_only_reads_the_protocol_is_asked_again_of_the_next_server(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        client.ask("resources/subscribe", {"uri": "notebook://a.ipynb"})
        pid = place.record.pid
        os.kill(pid, signal.SIGSTOP)
        waiting = [client.send(method) for method in ("tools/list", "resources/list", "prompts/list", "ping")]
        os.kill(pid, signal.SIGKILL)
        assert all("result" in client.receive(request) for request in waiting)
        client.call("insert_cell", notebook_path="a.ipynb", cell_index=-1, cell_type="code", cell_source="1")
        eventually(lambda: client.ask("ping") and any("updated" in str(m.get("method")) for m in client.others))


def test_a_call_that_the_killed_server_never_read_is_made_with_the_next_one(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "x = 0")
        pid = place.record.pid
        os.kill(pid, signal.SIGSTOP)
        call = {"name": "execute_code", "arguments": {"code": "x += 1; x", "notebook_path": "a.ipynb"}}
        first, last = client.send("tools/call", call), client.send("tools/call", call)
        client.write(b"no message\n")
        client.receive(None)  # the relay has handed on what came before
        os.kill(pid, signal.SIGKILL)
        answers = [text_of(client.receive(request)) for request in (first, last)]
        assert "unknown" in answers[0]
        assert answers[1].splitlines()[-1].endswith("1")
        assert run(client, "x").endswith("1")


def _next_server(place: Place, before: int, clients: list[Stdio]) -> bool:
    """Whether another server answers; until it does, the record may name the client that starts it."""
    return place.version is not None and place.record.pid not in (before, *(client.process.pid for client in clients))


def test_servers_killed_in_a_row_are_each_counted_once_by_every_client(place: Place) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(place.client()) for _ in range(4)]
        at_once(*(client.initialize for client in clients))
        run(clients[0], "x = 'kept'")
        for _ in range(4):
            before = place.record.pid
            kill(before)
            eventually(lambda before=before: _next_server(place, before, clients), 60, "the next server")
        for client in clients:
            assert "kept" in run(client, "x")


def test_a_server_that_is_asked_to_end_leaves_the_kernels_to_attached_clients(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "x = 'kept'")
        pid = place.record.pid
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: is_gone(pid), 60, "the end of the server")
        assert "kept" in run(client, "x")
        assert place.record.pid != pid


def test_a_client_that_leaves_takes_nothing_from_the_others(place: Place) -> None:
    with place.client() as one, place.client() as two:
        one.initialize()
        two.initialize()
        run(one, "x = 'still here'")
        one.close()
        assert "still here" in run(two, "x")


def test_a_killed_client_stops_no_cell_and_its_successor_finds_the_variables(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(0.5); x = 'finished'"
        client.send("tools/call", {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}})
        eventually((place.root / "started").exists)
        client.process.kill()
    with place.client() as client:
        client.initialize()
        assert "finished" in run(client, "x")


def test_a_server_that_dies_again_and_again_is_given_up_with_its_reason(place: Place) -> None:
    with place.client("--contents=no-such-backend") as client:
        error = client.initialize()["error"]
        assert "no-such-backend" in error["message"]
        assert "doctor" in error["message"]
        assert "no-such-backend" in client.ask("ping")["error"]["message"]


def test_the_log_of_a_server_is_bounded(place: Place) -> None:
    log = place.settings.root_state / "server.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * (6 << 20))
    with place.client() as client:
        client.initialize()
        assert log.stat().st_size < 1 << 20
        assert log.with_name("server.log.1").stat().st_size == 6 << 20


# --------------------------------------------------------------------------- ending


def test_the_server_and_its_kernels_end_after_the_last_client_once_nothing_runs(place: Place) -> None:
    with place.client("--linger-minutes=0") as client:
        client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(0.7)\nopen('finished', 'w').close()"
        client.send("tools/call", {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}})
        eventually((place.root / "started").exists)
    eventually(lambda: not place.processes(), 60, "the end of server and kernels")
    assert (place.root / "finished").exists()
    assert "Traceback" not in (place.settings.root_state / "server.log").read_text()


def test_a_client_that_comes_back_in_time_finds_its_variables(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "x = 'kept'")
        pid = place.record.pid
    with place.client() as client:
        client.initialize()
        assert "kept" in run(client, "x")
        assert place.record.pid == pid


def test_kept_kernels_outlive_a_lingering_server(place: Place) -> None:
    with place.client("--linger-minutes=0", "--keep-kernels") as client:
        client.initialize()
        run(client, "x = 'kept'")
    eventually(lambda: not is_held(place.settings.root_state), 60, "the end of the server")
    assert place.processes()
    with place.client() as client:
        client.initialize()
        assert "kept" in run(client, "x")


def test_down_ends_the_kernels_that_a_killed_server_left(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "1", "a.ipynb")
        code = "open('started', 'w').close()\nimport time; time.sleep(60)"
        call = {"name": "execute_code", "arguments": {"code": code, "notebook_path": "b.ipynb"}}
        client.send("tools/call", call)
        eventually((place.root / "started").exists)
        client.process.kill()
        kill(place.record.pid)
    ended = place.command("down")
    assert ended.returncode == 0
    assert "No server" in ended.stdout
    assert "Ended 2 kernels" in ended.stdout
    assert place.processes() == []
    assert "Ended" not in place.command("down").stdout
    with open_journal(place.settings.root_state / "journal.sqlite3") as journal:
        assert not journal.unfinished()


def test_down_ends_server_and_kernels_and_the_next_call_starts_anew(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "x = 'gone'")
        pid = place.record.pid
        assert "has ended" in place.command("down").stdout
        assert is_gone(pid)
        assert [p for p in place.processes() if p.pid != client.process.pid] == []
        assert "No server" in place.command("down").stdout
        assert "NameError" in run(client, "x")


# --------------------------------------------------------------------------- what belongs to a client


def test_a_kernel_gets_the_environment_of_the_client_that_starts_it(place: Place) -> None:
    with (
        place.client(env={"WHOSE": "of the first", "JUPYTER_TOKEN": "secret"}) as one,
        place.client(env={"WHOSE": "of the second"}) as two,
    ):
        one.initialize()
        two.initialize()
        code = "import os; os.environ['WHOSE'], os.environ.get('JUPYTER_TOKEN')"
        assert "('of the second', None)" in run(two, code, "b.ipynb")
        assert "('of the first', None)" in run(one, code, "a.ipynb")


def test_each_client_has_its_own_default_notebook_and_answer_settings(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        place.client("--notebook=a.ipynb") as one,
        place.client("--notebook=b.ipynb", "--max-chars=300", log=log) as two,
    ):
        one.initialize()
        two.initialize()
        for client, name in ((one, "a.ipynb"), (two, "b.ipynb")):
            assert f"I am {name}" in client.call("append_execute_code_cell", cell_source=f"print('I am {name}')")
            eventually(lambda name=name: f"I am {name}" in (place.root / name).read_text())
        code = "print('x' * 5000)"
        assert len(two.call("execute_code", code=code)) < 1000 < len(one.call("execute_code", code=code))
        assert log.read_text() == ""


def test_a_setting_that_the_running_server_does_not_have_is_said(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with place.client("--max-kernels=7") as one:
        one.initialize()
        with place.client("--max-kernels=9", log=log) as two:
            two.initialize()
            eventually(lambda: "max_kernels=7" in log.read_text(), what="the warning")


def test_two_clients_of_one_name_are_two_authors(place: Place) -> None:
    with place.client() as one, place.client() as two:
        for client in (one, two):
            client.initialize()
            client.call("append_execute_code_cell", cell_source="1", notebook_path="a.ipynb")
        kill(place.record.pid)
        one.call("append_execute_code_cell", cell_source="2", notebook_path="a.ipynb")
    with open_journal(place.settings.root_state / "journal.sqlite3") as journal:
        authors = [row.author for row in journal.executions_of("", 0)]
    assert len(set(authors)) == 2
    assert sorted(authors.count(author) for author in set(authors)) == [1, 2]
    assert all(author.startswith("tests#") for author in authors)


async def test_two_sessions_over_http_are_two_authors_too(place: Place) -> None:
    from every_door import http_client

    server = Server(place.folder).start()
    try:
        async with http_client(server, "legacy") as one, http_client(server, "legacy") as two:
            for client in (one, two):
                for _ in range(2):
                    await client.call_tool("append_execute_code_cell", {"cell_source": "1", "notebook_path": "a.ipynb"})
    finally:
        server.stop()
    with open_journal(place.settings.root_state / "journal.sqlite3") as journal:
        authors = [row.author for row in journal.executions_of("", 0)]
    assert sorted(authors.count(author) for author in set(authors)) == [2, 2]
    assert all("#" in author for author in authors)


# --------------------------------------------------------------------------- serve, and newer versions


def test_serve_takes_over_from_a_detached_server_with_its_kernels(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        run(client, "x = 'kept'")
        server = Server(place.folder).start()
        try:
            assert "kept" in server.call("execute_code", code="x", notebook_path="a.ipynb")["text"]
            assert "kept" in run(client, "x")
            second = place.command("serve", "--port=0")
            assert second.returncode == 2
            assert server.address in second.stderr
            assert "down" in second.stderr
        finally:
            server.stop()
        assert "kept" in run(client, "x")


def test_serve_leaves_a_busy_detached_server_alone(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        code = "open('started', 'w').close()\nimport time; time.sleep(60)"
        client.send("tools/call", {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}})
        eventually((place.root / "started").exists)
        refused = place.command("serve", "--port=0")
        assert refused.returncode == 2
        assert "down" in refused.stderr
        client.call("interrupt_kernel", notebook_path="a.ipynb")


def test_a_newer_client_replaces_an_older_server_once_it_is_idle(place: Place) -> None:
    newer = "import mcp_server_jupyter; mcp_server_jupyter.__version__ = '99.0'"
    with place.client() as older:
        older.initialize()
        run(older, "x = 'kept'")
        old = place.record.pid
        code = "open('started', 'w').close()\nimport time; time.sleep(0.7); 'done in peace'"
        call = {"name": "execute_code", "arguments": {"code": code, "notebook_path": "a.ipynb"}}
        waiting = older.send("tools/call", call)
        eventually((place.root / "started").exists)
        with place.client(before=newer) as client:
            assert "result" in client.initialize()
            assert "done in peace" in text_of(older.receive(waiting))
            eventually(lambda: place.version == "99.0", 60, "the newer one")
            assert place.record.pid != old
            assert "kept" in run(client, "x")
            assert "kept" in run(older, "x")
            assert place.record.version == "99.0"


# --------------------------------------------------------------------------- locks and records


def test_a_root_has_one_holder_at_a_time(place: Place) -> None:
    with owned(place.settings):
        assert hold(place.settings) is None
        assert is_held(place.settings.root_state)
    assert not is_held(place.settings.root_state)
    assert (place.settings.root_state / "server.lock").exists()


def test_a_root_has_one_state_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "real root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real root")
    (tmp_path / "other" / "real root").mkdir(parents=True)
    real, link, other = (
        Settings.load({"root": tmp_path / name, "state_dir": tmp_path}, environ={}).root_state
        for name in ("real root", "link", "other/real root")
    )
    assert real == link != other
    assert real.parent == tmp_path / "roots"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"unknown": true}'])
def test_a_damaged_record_is_no_server(tmp_path: Path, text: str) -> None:
    place = Place(tmp_path)
    with owned(place.settings) as held:
        (held.folder / "server.json").write_text(text)
        assert read_record(held.folder) is None
        assert ask_server(place.settings, "record") is None


def test_a_record_that_a_killed_server_left_is_no_server(place: Place) -> None:
    with place.client() as client:
        client.initialize()
        kill(client.process.pid)
        kill(place.record.pid)
    eventually(lambda: not is_held(place.settings.root_state))
    assert place.record.socket is not None
    assert "No server" in place.command("down").stdout


def test_a_look_at_the_lock_does_not_turn_a_starting_server_away(tmp_path: Path) -> None:
    import fcntl

    place = Place(tmp_path)
    folder = place.settings.root_state
    folder.mkdir(parents=True)
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # As long as one who looks may have to wait for the CPU while he does.
    threading.Timer(0.3, os.close, (descriptor,)).start()
    with owned(place.settings):
        assert is_held(folder)
        assert hold(place.settings) is None


@pytest.mark.parametrize(
    "greeting", [b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"ask": "attach"}\n', b"\xff\n"]
)
def test_who_greets_otherwise_is_hung_up_on(warm: Place, greeting: bytes) -> None:
    address = warm.record.socket
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(address)
        connection.sendall(greeting)
        connection.shutdown(socket.SHUT_WR)
        assert b"jupyter" not in connection.recv(100)
    with warm.client() as client:
        assert "result" in client.initialize()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("warm"))
    assert place.command("up").returncode == 0
    yield place
    place.end()


def test_a_port_on_loopback_opens_to_the_key_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    before = "import mcp_server_jupyter.ownership as o; o.has_unix_sockets = lambda: False"
    with stdio(place.root, place.state, before=before) as client:
        assert "result" in client.ask("initialize", INITIALIZE)
        port = place.record.socket
        assert isinstance(port, int)
        for key, answered in (("wrong", False), (place.record.key, True)):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(json.dumps({"jupyter": 1, "ask": "record", "key": key}).encode() + b"\n")
                assert bool(connection.recv(1000)) == answered
