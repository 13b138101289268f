"""Jupyters with live documents, and people in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lab import emptied, settings_for, started

from a_jupyter import Jupyter
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def collaboration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """JupyterLab with jupyter-collaboration; whoever kills it starts it again."""
    server = started("collaboration", tmp_path_factory.mktemp("collaboration"))
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
