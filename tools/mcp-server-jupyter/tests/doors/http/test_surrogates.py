"""Half a character in a document: kept on the way in, shown as its escape on the way out, at every door."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_app import INITIALIZE, META, MODERN, App, open_app
from mcp_server_jupyter.doors.http.events import EventLog
from mcp_server_jupyter.events import Events

pytestmark = pytest.mark.anyio

BOTH = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
HALF = "\ud83d"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path, contents="memory", notebook="s.ipynb") as app:
        async with app.client() as client:
            body = {"cell_source": f"broken {HALF} emoji"}
            answer = await client.post("/api/operations/append_markdown_cell", content=json.dumps(body))
        assert answer.status_code == 200, answer.text
        yield app


async def test_rest_keeps_it_and_answers_with_it(app: App) -> None:
    (cell,) = (await app.services.contents.read("s.ipynb")).cells
    assert cell.source == f"broken {HALF} emoji"
    async with app.client() as client:
        answer = await client.post("/api/operations/read_cell", json={"cell_index": 0})
    assert answer.status_code == 200
    assert json.loads(answer.content)["data"]["source"] == f"broken {HALF} emoji"


@pytest.mark.parametrize("era", ["bare", "legacy", "modern"])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "read_all_cells", "arguments": {}}),
        ("resources/read", {"uri": "notebook://s.ipynb"}),
    ],
)
async def test_mcp_shows_its_escape(app: App, era: str, method: str, params: dict[str, Any]) -> None:
    headers = dict(BOTH)
    async with app.client() as client:
        if era == "modern":
            params = {**params, "_meta": META}
            headers |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            headers["mcp-name"] = params.get("name") or params["uri"]
        if era == "legacy":
            hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
            opened = await client.post("/mcp", json=hello, headers=headers)
            headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            await client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await client.post("/mcp", json=call, headers=headers)
    assert answer.status_code == 200
    data = answer.text.partition("data: ")[2] if era == "legacy" else answer.text
    assert "broken \\ud83d emoji" in json.dumps(json.loads(data)["result"]).replace("\\\\", "\\")


async def test_running_it_is_answered_and_journaled(app: App) -> None:
    async with app.client() as client:
        body = json.dumps({"cell_source": f"text = '{HALF}'"})
        answer = await client.post("/api/operations/append_execute_code_cell", content=body)
        assert answer.status_code == 200
        execution = json.loads(answer.content)["data"]["execution_id"]
    row = app.services.journal.execution(execution)
    assert row is not None
    assert row.code == f"text = '{HALF}'"


async def test_an_event_that_carries_it_is_told() -> None:
    events = Events()
    log = EventLog(events)
    with log.following():
        events.publish("notebook.changed", notebook=f"{HALF}.ipynb")
    stream = log.stream("another-1")
    pieces = [await anext(stream) for _ in range(3)]
    await stream.aclose()
    assert b'"notebook":"\\ud83d.ipynb"' in pieces[2]
