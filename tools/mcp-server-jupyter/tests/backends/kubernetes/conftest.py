"""A fake cluster for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_cluster import Cluster, DnsServer, FakeApi, Lab, Pods, open_lab
from mcp_server_jupyter.backends.kubernetes.api import Api, open_api
from mcp_server_jupyter.settings import Settings


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def server(cluster: Cluster) -> AsyncIterator[FakeApi]:
    async with FakeApi(cluster).serve() as serving:
        yield serving


@pytest.fixture
async def dns_server(cluster: Cluster) -> AsyncIterator[DnsServer]:
    async with DnsServer(cluster).serve() as serving:
        yield serving


@pytest.fixture
def settings(server: FakeApi, tmp_path: Path) -> Settings:
    (tmp_path / "root" / "below").mkdir(parents=True)
    kubeconfig = server.kubeconfig(tmp_path)
    return Settings.load(
        {"root": tmp_path / "root", "state_dir": tmp_path / "state", "kubeconfig": str(kubeconfig), "max_kernels": 3},
        {},
    )


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with open_api(settings) as opened:
        yield opened


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path / "lab") as opened:
        yield opened


@pytest.fixture
async def pods(settings: Settings, lab: Lab) -> AsyncIterator[Pods]:
    """The kernels of one server that leads."""
    async with lab.kernels(settings) as opened:
        await opened.lead(lambda _: None)
        yield opened
