"""The life of a root's server that an editor finds or starts by `up`, watches, and ends for a newer one."""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from http_app import notebook
from mcp_server_jupyter.ownership import is_held
from place import Place
from support import eventually


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    (place.root / "a.ipynb").write_text(notebook("x = 1"))
    yield place
    place.end()


def up(place: Place, *options: str, **environment: str) -> dict[str, Any]:
    """The record of the root's server, which is started if there is none."""
    done = place.command("up", *options, **environment)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def ask(server: dict[str, Any], path: str, body: Any = None, method: str = "POST") -> Any:
    request = urllib.request.Request(
        server["url"].removesuffix("/mcp") + path,
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {server['token']}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def stream(server: dict[str, Any]) -> Any:
    """A window's stream, open; its first event has come."""
    address = server["url"].removesuffix("/mcp")
    headers = {"Authorization": f"Bearer {server['token']}"}
    request = urllib.request.Request(f"{address}/api/editor/w1", headers=headers)
    opened = urllib.request.urlopen(request, timeout=60)
    while not opened.readline().startswith(b"event: state"):
        pass
    return opened


def start(server: dict[str, Any], source: str) -> str:
    body = {"notebook_path": "a.ipynb", "cells": [{"cell_id": "c0", "source": source}]}
    return str(ask(server, "/api/executions", body)["executions"][0]["execution_id"])


def outputs(server: dict[str, Any], execution_id: str) -> Any:
    return ask(server, f"/api/executions/{execution_id}/outputs", method="GET")


SLOW = """import time
print('begun', flush=True)
while not __import__('os').path.exists('go on'):
    time.sleep(0.02)
print('done', pid := __import__('os').getpid())"""


def test_a_server_that_is_shut_down_in_mid_cell_leaves_it_to_the_next(place: Place) -> None:
    first = up(place)
    with stream(first):
        execution_id = start(first, SLOW)
        eventually(lambda: outputs(first, execution_id)["outputs"])
        assert ask(first, "/api/shutdown", {"when": "now"}) == {"status": "stopping"}
        eventually(lambda: not is_held(place.settings.root_state), 60)
    second = up(place)
    assert second["pid"] != first["pid"]
    (place.root / "go on").touch()
    done = eventually(lambda: (known := outputs(second, execution_id))["status"] == "ok" and known)
    assert done["outputs"][0]["text"].startswith("begun\ndone ")


def test_a_server_that_is_to_end_once_idle_waits_for_what_runs_and_not_for_windows(place: Place) -> None:
    server = up(place)
    with stream(server):
        execution_id = start(server, SLOW)
        eventually(lambda: outputs(server, execution_id)["outputs"])
        assert ask(server, "/api/shutdown", {"when": "idle"}) == {"status": "waiting"}
        assert outputs(server, execution_id)["status"] == "running"
        (place.root / "go on").touch()
        eventually(lambda: not is_held(place.settings.root_state), 60)
    server = up(place)
    assert "begun" in outputs(server, execution_id)["outputs"][0]["text"]
    assert ask(server, "/api/operations/list_kernels", {})["data"]["kernels"][0]["state"] == "idle"


@pytest.mark.long
def test_a_window_keeps_its_server_up(place: Place) -> None:
    server = up(place, "--linger-minutes=0")
    watching = stream(server)
    # The server looks again after ten seconds, the time a first client has to come.
    ended = threading.Event()
    assert not ended.wait(12)
    assert is_held(place.settings.root_state)
    assert ask(server, "/health", method="GET")["api"] == 1
    watching.close()
    eventually(lambda: not is_held(place.settings.root_state), 60)


def test_kernels_run_in_the_chosen_interpreter_and_know_nothing_of_the_editor(place: Place) -> None:
    editor = {"VSCODE_PID": "1", "ELECTRON_RUN_AS_NODE": "1", "NODE_OPTIONS": "--inspect", "KEPT": "1"}
    server = up(place, f"--python={sys.executable}", **editor)
    code = (
        "import os, sys\nprint(sys.executable)\n"
        "print(sorted(n for n in os.environ if n.startswith(('VSCODE_', 'ELECTRON_', 'NODE_OPTIONS', 'KEPT'))))"
    )
    answer = ask(server, "/api/operations/execute_code", {"notebook_path": "a.ipynb", "code": code})
    assert sys.executable in answer["text"]
    assert "['KEPT']" in answer["text"]
    (kernel,) = ask(server, "/api/operations/list_kernels", {})["data"]["kernels"]
    assert kernel["name"] == sys.executable


def test_an_interpreter_without_ipykernel_says_how_to_install_it(place: Place, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    server = up(place, f"--python={python}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        start(server, "1")
    assert f"{python} -m pip install ipykernel" in json.load(refused.value)["hint"]
