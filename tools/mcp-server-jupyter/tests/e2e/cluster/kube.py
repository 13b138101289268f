"""The few verbs the cluster tests use, each with a bounded wait that explains itself."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from kubernetes import client
from kubernetes.stream import stream

IMAGE = "mcp-server-jupyter/cluster-probe:e2e"
PORT = 8000
Object = dict[str, Any]
T = TypeVar("T")


@cache
def api() -> client.ApiClient:
    """The one connection pool of the test run; `conftest.py` closes it."""
    return client.ApiClient()


def wait_until(what: str, ask: Callable[[], T], seconds: float = 60, pause: float = 0.1) -> T:
    """Poll until the answer is true; past the limit, fail with the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not so after {seconds:.0f} s; last answer: {answer!r}")
        time.sleep(pause)
    return answer


@dataclass(frozen=True)
class Lookup:
    """What DNS said."""

    code: str
    records: tuple[str, ...]
    additional: tuple[str, ...]


def pod_manifest(name: str, *command: str, labels: Object | None = None, **spec: Any) -> Object:
    """A pod of one probe container; ``container`` and other keywords go into the spec."""
    container: Object = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": list(command) or ["serve", str(PORT)],
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": False,
            **spec,
        },
    }


class Namespace:
    """One test's namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.core = client.CoreV1Api(api())
        self.apps = client.AppsV1Api(api())
        self.networking = client.NetworkingV1Api(api())
        self.rbac = client.RbacAuthorizationV1Api(api())

    def domain(self, service: str) -> str:
        return f"{service}.{self.name}.svc.cluster.local"

    def run(self, name: str, *command: str, labels: Object | None = None, **spec: Any) -> Object:
        """Start a pod and wait until its container runs or has ended."""
        self.core.create_namespaced_pod(self.name, pod_manifest(name, *command, labels=labels, **spec))
        return self.started(name)

    def started(self, name: str) -> Object:
        return wait_until(f"pod {name} started", lambda: self._in_phase(name, "Running", "Succeeded", "Failed"))

    def finished(self, name: str, seconds: float = 60) -> tuple[int, str]:
        """Wait for a pod's end: its exit code and what it printed."""
        pod = wait_until(f"pod {name} ended", lambda: self._in_phase(name, "Succeeded", "Failed"), seconds)
        code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        return code, self.log(name)

    def pod(self, name: str) -> Object:
        told: Object = api().sanitize_for_serialization(self.core.read_namespaced_pod(name, self.name))
        return told

    def _in_phase(self, name: str, *phases: str) -> Object:
        pod = self.pod(name)
        waiting = [c["state"]["waiting"] for c in pod["status"].get("containerStatuses", []) if "waiting" in c["state"]]
        for state in waiting:
            if state.get("reason") in ("ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError"):
                raise AssertionError(f"pod {name} cannot start: {state}")
        return pod if pod["status"].get("phase") in phases else {}

    def log(self, name: str) -> str:
        text: str = self.core.read_namespaced_pod_log(name, self.name)
        return text.strip()

    def events(self, name: str) -> list[str]:
        listed = self.core.list_namespaced_event(self.name, field_selector=f"involvedObject.name={name}").items
        return [f"{event.reason}: {event.message}" for event in listed]

    def address(self, name: str) -> str:
        return str(self.pod(name)["status"]["podIP"])

    def serving(self, name: str) -> str:
        """Wait until a serving pod listens; its address."""
        wait_until(f"pod {name} serves", lambda: "serving" in self.log(name))
        return self.address(name)

    def delete(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        self.core.delete_namespaced_pod(name, self.name, grace_period_seconds=0)
        wait_until(f"pod {name} gone", lambda: name not in self.pod_names())

    def pod_names(self, selector: str = "") -> list[str]:
        return [pod.metadata.name for pod in self.core.list_namespaced_pod(self.name, label_selector=selector).items]

    def probe(self, pod: str, *command: str, seconds: float = 30) -> str:
        """Run the probe once more inside a running pod; what it printed."""
        return self.execute(pod, "python", "/usr/local/bin/probe", *command, seconds=seconds)

    def execute(self, pod: str, *command: str, seconds: float = 30) -> str:
        answer = stream(
            self.core.connect_get_namespaced_pod_exec,
            pod,
            self.name,
            command=list(command),
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            _preload_content=False,
        )
        answer.run_forever(timeout=seconds)
        text: str = (answer.read_stdout() + answer.read_stderr()).strip()
        answer.close()
        return text

    def lookup(self, pod: str, name: str, record: str) -> Lookup:
        """Ask DNS from inside a pod."""
        told = json.loads(self.probe(pod, "lookup", name, record))
        return Lookup(told["code"], tuple(sorted(told["records"])), tuple(sorted(told["additional"])))

    def headless(self, name: str, selector: Object) -> None:
        self.core.create_namespaced_service(
            self.name,
            {
                "metadata": {"name": name},
                "spec": {
                    "clusterIP": "None",
                    "selector": selector,
                    "ports": [{"name": "greet", "port": PORT, "targetPort": PORT}],
                },
            },
        )

    def policy(self, name: str, **spec: Any) -> None:
        self.networking.create_namespaced_network_policy(
            self.name, {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}
        )


@contextmanager
def made_namespace(**labels: str) -> Iterator[Namespace]:
    """A namespace with a random name, which is deleted at the end."""
    name = f"e2e-{secrets.token_hex(4)}"
    core = client.CoreV1Api(api())
    core.create_namespace({"metadata": {"name": name, "labels": {"e2e": "cluster", **labels}}})
    try:
        wait_until(
            "the default service account",
            lambda: [a for a in core.list_namespaced_service_account(name).items if a.metadata.name == "default"],
        )
        yield Namespace(name)
    finally:
        core.delete_namespace(name)
