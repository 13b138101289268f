"""Ten thousand pods listed, and listed again, beside an API server that is a process of its own: time, memory, stalls.

    PYTHONPATH=tests .venv/bin/python -m fake_cluster.relist [PODS]

`make bench-cluster` runs it. The API server is the tests' own: one that is real would need a machine of its own to hold
so many pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from mcp_server_jupyter.backends.kubernetes import objects
from mcp_server_jupyter.backends.kubernetes.api import open_api
from mcp_server_jupyter.backends.kubernetes.objects import Identity
from mcp_server_jupyter.backends.kubernetes.own import Own
from mcp_server_jupyter.backends.kubernetes.profiles import load_profiles
from mcp_server_jupyter.backends.kubernetes.watch import Pods
from mcp_server_jupyter.settings import Settings

from .cluster import Cluster, FakeApi

INSTANCE = "many"
ROUNDS = 3
_MIB = 1 << 20


async def serve(count: int, folder: Path) -> None:
    """Be the API server until standard input ends."""
    cluster = Cluster()
    own = Own(INSTANCE, "nobody")
    profile = load_profiles(Settings()).get("python3")
    code = objects.agent_code(INSTANCE, [], {"agent/main.py": ""})
    for number in range(count):
        identity = Identity(f"{number:012d}", INSTANCE)
        anchor = objects.secret(identity, [], {}, {})
        anchor["metadata"]["uid"] = f"s-{number}"
        pod = objects.pod(identity, anchor, profile, own, "image", code)
        pod["metadata"] |= {"uid": f"p-{number}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        pod["spec"]["nodeName"] = "node"
        state = {"name": "kernel", "ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
        pod["status"] = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [state]}
        fields = {f"f:{key}": {} for key in (*pod["spec"], *pod["spec"]["containers"][0], *pod["metadata"]["labels"])}
        written = {"manager": "server", "operation": "Update", "fieldsV1": {"f:spec": fields}}
        pod["metadata"]["managedFields"] = [written, written]
        cluster.put("pods", pod)
    async with FakeApi(cluster).serve() as server:
        server.kubeconfig(folder)
        print("serving", flush=True)  # noqa: T201 - for the process that waits
        await anyio.to_thread.run_sync(sys.stdin.read)


@contextlib.asynccontextmanager
async def longest_stall() -> AsyncIterator[list[float]]:
    """The longest that other work of the event loop has waited for this meanwhile, in seconds of CPU: other programs of
    the machine do not count."""
    found = [0.0]

    async def look() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            found[0] = max(found[0], time.thread_time() - before)

    task = asyncio.create_task(look())
    try:
        yield found
    finally:
        task.cancel()


def resident() -> float:
    """Of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


async def measure(count: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of CPU and MiB, by what was measured."""
    settings = Settings.load(
        {"root": folder, "state_dir": folder / "state", "kubeconfig": str(folder / "kubeconfig")}, {}
    )
    found: dict[str, list[float]] = {}
    async with open_api(settings) as api:
        await api.list("pods", labels="nobody=at-all")
        before = resident()
        pods = Pods(api, objects.selector(INSTANCE))
        for number in range(1 + ROUNDS):
            name = "listed" if number == 0 else "relisted"
            async with longest_stall() as stall:
                started = time.process_time()
                await pods.list()
                found.setdefault(f"{count} pods {name}, s of CPU", []).append(time.process_time() - started)
            found.setdefault(f"longest stall while {name}, s of CPU", []).append(stall[0])
            if number == 0:
                found["memory of the pods, MiB"] = [resident() - before]
        assert len(pods.all()) == count
    found["memory after all rounds, MiB"] = [resident() - before]
    return found


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fake_cluster.relist", str(count), folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            assert server.stdout.readline() == "serving\n"
            samples: dict[str, Any] = anyio.run(measure, count, Path(folder))
            server.stdin.close()
    for name, each in samples.items():
        middle = sorted(each)[len(each) // 2]
        print(f"{name:<42} {middle:8.3f}  ({min(each):.3f} to {max(each):.3f}, {len(each)} samples)")  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) > 2:
        anyio.run(serve, int(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
