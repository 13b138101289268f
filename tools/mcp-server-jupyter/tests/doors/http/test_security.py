"""What must never reach a route, refused on every route."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_app import BASE, MODERN, TOKEN, App, notebook, open_app
from mcp_server_jupyter.doors.http.security import Names, RateLimit, refuse_unsafe, split_host
from mcp_server_jupyter.errors import InvalidRequest
from mcp_server_jupyter.ownership import owned
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.tokens import client_token, load_token
from support import Server

EVERY_ROUTE = [
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("DELETE", "/mcp"),
    ("POST", "/mcp/"),
    ("POST", "/"),
    ("GET", "/health"),
    ("GET", "/api/healthz"),
    ("GET", "/api/readyz"),
    ("PUT", "/api/connect"),
    ("GET", "/api/operations"),
    ("POST", "/api/operations/list_notebooks"),
    ("GET", "/api/events"),
    ("GET", "/metrics"),
    ("GET", "/api/editor/w1"),
    ("POST", "/api/editor/w1"),
    ("GET", "/api/activity"),
    ("GET", "/api/agents"),
    ("PUT", "/api/agents"),
    ("POST", "/api/approvals/x1"),
    ("POST", "/api/executions"),
    ("PUT", "/api/notebooks/a.ipynb/kernel"),
    ("GET", "/api/executions/x1/outputs"),
    ("POST", "/api/shutdown"),
    ("GET", "/nowhere"),
]
STREAMS = (("GET", "/api/events"), ("GET", "/api/editor/w1"))
OPEN = ("/health", "/api/healthz", "/api/readyz")
CLOSED_ROUTES = [route for route in EVERY_ROUTE if route[1] not in OPEN]


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path) as app:
        yield app


async def test_the_list_of_routes_is_whole(app: App) -> None:
    known = {path for _, path in EVERY_ROUTE}
    parts = {"{name}": "list_notebooks", "{window}": "w1", "{id}": "x1", "{path:path}": "a.ipynb"}
    there = {route.path for route in app.app.routes}
    for part, value in parts.items():
        there = {path.replace(part, value) for path in there}
    assert there <= known


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_a_foreign_host_is_refused(app: App, method: str, path: str) -> None:
    async with app.client() as client:
        for host in ("evil.example", "evil.example:4040", "127.0.0.1.evil.example", "localhost@evil.example", ""):
            answer = await client.request(method, path, headers={"host": host})
            assert answer.status_code == 421, (host, answer.text)


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_a_foreign_origin_is_refused(app: App, method: str, path: str) -> None:
    async with app.client() as client:
        for origin in ("http://evil.example", "null", "http://localhost.evil.example:4040", "file://", "http://["):
            answer = await client.request(method, path, headers={"origin": origin})
            assert answer.status_code == 403, (origin, answer.text)


@pytest.mark.parametrize(("method", "path"), CLOSED_ROUTES)
async def test_no_token_or_a_wrong_one_is_refused(app: App, method: str, path: str) -> None:
    async with app.client(token=None) as client:
        refused: list[dict[str, Any]] = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
            {"authorization": "Bearer "},
            {"authorization": b"Bearer \xff"},
            {"cookie": f"token={TOKEN}"},
        ]
        for headers in refused:
            answer = await client.request(method, f"{path}?token={TOKEN}", headers=headers)
            assert answer.status_code == 401, (headers, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN not in answer.text


@pytest.mark.parametrize(("method", "path"), CLOSED_ROUTES)
async def test_the_token_of_mcp_clients_opens_what_they_speak_and_nothing_else(
    app: App, method: str, path: str
) -> None:
    async with app.client(token=client_token(TOKEN)) as client:
        answer = await client.request(method, path)
    assert (answer.status_code == 401) == (path not in ("/mcp", "/mcp/", "/")), answer.text


async def test_two_authorizations_are_none(app: App) -> None:
    async with app.client(token=None) as client:
        both = [("authorization", "Bearer wrong"), ("authorization", f"Bearer {TOKEN}")]
        assert (await client.get("/metrics", headers=both)).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "token"])
async def test_the_token_is_accepted_as_bearer_and_as_jupyter_writes_it(app: App, scheme: str) -> None:
    async with app.client(token=None) as client:
        answer = await client.get("/api/operations", headers={"authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200


async def test_the_health_routes_need_no_token_and_tell_nothing(app: App) -> None:
    async with app.client(token=None) as client:
        assert set((await client.get("/health")).json()) == {"status", "service", "version", "api"}
        assert set((await client.get("/api/healthz")).json()) == {"status", "kernel_status"}
        assert (await client.get("/api/readyz")).json() == {"status": "ready", "reasons": []}


@pytest.mark.parametrize(("method", "path"), [r for r in EVERY_ROUTE if r not in STREAMS])
async def test_every_answer_carries_the_security_headers(app: App, method: str, path: str) -> None:
    async with app.client() as client:
        headers = (await client.request(method, path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "access-control-allow-origin" not in headers


async def test_a_body_over_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with open_app(tmp_path, max_body_bytes=1_000) as app, app.client() as client:
        for method, path in (
            ("POST", "/mcp"),
            ("POST", "/"),
            ("PUT", "/api/connect"),
            ("POST", "/api/operations/undo"),
        ):
            declared = await client.request(method, path, content=b"x" * 1_001)
            streamed = await client.request(method, path, content=chunks())
            assert (declared.status_code, streamed.status_code) == (413, 413), path
        headers = {"mcp-protocol-version": MODERN, "content-type": "application/json"}
        assert (await client.post("/mcp", content=chunks(), headers=headers)).status_code == 413


async def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    async with open_app(tmp_path, rate_limit=5) as app:
        async with app.client() as client:
            statuses = [(await client.get("/health")).status_code for _ in range(6)]
            answer = await client.get("/api/operations")
        assert statuses == [200] * 5 + [429]
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 13
        async with app.client(address="127.0.0.2") as other:
            assert (await other.get("/health")).status_code == 200


def test_the_rate_refills_evenly() -> None:
    now = 0.0
    limit = RateLimit(60, clock=lambda: now)
    assert [limit.wait("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait("a") == pytest.approx(1.0)
    now = 1.0
    assert limit.wait("a") == 0.0
    assert limit.wait("a") > 0


BOMB = b"[" * 100_000 + b"]" * 100_000
NESTED = b'{"a":' * 900 + b"1" + b"}" * 900


@pytest.mark.parametrize("body", [BOMB, NESTED, b"{", b"\xff\xfe", b'{"jsonrpc":"2.0"', b'"text"', b"[]", b""])
async def test_bodies_that_are_not_a_call_are_a_client_error(app: App, body: bytes) -> None:
    sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    modern = {"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}
    async with app.client() as client:
        for path, headers in (("/mcp", sent), ("/", sent), ("/mcp", sent | modern)):
            answer = await client.post(path, content=body, headers=headers)
            assert answer.status_code == 400, (path, headers, answer.text)


@pytest.mark.parametrize("body", [BOMB, b"{", b"[]", b"\xff"])
async def test_rest_bodies_that_are_no_object_are_a_client_error(app: App, body: bytes) -> None:
    async with app.client() as client:
        for method, path in (("POST", "/api/operations/list_notebooks"), ("PUT", "/api/connect")):
            answer = await client.request(method, path, content=body)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), answer.text


ESCAPES = [
    "../outside.ipynb",
    "/etc/passwd",
    "a/../../outside.ipynb",
    "link.ipynb",
    "folder/outside.ipynb",
    "a\0b.ipynb",
]


@pytest.mark.parametrize("path", ESCAPES)
async def test_no_operation_reaches_outside_the_root(app: App, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside.ipynb"
    outside.write_text(notebook("secret = 'of the outside'"))
    (tmp_path / "root" / "link.ipynb").symlink_to(outside)
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    before = outside.read_bytes()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("read_all_cells", {"notebook_path": path}),
        ("get_notebook_info", {"notebook_path": path}),
        ("overwrite_cell_source", {"notebook_path": path, "cell_index": 0, "cell_source": "x"}),
        ("append_markdown_cell", {"notebook_path": path, "cell_source": "x"}),
        ("append_execute_code_cell", {"notebook_path": path, "cell_source": "1"}),
        ("create_notebook", {"notebook_path": path.replace("outside", "new")}),
        ("delete_cell", {"notebook_path": path, "cell_index": 0}),
    ]
    async with app.client() as client:
        for name, arguments in calls:
            answer = await client.post(f"/api/operations/{name}", json=arguments)
            assert 400 <= answer.status_code < 500, (name, answer.text)
            assert "of the outside" not in answer.text
        answer = await client.put("/api/connect", json={"room_id": path})
        assert 400 <= answer.status_code < 500, answer.text
    assert outside.read_bytes() == before
    assert not (tmp_path / "new.ipynb").exists()


@pytest.mark.parametrize("path", ["..", "/etc", "folder", "../state"])
async def test_no_listing_reaches_outside_the_root(app: App, tmp_path: Path, path: str) -> None:
    (tmp_path / "hidden-from-you.txt").write_text("x")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    async with app.client() as client:
        for name in ("list_files", "list_notebooks"):
            answer = await client.post(f"/api/operations/{name}", json={"path": path})
            assert "hidden-from-you" not in answer.text
            assert answer.status_code != 200 or "no " in answer.text.lower(), answer.text


async def test_a_failure_of_ours_tells_nothing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.services, "kernel_status", broken)
    async with app.client() as client:
        answer = await client.get("/api/healthz")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "secret" not in answer.text


async def test_a_websocket_is_closed(app: App) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await app.app({"type": "websocket", "path": "/mcp", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# --------------------------------------------------------------------------- names


async def test_a_configured_service_name_is_accepted_and_no_other(tmp_path: Path) -> None:
    async with open_app(tmp_path, allowed_hosts="my-service,other:9000,any.example:*") as app, app.client() as client:
        wanted = {
            "my-service": 200,
            "my-service:4040": 200,
            "MY-SERVICE": 200,
            "my-service:9": 421,
            "other:9000": 200,
            "other": 421,
            "any.example:1": 200,
            "any.example": 200,
            "not-any.example": 421,
            "my-service.evil.example": 421,
        }
        for host, status in wanted.items():
            assert (await client.get("/health", headers={"host": host})).status_code == status, host


async def test_a_configured_origin_is_accepted_and_no_other(tmp_path: Path) -> None:
    origins = "app.example,https://only-tls.example,http://dev.example:3000"
    async with open_app(tmp_path, allowed_origins=origins) as app, app.client() as client:
        wanted = {
            "https://app.example": 200,
            "http://app.example": 200,
            "https://app.example:8443": 403,
            "https://only-tls.example": 200,
            "http://only-tls.example": 403,
            "http://dev.example:3000": 200,
            "http://dev.example": 403,
            "http://localhost:8888": 200,
            "http://[::1]:8888": 200,
        }
        for origin, status in wanted.items():
            assert (await client.get("/health", headers={"origin": origin})).status_code == status, origin


def test_the_address_that_was_connected_to_is_a_name_of_ours() -> None:
    names = Names(loopback=False, extra=(), port=4040)
    assert names.host_allowed("10.1.2.3:4040", "10.1.2.3")
    assert not names.host_allowed("10.1.2.4:4040", "10.1.2.3")
    assert not names.host_allowed("localhost:4040", "10.1.2.3")


@pytest.mark.parametrize("value", ["a@b", "a/b", "a:b", "[::1", "a b", ":80", "", "a:99999", "a?b", "a#b"])
def test_what_is_no_host_is_none(value: str) -> None:
    assert split_host(value) is None


# --------------------------------------------------------------------------- tokens


def settings(folder: Path, **options: Any) -> Settings:
    return Settings.load({"root": folder, "state_dir": folder / "state", **options}, environ={})


def test_a_token_is_made_once_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with owned(own) as held:
        token = load_token(own)
        assert token is not None
        assert len(token) >= 43
        assert load_token(own) == token
        held.announce(url=f"{BASE}/mcp", token=token)
        for path in (own.state_dir / "token", own.root_state / "server.json", own.root_state / "server.lock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for folder in (own.state_dir, own.root_state):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    assert not (own.root_state / "server.json").exists()


def test_modes_that_a_volume_has_widened_are_narrowed_again(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with owned(own):
        token = load_token(own)
    kept = own.state_dir / "token"
    kept.chmod(0o660)
    own.root_state.chmod(0o2770)
    with owned(own):
        assert load_token(own) == token
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(own.root_state.stat().st_mode) & 0o777 == 0o700


def test_a_token_of_another_user_is_used_and_what_to_do_about_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = settings(tmp_path)
    with owned(own):
        token = load_token(own)
    (own.state_dir / "token").chmod(0o640)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as for whoever does not own the file

    monkeypatch.setattr(Path, "chmod", refuse)
    with owned(own):
        assert load_token(own) == token
    assert "may be read by others (mode 640) and belongs to another user: give one by MCP_JUPYTER_TOKEN" in caplog.text


def test_a_token_that_cannot_be_kept_says_how_to_give_one(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with owned(own):
        (own.state_dir / "token").mkdir()
        with pytest.raises(InvalidRequest, match="Give one by MCP_JUPYTER_TOKEN or --token"):
            load_token(own)


def test_a_given_token_is_not_written_down(tmp_path: Path) -> None:
    own = settings(tmp_path, token="mine")
    with owned(own):
        assert load_token(own) == "mine"
        assert not (own.state_dir / "token").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "my-host"])
def test_no_auth_on_the_network_needs_the_hosts_it_is_for(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidRequest, match="--no-auth"):
        refuse_unsafe(settings(tmp_path, host=host, no_auth=True))
    refuse_unsafe(settings(tmp_path, host=host, no_auth=True, allowed_hosts="svc"))
    refuse_unsafe(settings(tmp_path, host=host))
    refuse_unsafe(settings(tmp_path, host="127.0.0.1", no_auth=True))


# --------------------------------------------------------------------------- on the wire


def test_headers_without_end_are_refused_by_a_real_server(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)
            answer = connection.recv(100)
        assert answer.split(b" ")[1] in (b"400", b"431")
        two_hosts = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(two_hosts)
            assert connection.recv(100).split(b" ")[1] in (b"400", b"421")
    finally:
        server.stop()
