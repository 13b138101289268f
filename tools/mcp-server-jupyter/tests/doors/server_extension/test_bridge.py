"""ASGI over Tornado, with a real Tornado server and applications that say what they were given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from mcp_server_jupyter.doors.server_extension.bridge import AsgiHandler

pytestmark = pytest.mark.anyio
MOST = 1000


@web.stream_request_body
class Open(AsgiHandler):
    """Lets everybody in."""

    most_bytes = MOST  # type: ignore[assignment]

    def initialize(self, app: ASGIApp) -> None:
        self._app = app

    def prepare(self) -> None:
        self.refuse_big()

    async def get(self, path: str) -> None:
        await self.answer(self._app, path)

    head = post = put = delete = get


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    server = HTTPServer(web.Application([("(/.*)", Open, {"app": app})]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{sockets[0].getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        server.stop()
        await server.close_all_connections()


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await body_of(receive)
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
        "bytes": len(body),
    }
    headers = [(b"content-type", b"application/x-said"), (b"content-length", b"7"), (b"x-more", b"yes")]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def test_an_application_is_given_the_request_and_answers_it() -> None:
    async with serving(echo) as client:
        answer = await client.request("PUT", "/a/b?c=d", content=b"12345", headers={"X-Own": "1"})

    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-more"]) == (
        202,
        "application/x-said",
        "yes",
    )
    said = answer.json()
    assert (said["method"], said["path"], said["query"], said["bytes"]) == ("PUT", "/a/b", "c=d", 5)
    assert said["headers"]["x-own"] == "1"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_method_is_carried(method: str) -> None:
    async with serving(echo) as client:
        assert (await client.request(method, "/")).json()["method"] == method


async def test_a_head_request_is_answered_without_a_body() -> None:
    async with serving(echo) as client:
        answer = await client.head("/")

    assert (answer.status_code, answer.content, answer.headers["x-more"]) == (202, b"", "yes")


async def test_credentials_stay_with_who_has_looked_at_them() -> None:
    sent = {"Authorization": "token secret", "Cookie": "user=secret", "X-XSRFToken": "secret"}
    async with serving(echo) as client:
        answer = await client.get("/", headers=sent)

    assert "secret" not in answer.text


async def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    async with serving(echo) as client:
        assert (await client.post("/", content=b"x" * MOST)).json()["bytes"] == MOST
        assert (await client.post("/", content=b"x" * (MOST + 1))).status_code == 413


async def test_a_body_that_does_not_say_its_size_is_bounded_too() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * (MOST // 4)

    async with serving(echo) as client:
        assert (await client.post("/", content=chunks())).status_code == 413


async def test_what_is_sent_arrives_while_the_answer_goes_on() -> None:
    heard = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await heard.wait()
        await send({"type": "http.response.body", "body": b"second", "more_body": False})

    parts = []
    with anyio.fail_after(60):
        async with serving(app) as client, client.stream("GET", "/") as answer:
            async for part in answer.aiter_bytes():
                parts.append(part)
                heard.set()
    assert parts == [b"first", b"second"]


async def test_an_application_hears_that_its_client_has_left() -> None:
    left = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    with anyio.fail_after(60):
        async with serving(app) as client:
            async with client.stream("GET", "/") as answer:
                async for _ in answer.aiter_bytes():
                    break
            await left.wait()


async def test_writing_to_a_client_that_has_left_harms_nobody() -> None:
    done = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await receive()
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        done.set()

    with anyio.fail_after(60):
        async with serving(app) as client:
            async with client.stream("GET", "/") as answer:
                async for _ in answer.aiter_bytes():
                    break
            await done.wait()


async def test_an_application_that_fails_is_an_error_of_the_server(caplog: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    async with serving(app) as client:
        assert (await client.get("/")).status_code == 500
