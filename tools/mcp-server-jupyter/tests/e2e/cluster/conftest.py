"""Fixtures of the cluster tests: the cluster from KUBECONFIG, one namespace per test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from control import Control, control_of
from kube import Namespace, api, made_namespace, wait_until
from kubernetes import client, config


@pytest.fixture(scope="session", autouse=True)
def _connected() -> Iterator[None]:
    config.load_kube_config(os.environ["KUBECONFIG"])
    yield
    core = client.CoreV1Api(api())
    wait_until("the tests' namespaces gone", lambda: not _left(core), seconds=120, pause=0.5)
    api().close()


def _left(core: client.CoreV1Api) -> list[str]:
    return [item.metadata.name for item in core.list_namespace(label_selector="e2e=cluster").items]


@pytest.fixture
def namespace(_connected: None) -> Iterator[Namespace]:
    with made_namespace() as made:
        yield made


@pytest.fixture
def neighbour(_connected: None) -> Iterator[Namespace]:
    """A second namespace, for what must not cross from one to another."""
    with made_namespace() as made:
        yield made


@pytest.fixture(scope="session")
def control() -> Control:
    """What is done to the cluster from outside it: it differs per kind of cluster."""
    return control_of(os.environ.get("E2E_CLUSTER", "given"))
