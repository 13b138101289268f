"""Gateways for tests: the application in process, and the command as its own process that can be killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from http_app import BASE, PORT, TOKEN, clean_environment
from mcp_server_jupyter.doors.gateway.app import create_gateway
from mcp_server_jupyter.doors.gateway.serve import gateway_settings
from mcp_server_jupyter.runs import Runs, open_runs
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings
from support import eventually

RESULTS = {"metadata": {"tags": ["results"]}}


def code(source: str, **more: Any) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "metadata": {}, **more}


def notebook(*cells: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    made = [cell if isinstance(cell, dict) else code(cell) for cell in cells]
    return {"cells": made, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}}, **more}


class Gateway:
    """A gateway in this process, and a client of it."""

    def __init__(self, runs: Runs, client: httpx2.AsyncClient) -> None:
        self.runs = runs
        self.client = client

    async def run(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = await self.client.post("/run", json=body, headers=headers)
        return answer.status_code, answer.json()

    async def later(self, body: Any, **headers: str) -> str:
        """The id of a run that is not waited for."""
        status, answer = await self.run(body, prefer="respond-async", **headers)
        assert status == 202, answer
        return str(answer["run_id"])

    async def get(self, path: str) -> Any:
        return (await self.client.get(path)).json()

    @property
    def kernels(self) -> int:
        return len(self.runs.services.sessions.all())


@asynccontextmanager
async def open_gateway(folder: Path, **options: Any) -> AsyncIterator[Gateway]:
    given = {"root": folder, "state_dir": folder, "kernels": "memory", "rate_limit": 0, "grace_seconds": 0, **options}
    settings = gateway_settings(Settings.load(given, environ={}))
    async with open_services(settings) as services, open_runs(services) as runs:
        app = create_gateway(runs, TOKEN, port=PORT)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(transport=transport, base_url=BASE, headers=headers, timeout=120) as client:
            yield Gateway(runs, client)


class Process:
    """`mcp-server-jupyter gateway` on a state folder, which may be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.log = folder / "gateway.log"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        state = self.folder / "state"
        command = [sys.executable, "-m", "mcp_server_jupyter", "gateway", "--no-auth", "--gateway-port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--state-dir", str(state), *self.options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )
        found = eventually(self._address, 60, "the gateway's address")
        self.url = found
        return self

    def _address(self) -> str | None:
        assert self.process is not None
        text = self.log.read_text()
        assert self.process.poll() is None, text
        found = re.search(r"Address +(\S+)", text)
        return found[1] if found else None

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
