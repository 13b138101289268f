"""An editor's window, as far as the server sees one: its stream of events, and what it posts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from http_app import BASE, TOKEN, App

SECONDS = 60


class Window:
    """One window over an app in process. `outputs` is what it shows of each execution, as the events say."""

    def __init__(self, app: App, window_id: str) -> None:
        self.id = window_id
        self.app = app
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.last_id: str | None = None
        self.outputs: dict[str, list[Any]] = {}
        self.seqs: dict[str, int] = {}
        self.http = app.client()
        self._news = anyio.Event()
        self._taken = 0

    def heard(self, name: str, data: dict[str, Any]) -> None:
        self.events.append((name, data))
        if name == "output":
            self._show(data)
        self._news.set()
        self._news = anyio.Event()

    def _show(self, data: dict[str, Any]) -> None:
        key = data["execution_id"]
        shown = self.outputs.setdefault(key, [])
        if data["ops"][0]["op"] != "clear":
            assert data["seq"] == self.seqs[key] + 1
        self.seqs[key] = data["seq"]
        for op in data["ops"]:
            match op["op"]:
                case "clear":
                    shown.clear()
                case "append":
                    shown.append(op["output"])
                case "text":
                    shown[op["index"]]["text"] += op["text"]
                case "replace":
                    shown[op["index"]] = op["output"]

    async def next(self, *names: str, **wanted: Any) -> dict[str, Any]:
        """The next event of these names with this in it; those before it are passed over."""
        with anyio.fail_after(SECONDS):
            while True:
                while self._taken < len(self.events):
                    name, data = self.events[self._taken]
                    self._taken += 1
                    if name in names and all(data.get(key) == value for key, value in wanted.items()):
                        return data
                await self._news.wait()

    async def post(self, path: str, /, **body: Any) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def say(self, type: str, /, **body: Any) -> Any:
        return await self.post(f"/api/editor/{self.id}", type=type, **body)

    async def run(self, *sources: str, path: str = "a.ipynb", **more: Any) -> list[str]:
        """Run cells c0, c1, … with these sources; the ids of their executions."""
        cells = [{"cell_id": f"c{number}", "source": source} for number, source in enumerate(sources)]
        answer = await self.post("/api/executions", notebook_path=path, cells=cells, **more)
        return [each["execution_id"] for each in answer["executions"]]

    async def until_done(self, execution_id: str) -> dict[str, Any]:
        while True:
            data = await self.next("execution", execution_id=execution_id)
            if data["finished_at"] is not None:
                return data

    def text(self, execution_id: str) -> str:
        return "".join(each.get("text") or each["data"]["text/plain"] for each in self.outputs.get(execution_id, []))


@asynccontextmanager
async def open_window(
    app: App, window_id: str = "w1", *, last_id: str | None = None, window: Window | None = None
) -> AsyncIterator[Window]:
    """A window with its stream, which is lost at the end; `window` is one that comes back."""
    window = window or Window(app, window_id)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stream, window, last_id)
        await window.next("state") if last_id is None else None
        try:
            yield window
        finally:
            tasks.cancel_scope.cancel()


async def _stream(window: Window, last_id: str | None) -> None:
    headers = [(b"host", BASE.removeprefix("http://").encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
    if last_id is not None:
        headers.append((b"last-event-id", last_id.encode()))
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/editor/{window.id}",
        "raw_path": f"/api/editor/{window.id}".encode(),
        "query_string": b"api=1",
        "headers": headers,
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 4040),
        "client": ("127.0.0.1", 50000),
        "root_path": "",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    buffer = bytearray()

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            return
        buffer.extend(message.get("body", b""))
        while (end := buffer.find(b"\n\n")) >= 0:
            frame = bytes(buffer[:end]).decode()
            del buffer[: end + 2]
            _frame(window, frame)
        await anyio.lowlevel.checkpoint()

    asked: list[bool] = []
    await window.app.app(scope, receive, send)


def _frame(window: Window, frame: str) -> None:
    fields = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line and not line.startswith(":"))
    if "id" in fields:
        window.last_id = fields["id"]
    if "event" in fields:
        window.heard(fields["event"], json.loads(fields["data"]))
