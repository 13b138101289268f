"""A hub, from an environment of its own in the user's cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub import PACKAGE, Hub, scopes


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def python() -> str:
    """The Python that has JupyterHub."""
    script = PACKAGE / "scripts" / "jupyters.py"
    made = subprocess.run([sys.executable, script, "hub"], check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


@contextmanager
def opened(folder: Path, python: str, *options: str) -> Iterator[Hub]:
    """A hub, and its end with all it has started."""
    hub = Hub(folder, python, scopes(), *options)
    try:
        yield hub.start()
    finally:
        hub.close()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[Hub]:
    with opened(tmp_path_factory.mktemp("hub"), python) as running:
        yield running
