"""Kernels in pods, from the start to the end: agents are real, the cluster around them is `fake_cluster`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from fake_cluster import Cluster
from mcp_server_jupyter.backends.kubernetes.kernels import PodKernels
from mcp_server_jupyter.ports import Kernel, Message

pytestmark = pytest.mark.anyio


def content(code: str) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}


async def run(kernel: Kernel, code: str) -> list[Message]:
    with anyio.fail_after(30):
        return [message async for message in kernel.request("execute_request", content(code))]


def printed(messages: list[Message]) -> str:
    return "".join(message.content["text"] for message in messages if message.msg_type == "stream")


async def test_a_kernel_runs_in_a_pod_found_by_its_services_name(kernels: PodKernels, cluster: Cluster) -> None:
    stages: list[str] = []
    with anyio.fail_after(30):
        kernel = await kernels.start("python3", cwd="below", progress=stages.append)

    assert printed(await run(kernel, "print(6 * 7)")) == "42\n"
    assert [len(cluster.objects[kind]) for kind in ("secrets", "services", "pods", "configmaps")] == [1, 1, 1, 1]
    await kernel.shutdown()
    assert [len(cluster.objects[kind]) for kind in ("secrets", "services", "pods", "configmaps")] == [0, 0, 0, 1]
