"""Whatever is sent to a door is answered: by a result, a JSON-RPC error or a 4xx; never by a crash or by nothing."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from http_app import INITIALIZE, META, MODERN, PORT, TOKEN, App, open_app
from inputs import JSON, PATHS, Inputs, call_of

pytestmark = pytest.mark.anyio

# What one server is asked before the next one starts with empty notebooks.
ROUND = 500
BOTH = b"application/json, text/event-stream"
Headers = list[tuple[bytes, bytes]]


@dataclass
class Request:
    """One request as it is on the wire."""

    method: str
    path: str
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    chunks: int = 1
    leaves: bool = False


@dataclass
class Reply:
    """What came back, until the client left."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False


async def send(app: App, request: Request) -> Reply:
    """Send a request, and leave an endless stream with its first piece."""
    size = -(-len(request.body) // request.chunks) or 1
    parts = [request.body[at : at + size] for at in range(0, len(request.body), size)] or [b""]
    gone = anyio.Event()
    reply = Reply()

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts) or request.leaves}
        if not request.leaves:
            await gone.wait()
        return {"type": "http.disconnect"}

    async def collect(message: Any) -> None:
        if message["type"] == "http.response.start":
            reply.status, reply.headers = message["status"], dict(message["headers"])
        else:
            reply.body += message.get("body", b"")
            reply.ended = not message.get("more_body", False)
        if request.method in ("GET", "HEAD") and b"event-stream" in reply.headers.get(b"content-type", b""):
            gone.set()

    path, _, query = request.path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": query.encode("utf-8", "replace"),
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 50_000),
        "headers": [
            (b"host", f"127.0.0.1:{PORT}".encode()),
            (b"authorization", f"Bearer {TOKEN}".encode()),
            *request.headers,
        ],
    }
    with anyio.fail_after(60):
        await app.app(scope, receive, collect)
    return reply


def judge(request: Request, reply: Reply) -> None:
    """Fail on a crash, on a traceback and on an answer of nothing."""
    body = reply.body
    assert reply.status, "no answer"
    assert reply.status < 500 or reply.status in (501, 502, 503), body
    assert reply.status < 400 or b"Traceback" not in body
    assert b'"internal"' not in body
    if request.leaves or request.method == "HEAD" or reply.status in (202, 204, 405, 406):
        return
    if request.method == "GET" and b"event-stream" in reply.headers[b"content-type"]:
        return
    assert body or request.method == "DELETE", "nothing"
    kind = reply.headers.get(b"content-type", b"")
    if kind.startswith(JSON) and body:
        _judge_json(json.loads(body.decode()), reply)
    elif kind.startswith(b"text/event-stream") and request.method == "POST":
        events = [line[5:] for line in body.splitlines() if line.startswith(b"data:") and line[5:].strip()]
        _judge_json(json.loads(events[-1].decode()), reply)


def _judge_json(answer: Any, reply: Reply) -> None:
    if isinstance(answer, dict) and "jsonrpc" in answer:
        assert ("result" in answer) != ("error" in answer), answer
        if "error" in answer:
            assert answer["error"]["code"] != -32603, answer
            assert "Traceback" not in str(answer)


# --------------------------------------------------------------------------- doors

Ask = Callable[[Inputs], Request]


async def rest(app: App) -> Ask:
    """`POST /api/operations/{name}`."""

    def ask(inputs: Inputs) -> Request:
        name = inputs.operation()
        body = inputs.body(inputs.arguments(name) if inputs.often(0.97) else inputs.value())
        return Request(
            "POST",
            f"/api/operations/{name}",
            body,
            [(b"content-type", inputs.kind())],
            inputs.chunks(),
            inputs.leaves(),
        )

    return ask


async def bare(app: App) -> Ask:
    """`POST /mcp` of a client that knows no MCP."""

    def ask(inputs: Inputs) -> Request:
        message: Any = call_of(inputs) if inputs.often(0.97) else inputs.value()
        if inputs.often(0.02):
            message = [message]
        path = inputs.random.choice(("/mcp", "/", "/mcp/"))
        return Request(
            "POST",
            path,
            inputs.body(message),
            [(b"content-type", inputs.kind())],
            inputs.chunks(),
            inputs.leaves(),
        )

    return ask


async def legacy(app: App) -> Ask:
    """Streamable HTTP of 2025, in a session."""
    kinds = [(b"content-type", JSON), (b"accept", BOTH)]
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    opened = await send(app, Request("POST", "/mcp", json.dumps(hello).encode(), kinds))
    session = (b"mcp-session-id", opened.headers[b"mcp-session-id"])
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await send(app, Request("POST", "/mcp", json.dumps(ready).encode(), [*kinds, session]))

    def ask(inputs: Inputs) -> Request:
        headers = [(b"content-type", inputs.kind()), (b"accept", BOTH)]
        headers.append(session if inputs.often(0.97) else (b"mcp-session-id", inputs.text().encode("utf-8", "replace")))
        if inputs.often(0.03):
            return Request("GET", "/mcp", b"", [*headers, (b"last-event-id", b"9" * 5_000)])
        return Request("POST", "/mcp", inputs.body(call_of(inputs)), headers, inputs.chunks(), inputs.leaves())

    return ask


async def modern(app: App) -> Ask:
    """Streamable HTTP of 2026-07-28."""

    def ask(inputs: Inputs) -> Request:
        meta = META if inputs.often(0.95) else {**META, inputs.random.choice(tuple(META)): inputs.value()}
        message = call_of(inputs, meta)
        params = message.get("params")
        name = params.get("name", params.get("uri")) if isinstance(params, dict) else None
        method = message.get("method")
        headers = [
            (b"content-type", inputs.kind()),
            (b"accept", BOTH),
            (b"mcp-protocol-version", MODERN.encode() if inputs.often(0.97) else b"2031-01-01"),
            (b"mcp-method", _header(method)),
        ]
        if name is not None:
            headers.append((b"mcp-name", _header(name) if inputs.often(0.97) else b"=?base64?!?="))
        return Request("POST", "/mcp", inputs.body(message), headers, inputs.chunks(), inputs.leaves())

    return ask


def _header(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else b"none"


async def events(app: App) -> Ask:
    """`/api/events`."""
    ends = (
        b"9" * 5_000,
        "²".encode(),
        "٣".encode(),
        b"-1",
        b"-",
        b"a-b",
        b"1-1-1",
        b"",
        b"\xff",
        b"18446744073709551616",
    )

    def ask(inputs: Inputs) -> Request:
        method = inputs.random.choice(("GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"))
        start = (await_start.encode(), b"x", b"")
        last = inputs.random.choice(start) + b"-" + inputs.random.choice(ends)
        if inputs.often(0.2):
            last = inputs.text().encode("utf-8", "replace")
        return Request(method, "/api/events", inputs.body(inputs.value()), [(b"last-event-id", last)])

    await_start = (await send(app, Request("GET", "/api/events"))).body.decode().partition("id: ")[2].partition("-")[0]
    return ask


async def connect(app: App) -> Ask:
    """`PUT /api/connect`, and the routes that take nothing."""
    names = ("provider", "room_url", "room_id", "room_token", "runtime_url", "runtime_id", "runtime_token")
    urls = (
        f"http://127.0.0.1:{PORT}",
        "http://[::1",
        "http://a:99999",
        "http://a:b@c:1",
        "http://\ud800",
        "//",
        "http://a:²",
    )
    given: tuple[Any, ...] = (*urls, "a.ipynb", TOKEN, None, 5)

    def ask(inputs: Inputs) -> Request:
        if inputs.often(0.1):
            path = inputs.random.choice(("/health", "/api/healthz", "/api/readyz", "/metrics", "/api/operations", "/x"))
            method = inputs.random.choice(("GET", "HEAD", "POST", "PUT", "OPTIONS", "PATCH"))
            return Request(method, path, inputs.body(inputs.value()), [(b"accept", inputs.kind())])
        body = {
            name: inputs.random.choice(given) if inputs.often(0.7) else inputs.value()
            for name in names
            if inputs.often(0.4)
        }
        return Request("PUT", "/api/connect", inputs.body(body), [(b"content-type", inputs.kind())], inputs.chunks())

    return ask


async def editor(app: App) -> Ask:
    """What an editor's window says, and the other routes of editors."""
    routes = next(route.endpoint.__self__ for route in app.app.routes if route.path == "/api/shutdown")
    routes._windows.open("w1")
    cell = {"id": "new", "cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
    ids = ("new", "gone", "", "a b", None, 5)
    kinds = ("open", "change", "saved", "renamed", "close", "reply", "open", "change")

    def op(inputs: Inputs) -> Any:
        choose = inputs.random.choice
        made = {
            "op": choose(("insert", "delete", "move", "source", "type", "metadata", "outputs", "paint")),
            "id": choose(ids),
            "index": choose((0, 1, -1, 10**30, "0", None, True)),
            "cell": choose((cell, {}, None, {**cell, "id": "a/b"}, {**cell, "outputs": [1]}, inputs.value())),
            "hash": choose((None, "0" * 12, 5)),
            "source": choose(("x", "\ud83d", None, inputs.value())),
            "cell_type": choose(("code", "markdown", "none", None)),
            "metadata": choose(({}, {"tags": [1]}, None, inputs.value())),
            "outputs": choose(([], [{}], [{"output_type": "stream", "name": "stdout", "text": "a"}], None, 1)),
        }
        return (
            {key: value for key, value in made.items() if inputs.often(0.85)} if inputs.often(0.9) else inputs.value()
        )

    def said(inputs: Inputs) -> dict[str, Any]:
        choose = inputs.random.choice
        made = {
            "type": choose(kinds),
            "path": choose((*PATHS, None, 5)),
            "to": choose(PATHS),
            "dirty": choose((True, False, None, 1)),
            "shared": choose((True, False, "no")),
            "notebook": choose(({"cells": [cell], "nbformat": 4}, {"cells": [{}], "nbformat": 4}, inputs.value())),
            "base": choose((1, 2, 3, -1, 2**70, "1")),
            "version": choose((2, 3, 4, 0, None)),
            "ops": choose(([op(inputs), op(inputs)], [], inputs.value())),
            "request": choose(("r1", None, "\ud83d")),
            "status": choose(("applied", "refused", "maybe")),
        }
        return {key: value for key, value in made.items() if inputs.often(0.9)}

    def ask(inputs: Inputs) -> Request:
        choose = inputs.random.choice
        headers, body = [(b"content-type", inputs.kind())], inputs.value()
        if inputs.often(0.6):
            return Request("POST", "/api/editor/w1", inputs.body(said(inputs)), headers, inputs.chunks())
        if inputs.often(0.3):
            cells = [{"cell_id": choose(ids), "source": "1"} for _ in range(inputs.random.randint(0, 2))]
            body = {"notebook_path": choose(PATHS), "cells": cells, "stop_on_error": choose((True, None, "yes"))}
            return Request("POST", "/api/executions", inputs.body(body), headers)
        rules = {
            "paused": choose((False, None, "x")),
            "run": choose(("allow", None, "x")),
            "notebook_path": choose(PATHS),
        }
        method, path, body = choose(
            (
                ("PUT", "/api/agents", rules),
                ("POST", "/api/approvals/x", {"decision": choose(("approve", None)), "for": choose(("once", 1))}),
                ("GET", f"/api/activity?limit={choose(('1', '²', '-1', '9' * 5_000))}", None),
                ("GET", "/api/executions/x²/outputs", None),
                ("PUT", "/api/notebooks/a.ipynb/kernel", {"kernel_id": choose((None, 5, "x"))}),
                ("POST", "/api/shutdown", {"when": choose(("now", "then", 5))}),
                ("POST", "/api/editor/nobody", {}),
            )
        )
        return Request(method, path, inputs.body(body), headers)

    return ask


DOORS = (rest, bare, legacy, modern, events, connect, editor)


# --------------------------------------------------------------------------- the tests


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[App]:
    await anyio.Path(folder).mkdir()
    async with open_app(folder, contents="memory", notebook="a.ipynb", wait_seconds=0.2, max_kernels=5) as app:
        for path in PATHS[1:5]:
            await send(app, _operation("create_notebook", notebook_path=path))
            await send(app, _operation("append_execute_code_cell", notebook_path=path, cell_source="print('x' * 9)"))
        await send(app, _operation("append_markdown_cell", notebook_path="surrogate.ipynb", cell_source="a \ud83d b"))
        yield app


def _operation(name: str, /, **arguments: Any) -> Request:
    return Request("POST", f"/api/operations/{name}", json.dumps(arguments).encode(), [(b"content-type", JSON)])


async def failures(door: Callable[[App], Any], folder: Path, seeds: range, caplog: Any) -> list[str]:
    """What was not answered as it should be: the seed, the request and the reason of each."""
    found: list[str] = []
    for start in seeds[::ROUND]:
        async with opened(folder / str(start)) as app:
            ask = await door(app)
            for seed in range(start, min(start + ROUND, seeds.stop)):
                request = ask(Inputs(seed))
                caplog.clear()
                try:
                    judge(request, await send(app, request))
                    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
                    assert not logged, "logged as an error"
                except Exception as error:  # noqa: BLE001 - whatever gets out of the app is what is looked for
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    found.append(f"seed {seed}: {error!r:.300} at {where.filename}:{where.lineno}\n{request!r:.1000}")
    return found


@pytest.mark.parametrize("door", DOORS)
async def test_every_input_is_answered(
    door: Callable[[App], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await failures(door, tmp_path, range(300), caplog) == []


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("door", DOORS)
async def test_fifty_thousand_inputs_are_answered(
    door: Callable[[App], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await failures(door, tmp_path, range(1_000, 51_000), caplog) == []
