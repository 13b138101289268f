"""`PUT /api/connect` at a real Jupyter server, and what becomes of the place that is left."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from a_jupyter import TOKEN as JUPYTER_TOKEN
from a_jupyter import Jupyter
from http_app import BASE, TOKEN, App, open_app
from mcp_server_jupyter import places as places_module
from mcp_server_jupyter import services as services_module
from mcp_server_jupyter.addresses import Address
from mcp_server_jupyter.backends.jupyter.client import Client
from mcp_server_jupyter.errors import InvalidRequest
from mcp_server_jupyter.places import verify

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("jupyter")]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("connect"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
async def api(jupyter: Jupyter) -> AsyncIterator[Client]:
    async with Client(jupyter.url, JUPYTER_TOKEN) as client:
        yield client
        for session in await client.get("api/sessions"):
            await client.call("DELETE", f"api/sessions/{session['id']}", seconds=PATIENCE)
        for kernel in await client.get("api/kernels"):
            await client.call("DELETE", f"api/kernels/{kernel['id']}", seconds=PATIENCE)
        for entry in (await client.get("api/contents"))["content"]:
            await client.call("DELETE", f"api/contents/{entry['path']}")


@pytest.fixture
async def app(api: Client, tmp_path: Path) -> AsyncIterator[App]:
    async with open_app(tmp_path, notebook="a.ipynb") as opened:
        yield opened


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx2.AsyncClient]:
    async with app.client() as opened:
        opened.timeout = PATIENCE
        yield opened


def elsewhere(jupyter: Jupyter, **more: Any) -> dict[str, Any]:
    """The body of the guide."""
    return {
        "provider": "jupyter",
        "room_url": jupyter.url,
        "room_id": "a.ipynb",
        "room_token": JUPYTER_TOKEN,
        "runtime_url": jupyter.url,
        "runtime_id": None,
        "runtime_token": JUPYTER_TOKEN,
        **more,
    }


async def call(client: httpx2.AsyncClient, operation: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.post(f"/api/operations/{operation}", json=arguments)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def finished(client: httpx2.AsyncClient, execution_id: str) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE):
        while True:
            told = await call(client, "get_execution", execution_id=execution_id, wait_seconds=5)
            if told["data"]["status"] not in ("queued", "running"):
                return told


def untouched(app: App) -> bool:
    """Whether nothing is open but the place it was started in."""
    roots = [path for path in (app.places.home.settings.state_dir / "roots").iterdir() if path.is_dir()]
    return app.places.current is app.places.home and len(app.places.all()) == 1 and len(roots) == 1


# ------------------------------------------------------------------ there and back


async def test_calls_work_at_the_jupyter_that_was_connected_to_and_here_again_afterwards(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, api: Client
) -> None:
    await call(client, "append_execute_code_cell", cell_source="here = 1")
    answer = await client.put("/api/connect", json=elsewhere(jupyter))
    ran = await call(client, "append_execute_code_cell", cell_source="import os\nprint(6 * 7, os.getcwd())")
    told = await finished(client, ran["data"]["execution_id"])
    history_there = await call(client, "undo")
    back = await client.put("/api/connect", json={"room_url": BASE, "room_token": TOKEN})
    here = await call(client, "read_all_cells")

    assert (answer.status_code, answer.json()["created"], answer.json()["notebook"]) == (200, True, "a.ipynb")
    assert f"42 {jupyter.root}" in told["text"]
    assert len(await api.get("api/kernels")) == 1
    assert back.status_code == 200
    assert "here = 1" in here["text"]
    assert "6 * 7" not in here["text"]
    assert "here = 1" not in history_there["text"], "two places share a journal"


async def test_what_runs_at_the_place_that_is_left_goes_on_and_is_told_by_its_id(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await call(client, "append_execute_code_cell", cell_source="1")
    app.services.settings = replace(app.services.settings, wait_seconds=0.0)
    source = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('to the end')"
    left = await call(client, "append_execute_code_cell", cell_source=source)
    await client.put("/api/connect", json=elsewhere(jupyter))
    there = await call(client, "get_execution", execution_id=left["data"]["execution_id"])
    go.touch()
    told = await finished(client, left["data"]["execution_id"])
    metrics = (await client.get("/metrics")).text

    assert there["data"]["status"] in ("queued", "running")
    assert told["data"]["status"] == "ok"
    assert "to the end" in told["text"]
    assert 'mcp_jupyter_executions_total{status="ok"} 2.0' in metrics


async def test_events_are_those_of_the_place_that_calls_work_at(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter
) -> None:
    heard: list[str] = []
    app.places.events.listen(lambda event: heard.append(event.kind))
    await client.put("/api/connect", json=elsewhere(jupyter))
    heard.clear()
    app.services.events.publish("notebook.changed", notebook="a.ipynb")
    app.places.current.events.publish("notebook.unwritten", error="none")
    await client.put("/api/connect", json={"room_url": BASE})

    assert heard == ["notebook.unwritten", "place.changed"]


async def test_connecting_again_uses_the_token_that_was_sent_last(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter
) -> None:
    await client.put("/api/connect", json=elsewhere(jupyter))
    services = app.places.current
    outdated = replace(services.settings, room_token="old", runtime_token="old")
    await app.places.open(outdated)
    refused = await client.post("/api/operations/list_notebooks", json={})
    again = await client.put("/api/connect", json=elsewhere(jupyter))

    assert refused.status_code == 401
    assert again.status_code == 200
    assert app.places.current is services
    assert "a.ipynb" in (await call(client, "list_notebooks"))["text"]


async def test_places_in_which_nothing_runs_are_closed_for_others(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "MOST", 1)
    await client.put("/api/connect", json=elsewhere(jupyter))
    first = app.places.current
    await client.put("/api/connect", json={"room_url": BASE})
    localhost = jupyter.url.replace("127.0.0.1", "localhost")
    answer = await client.put("/api/connect", json=elsewhere(jupyter, room_url=localhost, runtime_url=localhost))

    assert answer.status_code == 200
    assert len(app.places.all()) == 2
    assert first not in app.places.all()


async def test_a_kernel_that_somebody_has_is_the_notebooks(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, api: Client
) -> None:
    kernel = await api.call("POST", "api/kernels", {"name": "python3"}, seconds=PATIENCE)
    answer = await client.put("/api/connect", json=elsewhere(jupyter, runtime_id=kernel["id"]))
    info = await call(client, "get_notebook_info")
    [session] = await api.get("api/sessions")

    assert answer.status_code == 200
    assert info["data"]["kernel_id"] == session["kernel"]["id"] == kernel["id"]


# ------------------------------------------------------------------ refused, and nothing changed


async def test_a_kernel_that_is_not_there_is_told_and_nothing_changes(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, api: Client
) -> None:
    answer = await client.put("/api/connect", json=elsewhere(jupyter, runtime_id="made-up"))

    assert answer.status_code == 404
    assert app.places.current is app.places.home
    assert (await api.get("api/contents"))["content"] == []


@pytest.mark.parametrize("field", ["room_token", "runtime_token"])
async def test_a_wrong_token_is_named_and_never_repeated(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, field: str
) -> None:
    answer = await client.put("/api/connect", json=elsewhere(jupyter, **{field: "wrong-secret"}))

    assert answer.status_code == 401
    assert answer.json()["message"].startswith(field)
    assert "wrong-secret" not in answer.text
    assert untouched(app)


async def test_one_address_and_its_token_stand_for_both(client: httpx2.AsyncClient, app: App, jupyter: Jupyter) -> None:
    wrong = await client.put("/api/connect", json={"runtime_url": jupyter.url, "runtime_token": "wrong-secret"})
    right = await client.put("/api/connect", json={"runtime_url": jupyter.url, "runtime_token": JUPYTER_TOKEN})

    assert (wrong.status_code, right.status_code) == (401, 200)
    assert wrong.json()["message"].startswith("runtime_token")
    assert (await call(client, "list_notebooks"))["data"]["notebooks"] == []


@pytest.mark.parametrize(
    "wrong",
    [{"room_url": "http://\ud800"}, {"room_url": "http://a b/"}, {"room_token": "\u00e9"}, {"room_token": "a\nb"}],
)
async def test_what_can_be_neither_address_nor_token_is_refused(
    client: httpx2.AsyncClient, app: App, jupyter: Jupyter, wrong: dict[str, str]
) -> None:
    body = json.dumps(elsewhere(jupyter, **wrong))
    answer = await client.put("/api/connect", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["message"].startswith(next(iter(wrong)))
    assert untouched(app)


async def test_our_own_token_goes_to_nobody_else(client: httpx2.AsyncClient, app: App, jupyter: Jupyter) -> None:
    answer = await client.put("/api/connect", json={"room_url": jupyter.url})

    assert answer.status_code == 401
    assert untouched(app)


async def test_a_jupyter_that_does_not_answer_is_named(client: httpx2.AsyncClient, app: App, tmp_path: Path) -> None:
    away = Jupyter(tmp_path / "away")
    try:
        answer = await client.put("/api/connect", json=elsewhere(away))
    finally:
        away.close()

    assert answer.status_code == 503
    assert answer.json()["message"].startswith("room_url")
    assert untouched(app)


async def test_another_provider_is_unknown_to_the_check_as_well() -> None:
    with pytest.raises(InvalidRequest):
        await verify("other", Address("http://localhost:1"), "kernels")


async def test_no_token_is_logged(
    client: httpx2.AsyncClient, jupyter: Jupyter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await client.put("/api/connect", json=elsewhere(jupyter))
    await call(client, "list_notebooks")

    assert JUPYTER_TOKEN not in caplog.text
    assert JUPYTER_TOKEN not in "".join(str(vars(record)) for record in caplog.records)


# ------------------------------------------------------------------ a Jupyter that is away when we start


async def test_we_start_without_jupyter_and_work_in_it_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_module, "_AGAIN_SECONDS", 0.05)
    jupyter = Jupyter(tmp_path / "late")
    options = {"kernels": None, "jupyter_url": jupyter.url, "jupyter_token": JUPYTER_TOKEN, "notebook": "a.ipynb"}
    try:
        async with open_app(tmp_path, **options) as app, app.client() as client:
            client.timeout = PATIENCE
            alive = [(await client.get(path)).status_code for path in ("/health", "/api/healthz")]
            refused = await client.post("/api/operations/read_all_cells", json={})
            await anyio.to_thread.run_sync(jupyter.start)
            with anyio.fail_after(PATIENCE):
                # When another server answers cannot be waited for.
                while (await client.post("/api/operations/read_all_cells", json={})).status_code != 200:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            ran = await call(client, "append_execute_code_cell", cell_source="6 * 7")
            told = await finished(client, ran["data"]["execution_id"])
    finally:
        jupyter.close()

    assert alive == [200, 200]
    assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
    assert "42" in told["text"]


async def test_a_server_that_is_to_start_no_kernel_uses_one_that_is_there(
    api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    options = {"kernels": None, "jupyter_url": jupyter.url, "jupyter_token": JUPYTER_TOKEN, "start_new_runtime": False}
    async with open_app(tmp_path, notebook="a.ipynb", **options) as app, app.client() as client:
        client.timeout = PATIENCE
        refused = await client.post("/api/operations/append_execute_code_cell", json={"cell_source": "6 * 7"})
        cells = await call(client, "read_all_cells")
        await call(client, "start_kernel", notebook_path="a.ipynb")
        ran = await call(client, "append_execute_code_cell", cell_source="6 * 7")
        told = await finished(client, ran["data"]["execution_id"])

    assert refused.status_code == 404
    assert "start_kernel" in refused.json()["hint"]
    assert "6 * 7" not in cells["text"]
    assert "42" in told["text"]


async def test_the_kernel_of_the_settings_is_the_default_notebooks(
    api: Client, jupyter: Jupyter, tmp_path: Path
) -> None:
    kernel = await api.call("POST", "api/kernels", {"name": "python3"}, seconds=PATIENCE)
    options = {"kernels": None, "jupyter_url": jupyter.url, "jupyter_token": JUPYTER_TOKEN, "runtime_id": kernel["id"]}
    async with open_app(tmp_path, notebook="a.ipynb", **options) as app, app.client() as client:
        info = await call(client, "get_notebook_info")

    assert info["data"]["kernel_id"] == kernel["id"]
