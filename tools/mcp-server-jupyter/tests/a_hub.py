"""A fake of JupyterHub's API, in front of real Jupyter servers; what a real hub does is tried by `make e2e-hub`.

It is a fake because a hub with its proxy takes half a minute and npm. It knows users, groups and tokens with scopes,
makes tokens, starts servers and tells how far they are, and can be away, slow or overrun.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from support import eventually

SERVICE_TOKEN = "service-token-0123456789"
API = "/hub/api"


@dataclass
class User:
    """A user of the hub. `url` is where their server is, None while it is stopped."""

    name: str
    groups: tuple[str, ...] = ()
    url: str | None = None
    pending: bool = False


@dataclass
class FakeHub:
    """What the hub knows, and what it was asked.

    `accepted` is a file with the tokens that the users' servers take, by user; see `hub_identity`.
    """

    accepted: Path
    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    minted: list[dict[str, Any]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    starts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    role: tuple[str, ...] = ("read:servers", "start:servers", "tokens", "list:users", "read:users:activity")
    """Scopes of the service, for everybody."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """What the next requests of the service are answered with instead."""
    url: str = ""

    def add(self, name: str, *groups: str, url: str | None = None) -> str:
        """A user, and a token that may do what the user may."""
        self.users[name] = User(name, groups, url)
        return self.token(name, "tokens", "access:servers", "servers")

    def token(self, name: str, *scopes: str) -> str:
        """Another token of a user, whose scopes are for that user."""
        token = secrets.token_hex(16)
        self.tokens[token] = {"name": name, "scopes": [s if "!" in s else f"{s}!user={name}" for s in scopes]}
        return token

    def count(self, method: str, path: str) -> int:
        return sum(asked[:2] == (method, f"{API}/{path}") for asked in self.asked)

    # ------------------------------------------------------------------ routes

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(f"{API}/user", self._self),
                Route(f"{API}/users", self._list),
                Route(f"{API}/users/{{name}}", self._user),
                Route(f"{API}/users/{{name}}/tokens", self._mint, methods=["POST"]),
                Route(f"{API}/users/{{name}}/tokens/{{id}}", self._revoke, methods=["DELETE"]),
                Route(f"{API}/users/{{name}}/server", self._start, methods=["POST"]),
                Route(f"{API}/users/{{name}}/server/progress", self._progress),
            ]
        )

    def _sent(self, request: Request) -> str:
        token = request.headers["authorization"].removeprefix("token ")
        self.asked.append((request.method, request.url.path, token))
        return token

    def _refusal(self, request: Request) -> Response | None:
        """Of what only the service may ask."""
        if self._sent(request) != SERVICE_TOKEN:
            return _error(403)
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return _error(status, headers)
        return None if request.path_params["name"] in self.users else _error(404)

    async def _self(self, request: Request) -> Response:
        token = self._sent(request)
        if token == SERVICE_TOKEN:
            return JSONResponse({"kind": "service", "name": "tutor", "scopes": list(self.role)})
        if token not in self.tokens:
            return _error(403)
        known = self.tokens[token]
        user = self.users[known["name"]]
        model = {"kind": "user", "name": user.name, "groups": list(user.groups), "scopes": known["scopes"]}
        return JSONResponse(model, headers={"set-cookie": f"who={user.name}"})

    async def _list(self, request: Request) -> Response:
        self._sent(request)
        if "list:users" not in self.role:
            return _error(403)
        query = request.query_params
        wanted = [each for each in self.users.values() if each.url or query.get("state") != "active"]
        offset = int(query["offset"])
        page = wanted[offset : offset + int(query["limit"])]
        return JSONResponse({"items": [self._model(each) for each in page], "_pagination": {"total": len(wanted)}})

    async def _user(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        return JSONResponse(self._model(self.users[request.path_params["name"]]))

    def _model(self, user: User) -> dict[str, Any]:
        server = {
            "name": "",
            "ready": user.url is not None and not user.pending,
            "pending": "spawn" if user.pending else None,
            "url": f"/user/{user.name}/",
            "full_url": user.url,
        }
        seen = {"last_activity": "2026-01-01T12:00:00Z"} if "read:users:activity" in self.role else {}
        return {"name": user.name, "servers": {"": server}, **seen}

    async def _mint(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        if "tokens" not in self.role:
            return _error(403)
        body = await request.json()
        name = request.path_params["name"]
        made = {"id": f"a{len(self.minted)}", "token": secrets.token_hex(16), "user": name, **body}
        self.minted.append(made)
        self._write()
        return JSONResponse({"id": made["id"], "token": made["token"]}, status_code=201)

    async def _revoke(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        self.revoked.append(request.path_params["id"])
        self._write()
        return Response(status_code=204)

    def _write(self) -> None:
        good = [each for each in self.minted if each["id"] not in self.revoked]
        draft = self.accepted.with_suffix(".new")
        draft.write_text(json.dumps({each["token"]: each["user"] for each in good}))
        draft.replace(self.accepted)

    def take_back(self, token_id: str) -> None:
        """One that was made opens nothing any more."""
        self.revoked.append(token_id)
        self._write()

    def forget_tokens(self) -> None:
        """As a hub does that was started anew without its database."""
        self.revoked = [each["id"] for each in self.minted]
        self._write()

    async def _start(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        user = self.users[request.path_params["name"]]
        if user.url is not None:
            return _error(400)
        user.pending = True
        return Response(status_code=202)

    async def _progress(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        user = self.users[request.path_params["name"]]
        return StreamingResponse(self._events(user), media_type="text/event-stream")

    async def _events(self, user: User) -> AsyncIterator[bytes]:
        for event in self.starts[user.name]:
            yield b"\n\n"
            if event.get("ready") or event.get("failed"):
                user.pending = False
                user.url = event.get("url")
            yield f"data: {json.dumps(event)}\n\n".encode()


def _error(status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"status": status, "message": f"the fake hub says {status}"}, status, headers=headers)


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """One that listens, in a thread of its own."""
    hub = FakeHub(folder / "accepted.json")
    hub._write()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(hub.app(), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    eventually(lambda: server.started, 60, "the fake hub's start")
    hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}{API}"
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
