"""The HTTP app in process, and a client on standard input and output that sends exactly what it is told to."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2

from mcp_server_jupyter.doors.http.app import create_http
from mcp_server_jupyter.doors.mcp.server import create_mcp
from mcp_server_jupyter.places import Places, open_places
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

COMMAND = [sys.executable, "-m", "mcp_server_jupyter"]
TOKEN = "the-token-of-the-tests"
PORT = 4040
BASE = f"http://127.0.0.1:{PORT}"
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
}
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


def clean_environment() -> dict[str, str]:
    """This process's environment without any setting of ours, but for this: servers end with their last client."""
    foreign = {"PORT", "JUPYTER_TOKEN", "TRANSPORT"} | {
        f"{side}_{what}" for side in ("ROOM", "RUNTIME") for what in ("URL", "TOKEN", "ID")
    }
    own = {k: v for k, v in os.environ.items() if not k.startswith("MCP_JUPYTER_") and k not in foreign}
    return {**own, "MCP_JUPYTER_LINGER_MINUTES": "0"}


class App:
    """The HTTP app over services of its own, with a client that holds the token."""

    def __init__(self, app: Any, places: Places) -> None:
        self.app = app
        self.places = places
        self.services = places.home

    def client(self, *, token: str | None = TOKEN, address: str = "127.0.0.1", base: str = BASE) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app, client=(address, 50000), raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(transport=transport, base_url=base, headers=headers)


@asynccontextmanager
async def open_app(folder: Path, *, token: str | None = TOKEN, **options: Any) -> AsyncIterator[App]:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    state = folder / "state"
    state.mkdir(exist_ok=True)
    given = {"root": root, "state_dir": state, "kernels": "memory", "rate_limit": 0, **options}
    async with open_services(Settings.load(given, environ={})) as services, open_places(services) as places:
        app = create_http(places, create_mcp(places), token, port=PORT)
        async with app.router.lifespan_context(app):
            yield App(app, places)


def notebook(*sources: str) -> str:
    """A notebook file with these code cells."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for i, text in enumerate(sources)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


class Stdio:
    """One end of the bare command's standard streams."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._next_id = 0
        self.others: list[dict[str, Any]] = []
        self.on_other: Callable[[dict[str, Any]], None] = lambda message: None
        """Told of each message that comes while another one is waited for."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        self._next_id += 1
        message = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params or {}}
        self.write(json.dumps(message).encode() + b"\n")
        return self._next_id

    def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params or {}}).encode() + b"\n")

    def receive(self, request_id: int | None, seconds: float = 60) -> dict[str, Any]:
        """The answer to `request_id`, if it came before others' too; every line must be one JSON-RPC message."""
        for early in [m for m in self.others if "method" not in m and m.get("id") == request_id]:
            self.others.remove(early)
            return early
        while True:
            line = self._lines.get(timeout=seconds)
            assert line, f"the server closed its output (exit code {self.process.wait(60)})"
            message: dict[str, Any] = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if "method" not in message and message.get("id") == request_id:
                return message
            self.others.append(message)
            self.on_other(message)

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.receive(self.send(method, params))

    def initialize(self) -> dict[str, Any]:
        answer = self.ask("initialize", INITIALIZE)
        self.notify("notifications/initialized")
        return answer

    def call(self, name: str, /, **arguments: Any) -> str:
        """The text of a tool's result."""
        return text_of(self.ask("tools/call", {"name": name, "arguments": arguments}))

    def close(self) -> int:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.process.wait(60)


def text_of(answer: dict[str, Any]) -> str:
    """The text of a JSON-RPC answer to `tools/call`."""
    assert "result" in answer, answer
    return "\n".join(part["text"] for part in answer["result"]["content"] if part["type"] == "text")


@contextmanager
def stdio(
    root: Path,
    state: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    before: str = "",
    log: Path | None = None,
) -> Iterator[Stdio]:
    """The bare command as a client starts it; `before` is Python that runs first, `log` takes its standard error."""
    root.mkdir(parents=True, exist_ok=True)
    run = f"import sys; {before}\nfrom mcp_server_jupyter.cli import main; main()"
    command = [sys.executable, "-c", run] if before else COMMAND
    arguments = [*command, f"--root={root}", f"--state-dir={state}", *options]
    with (
        (log or Path(os.devnull)).open("ab") as stderr,
        subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**clean_environment(), **(env or {})},
        ) as process,
    ):
        client = Stdio(process)
        try:
            yield client
        finally:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
