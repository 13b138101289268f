"""Our server inside a real Jupyter server, as the wheel enables it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from a_jupyter import TOKEN, Jupyter
from http_app import text_of
from support import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("jupyter-extension")]
PATIENCE = 120.0
PROJECT = Path(__file__).resolve().parents[3]
BASE = "/hub/user/x/"
PREFIXES = ("api/mcp", "api/tk-ai/mcp")


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    folder = tmp_path_factory.mktemp("extension")
    enabled = next((PROJECT / "jupyter-config").rglob("*.json"))
    config = folder / "jupyter_config_dir" / "jupyter_server_config.d" / enabled.name
    config.parent.mkdir(parents=True)
    config.write_bytes(enabled.read_bytes())
    server = Jupyter(folder, base=BASE, extensions=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MCP_JUPYTER_STATE_DIR", str(folder / "state"))
        environment.setenv("MCP_JUPYTER_WAIT_SECONDS", str(PATIENCE))
        try:
            server.start()
            # Under load it opens later than a call waits for it.
            url = f"{server.url}api/mcp/api/operations"
            eventually(lambda: answer_of(url, Authorization=f"token {TOKEN}")[0] == 200, PATIENCE, "our server")
            yield server
        finally:
            server.close()


def answer_of(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, b"{}" if method == "POST" else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def operate(jupyter: Jupyter, web: httpx2.AsyncClient, name: str, **arguments: Any) -> dict[str, Any]:
    answer = await web.post(f"{jupyter.url}api/mcp/api/operations/{name}", json=arguments)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    assert not done["is_error"], done["text"]
    return done


@asynccontextmanager
async def signed_in(jupyter: Jupyter) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"Authorization": f"token {TOKEN}"}, timeout=60) as web:
        yield web


@pytest.mark.parametrize("prefix", PREFIXES)
def test_health_is_open_and_nothing_else_is(jupyter: Jupyter, prefix: str) -> None:
    status, body = answer_of(f"{jupyter.url}{prefix}/health")

    assert status == 200
    assert json.loads(body) | {"version": ""} == {"status": "ok", "service": "mcp-server-jupyter", "version": ""}
    for path in ("", "/", "/api/operations", "/api/healthz", "/metrics"):
        assert answer_of(f"{jupyter.url}{prefix}{path}")[0] in (401, 403), path
    assert answer_of(f"{jupyter.url}{prefix}/", "POST")[0] == 403


def test_a_page_of_another_origin_is_refused(jupyter: Jupyter) -> None:
    url = f"{jupyter.url}api/mcp/api/operations/list_notebooks"
    own = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}

    assert answer_of(url, "POST", **own)[0] == 200
    assert answer_of(url, "POST", Origin="http://evil.test")[0] in (401, 403, 404)


async def test_a_browser_that_is_signed_in_by_a_cookie_needs_the_token_against_forged_requests(
    jupyter: Jupyter,
) -> None:
    url = f"{jupyter.url}api/mcp/api/operations/list_notebooks"
    async with httpx2.AsyncClient(timeout=60) as browser:
        await browser.get(f"{jupyter.url}login")
        await browser.get(f"{jupyter.url}api/status", params={"token": TOKEN})
        read = await browser.get(f"{jupyter.url}api/mcp/api/operations", headers={"Referer": jupyter.url})
        forged = await browser.post(url, json={})
        meant = await browser.post(url, json={}, headers={"X-XSRFToken": browser.cookies["_xsrf"]})

    assert (read.status_code, forged.status_code, meant.status_code) == (200, 403, 200)
    assert forged.headers["connection"] == "close"


@pytest.mark.parametrize(("mode", "prefix"), [("auto", PREFIXES[0]), ("legacy", PREFIXES[1])])
async def test_the_official_client_hears_a_cell_that_runs_in_the_notebooks_own_kernel(
    jupyter: Jupyter, prefix: str, mode: str
) -> None:
    name = f"{mode}-{prefix.count('/')}.ipynb"
    heard = jupyter.root / f"{name}.heard"

    async def progress(_: float, __: float | None, message: str | None) -> None:
        if message and "begun" in message:
            heard.touch()

    # It ends only once its first line has been heard.
    source = (
        f"import pathlib, time\nprint('begun', flush=True)\n"
        f"while not pathlib.Path({str(heard)!r}).exists(): time.sleep(0.02)\nprint('ended')"
    )
    with anyio.fail_after(PATIENCE):
        async with (
            signed_in(jupyter) as web,
            Client(streamable_http_client(f"{jupyter.url}{prefix}/", http_client=web), mode=mode) as client,
        ):
            tools = {tool.name for tool in (await client.list_tools()).tools}
            await client.call_tool("create_notebook", {"notebook_path": name})
            arguments = {"notebook_path": name, "cell_source": source}
            result: Any = await client.call_tool("append_execute_code_cell", arguments, progress_callback=progress)
            sessions = (await web.get(f"{jupyter.url}api/sessions")).json()

    assert "append_execute_code_cell" in tools
    assert "ended" in result.content[0].text
    assert [session["path"] for session in sessions if session["path"] == name] == [name]


async def test_the_kernel_that_jupyterlab_has_started_is_the_notebooks_only_one(jupyter: Jupyter) -> None:
    body = {"path": "shared.ipynb", "name": "shared.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    async with signed_in(jupyter) as web:
        theirs = (await web.post(f"{jupyter.url}api/sessions", json=body)).json()["kernel"]["id"]
        await operate(jupyter, web, "create_notebook", notebook_path="shared.ipynb")
        code = "import ipykernel\nprint(ipykernel.get_connection_file())"
        ran = await operate(jupyter, web, "append_execute_code_cell", notebook_path="shared.ipynb", cell_source=code)
        sessions = (await web.get(f"{jupyter.url}api/sessions")).json()

    assert theirs in ran["text"]
    assert [each["kernel"]["id"] for each in sessions if each["path"] == "shared.ipynb"] == [theirs]


async def test_a_bare_call_and_the_operations_are_answered(jupyter: Jupyter) -> None:
    async with signed_in(jupyter) as web:
        asked = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "list_notebooks", "arguments": {}},
        }
        bare = await web.post(f"{jupyter.url}api/mcp", json=asked)
        listed = await web.get(f"{jupyter.url}api/mcp/api/operations")
        unknown = await web.put(f"{jupyter.url}api/mcp/api/connect", json={})

    assert not bare.json()["result"].get("isError"), text_of(bare.json())
    assert "list_notebooks" in {each["name"] for each in listed.json()["operations"]}
    assert unknown.status_code in (404, 405)


def test_a_head_request_is_answered(jupyter: Jupyter) -> None:
    assert answer_of(f"{jupyter.url}api/mcp/health", "HEAD") == (200, b"")
    status, body = answer_of(f"{jupyter.url}api/mcp/metrics", "HEAD", Authorization=f"token {TOKEN}")
    assert (status, body) == (200, b"")


def test_a_body_is_not_read_of_those_who_are_not_signed_in(jupyter: Jupyter) -> None:
    parts = urlsplit(jupyter.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.putrequest("POST", f"{parts.path}api/mcp")
    connection.putheader("Content-Length", str(2**20))
    connection.endheaders()
    # Nothing of it was sent, and the answer is there.
    assert connection.getresponse().status == 403
    connection.close()


def test_jupyter_has_loaded_it_by_its_file(jupyter: Jupyter) -> None:
    log = jupyter.log.read_text()

    assert "mcp_server_jupyter | extension was successfully linked" in log
    assert "MCP is not served here" not in log
