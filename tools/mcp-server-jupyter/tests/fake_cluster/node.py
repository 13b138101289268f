"""A node whose containers are processes of this machine, each at a loopback address of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from .cluster import Cluster

Json = dict[str, Any]

_LOOK_SECONDS = 0.02
_NUMBERS = itertools.count(1)


class Node:
    """Runs every pod of a cluster that can run: `async with Node(cluster, folder)`.

    The agent's files come from the pod's ConfigMap, its keys from its Secret; paths of the pod that do not exist on
    this machine are put below the node's folder.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.images: set[str] | None = None
        """Those that can be pulled; None, every one."""
        self.schedulable = True
        self.mountable = True
        """Whether volumes can be mounted."""
        self.reachable = True
        """Whether pods are at the address that the API server says."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scratch: list[str] = []
        self._reasons: dict[str, str] = {}

    async def __aenter__(self) -> Node:
        self.cluster.on_create = self._created
        self.cluster.on_delete = self._deleted
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for name in list(self.processes):
            self.kill(name)
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def kill(self, pod_name: str, reason: str = "Error") -> None:
        """End a container and everything in it at once."""
        self._reasons[pod_name] = reason
        process = self.processes.get(pod_name)
        if process is None:
            return
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        process.kill()
        process.wait()

    def kernel_pid(self, pod_name: str) -> int:
        """The kernel's process in a container."""
        [child] = psutil.Process(self.processes[pod_name].pid).children()
        return int(child.pid)

    def schedule(self) -> None:
        """A node has room now, for the pods that wait too."""
        self.schedulable = True
        for pod in list(self.cluster.objects["pods"].values()):
            if not pod.get("status", {}).get("podIP"):
                self._created(pod)

    # ------------------------------------------------------------------ kubelet

    def _created(self, pod: Json) -> None:
        task = asyncio.get_running_loop().create_task(self._run(pod))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _deleted(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        process = self.processes.get(name)
        if process is not None:
            process.send_signal(signal.SIGTERM)

    async def _run(self, pod: Json) -> None:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        if name not in self.cluster.objects["pods"]:
            return
        if not self.schedulable:
            message = "0/1 nodes are available: 1 Insufficient memory."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self.cluster.set_status(name, phase="Pending", conditions=[condition])
            return
        self.cluster.set_status(name, phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}])
        if not self.mountable:
            self.cluster.event(
                name, "FailedMount", 'MountVolume.SetUp failed for volume "data": configmap "data" not found'
            )
            return
        if self.images is not None and container["image"] not in self.images:
            self.cluster.event(name, "Failed", f'Failed to pull image "{container["image"]}": not found')
            self._waits(name, "ErrImagePull", "not found")
            return
        if pod["spec"]["volumes"][1]["secret"]["secretName"] not in self.cluster.objects["secrets"]:
            # As a kubelet waits for it; what owns the pod is gone, and so it will be.
            return
        number = next(_NUMBERS)
        ip = f"127.{64 + os.getpid() % 64}.{number // 250 % 250}.{number % 250 + 1}"
        process = self.processes[name] = self._start(pod, ip)
        self.cluster.forwarded[name] = ip
        told = ip if self.reachable else "127.0.0.9"
        self.cluster.set_status(
            name, phase="Running", podIP=told, containerStatuses=[_state(running={"startedAt": "now"})]
        )
        # A process of others' cannot be waited for without a thread of its own.
        while process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        if self.processes.get(name) is process:
            del self.processes[name]
        code = process.returncode
        reason = self._reasons.pop(name, "Error" if code else "Completed")
        ended = {"exitCode": code if code >= 0 else 128 - code, "reason": reason}
        phase = "Failed" if code else "Succeeded"
        self.cluster.set_status(name, phase=phase, containerStatuses=[_state(terminated=ended)])
        if self.cluster.objects["pods"].get(name, pod)["metadata"].get("deletionTimestamp"):
            self.cluster.remove("pods", name)

    def _waits(self, name: str, reason: str, message: str) -> None:
        self.cluster.set_status(name, containerStatuses=[_state(waiting={"reason": reason, "message": message})])

    def _start(self, pod: Json, ip: str) -> subprocess.Popen[bytes]:
        name = pod["metadata"]["name"]
        # Short: sockets have their place in it.
        place = Path(tempfile.mkdtemp(prefix="pod"))
        self._scratch.append(str(place))
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        code = volumes["agent"]["configMap"]
        stored = self.cluster.objects["configmaps"][code["name"]]["data"]
        for item in code["items"]:
            path = place / "code" / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(stored[item["key"]])
        secret = self.cluster.objects["secrets"][volumes["secret"]["secret"]["secretName"]]
        config = json.loads(b64decode(secret["data"]["agent.json"]))
        (place / "home").mkdir()
        (place / "keys").mkdir()
        config |= {
            "ip": ip,
            "folder": str(place / "keys"),
            "record": str(place / "record"),
            "last_word": str(place / "word"),
        }
        if not os.path.isdir(config["launch"]["cwd"]):
            config["launch"]["cwd"] = str(place / "home")
        (place / "agent.json").write_text(json.dumps(config))
        python, _, path, _ = pod["spec"]["containers"][0]["command"]
        entry = path.removeprefix("/opt/mcp-jupyter/")
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [
                    sys.executable if python == "python3" else python,
                    "-I",
                    str(place / "code" / entry),
                    str(place / "agent.json"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "HOME": str(place / "home"),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
            )


def _state(**state: Any) -> Json:
    return {"name": "kernel", "state": state}
