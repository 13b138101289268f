"""docs/integrations.md: every piece of it, run as it stands there."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateways import Process, code, notebook
from support import Server, eventually

DOCS = Path(__file__).resolve().parents[3] / "docs"
LANGCHAIN = "langchain-mcp-adapters==0.3.2"


def block(heading: str, language: str) -> str:
    """The piece of code below a heading."""
    text = (DOCS / "integrations.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "--kernels=memory").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    gateway = Process(tmp_path_factory.mktemp("gateway"), "--kernels=memory").start()
    yield gateway
    gateway.stop()


def at(text: str, server: Server, gateway: Process | None = None) -> str:
    """The piece with the addresses and the token of the servers here."""
    text = text.replace("http://127.0.0.1:4040", server.address).replace("TOKEN", "secret-token")
    return text if gateway is None else text.replace("http://127.0.0.1:5005", gateway.url)


def said(python: str | Path, source: str) -> list[str]:
    ended = subprocess.run([python, "-c", source], capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.xdist_group("integrations")
def test_the_official_client_works_in_both_eras(server: Server) -> None:
    lines = said(sys.executable, at(block("The official Python client", "python"), server))
    assert sum("tools" in line for line in lines) == 2
    assert sum("42" in line for line in lines) == 2
    for name in ("auto", "legacy"):
        cells = eventually(lambda path=f"{name}.ipynb": server.notebook(path)["cells"], what=f"{name}'s cell on disk")
        assert cells[0]["source"] == ["6 * 7"]


@pytest.mark.xdist_group("integrations")
def test_the_n8n_workflow_sends_what_the_gateway_runs(gateway: Process) -> None:
    workflow = json.loads((DOCS / "n8n-workflow.json").read_text())
    nodes = {node["name"]: node for node in workflow["nodes"]}
    start = next(node["name"] for node in workflow["nodes"] if node["type"] == "n8n-nodes-base.scheduleTrigger")
    request = nodes[workflow["connections"][start]["main"][0][0]["node"]]
    assert request["type"] == "n8n-nodes-base.httpRequest"
    sent = request["parameters"]
    assert (sent["method"], sent["specifyBody"], sent["sendBody"]) == ("POST", "json", True)
    body = json.loads(sent["jsonBody"])
    path = sent["url"].removeprefix("http://127.0.0.1:5005")
    status, answer = gateway.ask(sent["method"], path, body, {"content-type": "application/json"})
    assert (status, answer["results"]) == (200, {"answer": 42})
    # What the node hands on when the notebook came from an earlier one.
    for wrapped in ([{"json": body}], {"body": body}):
        assert gateway.ask("POST", path, wrapped)[1]["results"] == {"answer": 42}


@pytest.mark.xdist_group("integrations")
def test_the_line_for_cron_runs_the_sets(tmp_path: Path) -> None:
    line = block("cron", "crontab").strip()
    fields, command = line.split(maxsplit=5)[:5], line.split(maxsplit=5)[5]
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields)
    assert "%" not in command  # cron takes it for the end of the line
    folder = tmp_path / "reports"
    folder.mkdir()
    cells = [code("n = 1", metadata={"tags": ["parameters"]}), code("6 * n", metadata={"tags": ["results"]})]
    (folder / "daily.ipynb").write_text(json.dumps(notebook(*cells)))
    (folder / "sets.jsonl").write_text('{"n": 7}\n')
    # As poor an environment as cron's.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    given = {"HOME": str(tmp_path), "PATH": path, "SHELL": "/bin/sh", "MCP_JUPYTER_STATE_DIR": str(tmp_path / "state")}
    ended = subprocess.run(["/bin/sh", "-c", command], env=given, cwd=tmp_path, timeout=240, check=False)
    assert ended.returncode == 0, (folder / "daily.log").read_text()
    (told,) = map(json.loads, (folder / "out" / "summary.jsonl").read_text().splitlines())
    assert (told["parameters"], told["results"]) == ({"n": 7}, {"result": 42})


@pytest.fixture(scope="module")
def langchain() -> Path:
    """The interpreter of an environment with LangChain's adapters, which need another `mcp` than ours."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcp-server-jupyter"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / LANGCHAIN.replace("==", "-")
    with (cache / "langchain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=240)
            pip = [folder / "bin" / "pip", "install", "--quiet", LANGCHAIN, "mcp<2", "httpx<1"]
            subprocess.run(pip, check=True, timeout=500)
            (folder / "done").touch()
    return folder / "bin" / "python"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("integrations")
def test_langchains_adapters_call_the_tools(langchain: Path, server: Server) -> None:
    lines = said(langchain, at(block("LangChain and LangGraph", "python"), server))
    assert any("42" in line for line in lines), lines


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("integrations")
def test_httpx_calls_tools_and_runs_notebooks(langchain: Path, server: Server, gateway: Process) -> None:
    lines: list[Any] = said(langchain, at(block("Any HTTP client", "python"), server, gateway))
    assert sum("42" in line for line in lines) == 3
    assert lines[-1] == "{'answer': 42}"
