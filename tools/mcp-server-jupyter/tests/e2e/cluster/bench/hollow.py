"""Runs in a pod on the node's network: a node that is none, and the agents of its pods, all in this process.

What is real: the Node and the pods in the API server, each pod's address, port, keys and encryption, and the agent's
own code for commands, stream and record. What is not: there is no container and no kernel. The kernel's part is a few
lines that answer `kernel_info_request` and every `execute_request` as a kernel would answer `1+1`.
"""

# ruff: noqa: T201 - it speaks by its log

from __future__ import annotations

import datetime
import fcntl
import json
import os
import queue
import select
import socket
import struct
import sys
import threading
import time
import uuid
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zmq
from kubernetes import client, config, watch

from mcp_server_jupyter.backends.kubernetes.agent.commands import Commands
from mcp_server_jupyter.backends.kubernetes.agent.protocol import DELIMITER, KINDS, signature
from mcp_server_jupyter.backends.kubernetes.agent.record import Record
from mcp_server_jupyter.backends.shared import recording

Json = dict[str, Any]

NODE = "hollow"
NETWORK = "10.245.0.0"
RECORDS = Path("/tmp/records")
_SIOCSIFADDR, _SIOCSIFNETMASK = 0x8916, 0x891C
_BEAT_SECONDS = 10.0


# --------------------------------------------------------------------------- a kernel that knows one answer


class Agent:
    """What `Commands` needs of an agent, with a kernel that is a function."""

    def __init__(self, told: Json, ip: str, context: Any) -> None:
        self.config = {**told, "ip": ip}
        self.context = context
        self.poller = SimpleNamespace(register=lambda *_: None)
        self.record = Record(str(RECORDS / ip), 1 << 16, 3)
        self.state, self.ended, self.stopping, self.next_launch = "idle", None, False, None
        self.channels = self
        self.process: Any = None
        self._key = told["key"].encode()
        self._counts = 0
        self.commands = Commands(self)  # type: ignore[arg-type]
        self.respawn(told["launch"])

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self, kind: str, frames: list[bytes]) -> None:
        self.record.append([recording.pack_body(KINDS[kind], frames)])

    def tell(self, event: str, **what: Any) -> None:
        self.take("event", [json.dumps({"event": event, "at": time.time(), **what}).encode()])

    def respawn(self, launch: Json) -> None:
        self.config["launch"] = launch
        self.process = SimpleNamespace(
            pid=1, epoch=int(launch["epoch"]), zombie=False, signal=lambda _: None, resident_bytes=lambda: 1 << 20
        )
        self.tell("started", epoch=self.process.epoch, pid=1)

    def stop(self, grace: float) -> None:
        self.stopping = True

    def send(self, channel: str, frames: list[bytes]) -> None:
        """A message for the kernel, and all it says to that."""
        asked = json.loads(frames[frames.index(DELIMITER) + 2])
        if asked["msg_type"] not in ("execute_request", "kernel_info_request"):
            return
        self._say("iopub", "status", {"execution_state": "busy"}, asked)
        if asked["msg_type"] == "execute_request":
            self._counts += 1
            count: Json = {"execution_count": self._counts}
            self._say("iopub", "execute_input", {"code": "1+1", **count}, asked)
            self._say("iopub", "execute_result", {"data": {"text/plain": "2"}, "metadata": {}, **count}, asked)
            self._say(channel, "execute_reply", {"status": "ok", "user_expressions": {}, "payload": [], **count}, asked)
        else:
            language = {"name": "python", "version": "3", "file_extension": ".py", "mimetype": "text/x-python"}
            info = {"status": "ok", "protocol_version": "5.3", "language_info": language, "banner": "hollow"}
            self._say(channel, "kernel_info_reply", info, asked)
        self._say("iopub", "status", {"execution_state": "idle"}, asked)

    def _say(self, channel: str, kind: str, content: Json, parent: Json) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "hollow", "username": "", "date": now}
        parts = [json.dumps(part).encode() for part in ({**header, "version": "5.3"}, parent, {}, content)]
        front = [kind.encode()] if channel == "iopub" else []
        self.take(channel, [*front, DELIMITER, signature(self._key, parts), *parts])

    def serve(self) -> None:
        """Do all that has arrived. ZMQ tells of it once only."""
        while self.commands.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self.commands.read()
            self.commands.push()

    def close(self) -> None:
        self.commands.socket.close(linger=100)


# --------------------------------------------------------------------------- a node


class Node:
    """The kubelet's part: it accepts pods, says that they run, and lets go of those that are deleted."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.core, self.leases = client.CoreV1Api(), client.CoordinationV1Api()
        self.context = zmq.Context()
        self.context.max_sockets = 100_000
        self.agents: dict[str, Agent] = {}
        self.numbers = iter(range(1, 60_000))
        self.todo: queue.Queue[tuple[str, Json]] = queue.Queue()
        self.told, self._tell = os.pipe()
        self.workers = ThreadPoolExecutor(8)
        self.seen: set[str] = set()

    def register(self) -> None:
        room = {"pods": "20000", "cpu": "10000", "memory": "40Ti", "ephemeral-storage": "40Ti"}
        node = {
            "metadata": {"name": NODE, "labels": {"bench": NODE, "kubernetes.io/hostname": NODE}},
            "spec": {"taints": [{"key": "bench", "value": NODE, "effect": "NoSchedule"}]},
        }
        self.core.create_node(node)
        status = {"capacity": room, "allocatable": room, "conditions": [_ready()]}
        self.core.patch_node_status(NODE, {"status": status})

    def beat(self) -> None:
        while True:
            self.core.patch_node_status(NODE, {"status": {"conditions": [_ready()]}})
            time.sleep(_BEAT_SECONDS)

    def watch(self) -> None:
        while True:
            listed = self.core.list_namespaced_pod(self.namespace, field_selector=f"spec.nodeName={NODE}")
            for pod in listed.items:
                self.meet(client.ApiClient().sanitize_for_serialization(pod))
            try:
                for one in watch.Watch().stream(
                    self.core.list_namespaced_pod,
                    self.namespace,
                    field_selector=f"spec.nodeName={NODE}",
                    resource_version=listed.metadata.resource_version,
                    timeout_seconds=240,
                ):
                    self.meet(one["raw_object"], gone=one["type"] == "DELETED")
            except client.ApiException as error:
                print("watch:", error.reason, flush=True)

    def meet(self, pod: Json, *, gone: bool = False) -> None:
        name = pod["metadata"]["name"]
        if gone or pod["metadata"].get("deletionTimestamp"):
            if name in self.seen:
                self.seen.discard(name)
                self.todo.put(("end", pod))
                os.write(self._tell, b"x")
            if not gone:
                self.workers.submit(self.let_go, name)
        elif name not in self.seen:
            self.seen.add(name)
            self.workers.submit(self.fetch, pod)

    def let_go(self, name: str) -> None:
        try:
            self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
        except client.ApiException as error:
            if error.status != 404:
                print("delete:", error.reason, flush=True)

    def fetch(self, pod: Json) -> None:
        [name] = [one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one]
        secret = self.core.read_namespaced_secret(name, self.namespace)
        self.todo.put(("begin", {**pod, "told": json.loads(b64decode(secret.data["agent.json"]))}))
        os.write(self._tell, b"x")

    def run(self) -> None:
        """Serve the agents, in one thread."""
        poll = select.epoll()
        poll.register(self.told, select.EPOLLIN)
        by_file: dict[int, Agent] = {}
        while True:
            for file, _ in poll.poll():
                if file != self.told:
                    by_file[file].serve()
                    continue
                os.read(self.told, 4096)
                while not self.todo.empty():
                    what, pod = self.todo.get()
                    agent = self.begin(pod) if what == "begin" else self.agents.pop(pod["metadata"]["name"], None)
                    if agent is None:
                        continue
                    file = agent.commands.socket.getsockopt(zmq.FD)
                    if what == "begin":
                        by_file[file] = agent
                        poll.register(file, select.EPOLLIN | select.EPOLLET)
                        agent.serve()
                    else:
                        poll.unregister(file)
                        del by_file[file]
                        agent.close()

    def begin(self, pod: Json) -> Agent:
        number = next(self.numbers)
        ip = f"10.245.{number // 250}.{number % 250 + 1}"
        agent = self.agents[pod["metadata"]["name"]] = Agent(pod["told"], ip, self.context)
        self.workers.submit(self.say_running, pod["metadata"]["name"], ip)
        return agent

    def say_running(self, name: str, ip: str) -> None:
        now = _now()
        container = {"name": "kernel", "ready": True, "restartCount": 0, "image": "hollow", "imageID": "hollow"}
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
            "containerStatuses": [{**container, "state": {"running": {"startedAt": now}}}],
        }
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})


def _ready() -> Json:
    return {"type": "Ready", "status": "True", "reason": "Hollow", "lastHeartbeatTime": _now()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def be_local(network: str) -> None:
    """Make every address of a /16 one of this machine: one on the loopback interface takes its network with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for number, address in ((_SIOCSIFADDR, network[:-1] + "1"), (_SIOCSIFNETMASK, "255.255.0.0")):
            told = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(any_socket, number, told)


def main() -> None:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config.load_incluster_config()
    be_local(NETWORK)
    node = Node(sys.argv[1])
    node.register()
    for work in (node.beat, node.watch):
        threading.Thread(target=work, daemon=True).start()
    print("serving", flush=True)
    node.run()


if __name__ == "__main__":
    main()
