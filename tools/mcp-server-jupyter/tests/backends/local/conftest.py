"""Kernels on this machine, with a root and a state folder of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_server_jupyter.backends.local import LocalKernels, open_kernels
from mcp_server_jupyter.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "root").mkdir()
    return Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state"}, {})


@pytest.fixture
async def kernels(settings: Settings) -> AsyncIterator[LocalKernels]:
    async with open_kernels(settings) as opened:
        yield opened
