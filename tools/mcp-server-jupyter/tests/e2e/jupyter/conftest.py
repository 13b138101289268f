"""Jupyters with live documents, and people in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lab import PATIENCE, Agent, Beside, emptied, settings_for, started

from a_jupyter import Jupyter
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.backends.jupyter.rooms import connection as connections
from mcp_server_jupyter.backends.jupyter.rooms import notebook as rooms


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in a room in this very process gives a busy machine as long as the tests do."""
    monkeypatch.setattr(rooms, "_JOIN_SECONDS", PATIENCE)
    monkeypatch.setattr(rooms, "_FLUSH_SECONDS", PATIENCE)
    monkeypatch.setattr(connections, "SYNC_SECONDS", PATIENCE)


@pytest.fixture(scope="session")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """JupyterLab with jupyter-collaboration; whoever kills it starts it again."""
    server = started("collaboration", tmp_path_factory.mktemp("collaboration"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A Jupyter server alone: its notebooks are files."""
    server = started("plain", tmp_path_factory.mktemp("plain"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """jupyter-server-documents, which jupyter-ai 3 brings along."""
    server = started("documents", tmp_path_factory.mktemp("documents"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def jupyter(collaboration: Jupyter) -> Jupyter:
    """It with nothing in it that an earlier test has made."""
    emptied(collaboration)
    return collaboration


@pytest.fixture
async def contents(jupyter: Jupyter, tmp_path: Path) -> AsyncIterator[JupyterContents]:
    async with JupyterContents(settings_for(jupyter, tmp_path)) as opened:
        yield opened


@pytest.fixture
async def person(jupyter: Jupyter, tmp_path: Path) -> AsyncIterator[JupyterContents]:
    """Somebody else in the same rooms."""
    async with JupyterContents(settings_for(jupyter, tmp_path)) as opened:
        yield opened


@pytest.fixture
def server(jupyter: Jupyter, tmp_path: Path) -> Iterator[Beside]:
    """Our server, beside the Jupyter that a test names."""
    running = Beside(tmp_path, jupyter).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def agent(server: Beside) -> Agent:
    return Agent(server)
