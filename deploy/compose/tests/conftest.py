"""The stack, up for all tests: its commands, its addresses."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

COMPOSE = Path(__file__).resolve().parent.parent / "compose.yaml"
JUPYTER, GATEWAY, SERVER = "http://localhost:8888", "http://localhost:5005", "http://localhost:4040"
TOKEN = {"authorization": "token changeme"}


class Stack:
    """The services, with a folder `notebooks` of the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        self.notebooks.chmod(0o777)
        self.environment = {**os.environ, "NOTEBOOKS": str(self.notebooks)}

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, cwd=self.folder, text=True, capture_output=True, check=False
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.docker("compose", "--file", str(COMPOSE), *arguments, check=check)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def inspect(self, service: str, template: str) -> str:
        return self.docker("inspect", "--format", template, self.container(service)).stdout.strip()

    def python(self, service: str, code: str) -> str:
        return self.compose("exec", "-T", service, "python", "-c", code).stdout.strip()


def _start_without_jupyter(stack: Stack) -> None:
    """The MCP server alone, before there is a Jupyter: it is there, and says what is not."""
    stack.compose("up", "--detach", "--no-build", "jupyter-mcp-server")
    with httpx2.Client(timeout=60) as http:
        until(lambda: http.get(f"{SERVER}/api/readyz").status_code == 200)
        healthy = http.get(f"{SERVER}/health")
        refused = http.post(f"{SERVER}/api/operations/list_notebooks", json={})
    assert healthy.status_code == 200
    assert (refused.status_code, refused.json()["error"]) == (503, "unavailable"), refused.text
    assert "http://jupyter:8888" in refused.text


def until(is_true: Callable[[], bool]) -> None:
    """Wait, two minutes at most, for what nobody announces."""
    deadline = time.monotonic() + 120
    while True:
        try:
            if is_true():
                return
            problem = "it is not so"
        except httpx2.TransportError as error:
            problem = repr(error)
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All three services, healthy: first the MCP server alone, then the others."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    # What a call that was killed left would be restarted by the engine.
    stack.compose("down", "--volumes", "--remove-orphans", "--timeout=5")
    try:
        _start_without_jupyter(stack)
        stack.compose("up", "--detach", "--no-build", "--wait")
        with httpx2.Client(timeout=60) as http:
            until(lambda: http.post(f"{SERVER}/api/operations/list_notebooks", json={}).status_code == 200)
        yield stack
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.compose('logs', '--tail=40', check=False).stdout}") from error
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout=5")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test that failed says what the services did meanwhile: afterwards they are gone."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and call.when == "call" and stack is not None:
        logs = stack.compose("logs", "--no-color", "--timestamps", "--tail=120", check=False)
        report.sections.append(("logs of the services", logs.stdout + logs.stderr))
    return report


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=240) as client:
        yield client
