"""The server, deployed into a test's namespace as a person would do it, and a client in a pod beside it."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from control import Control
from kube import Namespace, Object, api, wait_until
from kubernetes import utils

KUBERNETES = Path(__file__).resolve().parents[5] / "deploy" / "kubernetes"
NAME = "mcp-server-jupyter"
PORT = 4040
AGENT_PORT = 52322
CLIENT = {"mcp-jupyter/client": "true"}
SERVER = {"app": "mcp-server-manager"}
KERNELS = "app.kubernetes.io/managed-by=mcp-server-jupyter,mcp-jupyter/role=kernel"
SECRETS = "app.kubernetes.io/managed-by=mcp-server-jupyter"
UNFINISHED = ("queued", "starting", "running")
RESTRICTED: Object = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    "container": {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}},
}
RESTRICTED_LABELS = {"pod-security.kubernetes.io/enforce": "restricted"}


def render(control: Control, folder: Path, namespace: str, overlay: str, **changes: Any) -> list[Object]:
    """What kustomize makes of an overlay in a namespace; other keywords go into a kustomization around it."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = os.path.relpath(KUBERNETES / overlay, folder.resolve())
    around = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [beside],
        **changes,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(around))
    return list(yaml.safe_load_all(control.kubectl("kustomize", str(folder))))


@dataclass(frozen=True)
class Answer:
    """What an operation answered."""

    status: int
    text: str
    data: Object
    images: list[Object]

    def __str__(self) -> str:
        return f"{self.status}: {self.text}"


class Product:
    """One installation and the client that calls it."""

    def __init__(self, namespace: Namespace, name: str = NAME) -> None:
        self.namespace = namespace
        self.name = name
        self.token = secrets.token_hex(16)
        self.client = f"{name}-client"
        self._address = ""

    # ------------------------------------------------------------------ installing

    def install(self, manifests: list[Object]) -> None:
        """As DEPLOYMENT.md says: the Secret, then the manifests; then wait until the server is ready."""
        self.namespace.core.create_namespaced_secret(
            self.namespace.name, {"metadata": {"name": self.name}, "stringData": {"token": self.token}}
        )
        for manifest in manifests:
            utils.create_from_dict(api(), manifest, namespace=self.namespace.name)
        self.namespace.run(self.client, labels=CLIENT, **RESTRICTED)
        service = self.namespace.core.read_namespaced_service(self.name, self.namespace.name)
        self._address = service.spec.cluster_ip
        self.ready()

    def ready(self, seconds: float = 90) -> str:
        """Wait until one server pod is ready; its name."""
        return wait_until(f"{self.name} ready", self._ready, seconds)

    def _ready(self) -> str:
        pods = self.servers()
        ready = [name for name, conditions in pods.items() if conditions.get("Ready") == "True"]
        return ready[0] if ready else ""

    def servers(self) -> dict[str, dict[str, str]]:
        """The server's pods that are not about to end, with their conditions."""
        selector = f"app=mcp-server-manager,app.kubernetes.io/instance={self.name}"
        listed = self.namespace.core.list_namespaced_pod(self.namespace.name, label_selector=selector).items
        return {
            pod.metadata.name: {one.type: one.status for one in pod.status.conditions or []}
            for pod in listed
            if pod.metadata.deletion_timestamp is None
        }

    def scale(self, replicas: int) -> None:
        self.namespace.apps.patch_namespaced_deployment_scale(
            self.name, self.namespace.name, {"spec": {"replicas": replicas}}
        )

    # ------------------------------------------------------------------ calling

    def request(
        self, method: str, path: str, body: Object | None = None, *, host: str = "", seconds: float = 60
    ) -> Any:
        """An HTTP request from the client's pod, to the service's address; (status, parsed body)."""
        told = self.namespace.probe(
            self.client, "http", *self.arguments(method, path, body, host=host, timeout=seconds), seconds=seconds + 10
        )
        answer = json.loads(told)
        try:
            return answer["status"], json.loads(answer["body"])
        except ValueError:
            return answer["status"], answer["body"]

    def arguments(
        self, method: str, path: str, body: Object | None = None, *, host: str = "", timeout: float = 60
    ) -> list[str]:
        """The probe's arguments for a request. By address, so that it does not take DNS; `Host` is the service's."""
        url = f"http://{host or self._address}:{PORT}{path}"
        headers = [f"Authorization: Bearer {self.token}", *([] if host else [f"Host: {self.name}:{PORT}"])]
        given = [argument for header in headers for argument in ("--header", header)]
        if body is not None:
            given += ["--body", json.dumps(body), "--header", "Content-Type: application/json"]
        return [method, url, "--timeout", str(timeout), *given]

    def call(self, operation: str, *, seconds: float = 60, **arguments: Any) -> Answer:
        """Call an operation; what it answers, refusals too."""
        status, told = self.request("POST", f"/api/operations/{operation}", arguments, seconds=seconds)
        if not isinstance(told, dict):
            return Answer(status, str(told), {}, [])
        text = told.get("text") or f"{told.get('message', '')} {told.get('hint') or ''}"
        return Answer(status, text, told.get("data") or {}, told.get("images") or [])

    def notebook(self, path: str, kernel_name: str = "") -> str:
        given = {"kernel_name": kernel_name} if kernel_name else {}
        answer = self.call("create_notebook", notebook_path=path, **given)
        assert answer.status == 200, answer
        return path

    def run(self, notebook: str, source: str, *, seconds: float = 90) -> Answer:
        """Put a cell at a notebook's end, run it and wait for its end, however long a kernel takes to start."""
        return self.finish(self.call("append_execute_code_cell", notebook_path=notebook, cell_source=source), seconds)

    def start(self, notebook: str, source: str) -> str:
        """Put a cell at a notebook's end and run it; its execution's id, once a kernel has taken it."""
        self.call("insert_cell", notebook_path=notebook, cell_index=-1, cell_type="code", cell_source=source)
        begun = self.call("execute_cell_with_progress", notebook_path=notebook, cell_index=-1, timeout_seconds=0)
        assert "execution_id" in begun.data, begun
        return str(begun.data["execution_id"])

    def finish(self, answer: Answer, seconds: float = 90) -> Answer:
        """Wait for the end of an execution that may have been answered with a handle."""
        if answer.data.get("status") not in UNFINISHED:
            return answer
        return self.wait(str(answer.data["execution_id"]), seconds)

    def wait(self, execution: str, seconds: float = 90) -> Answer:
        """Wait for the end of an execution."""

        def ended() -> Answer | None:
            told = self.call("get_execution", execution_id=execution, wait_seconds=5)
            return told if told.status == 200 and told.data.get("status") not in UNFINISHED else None

        return wait_until(f"the end of {execution}", ended, seconds)

    # ------------------------------------------------------------------ looking

    def kernel_pods(self) -> list[str]:
        selector = f"{KERNELS},app.kubernetes.io/instance={self.name}"
        listed = self.namespace.core.list_namespaced_pod(self.namespace.name, label_selector=selector).items
        return [pod.metadata.name for pod in listed if pod.metadata.deletion_timestamp is None]

    def shut_down_kernels(self) -> None:
        for kernel in self.call("list_kernels").data.get("kernels", []):
            self.call("shutdown_kernel", kernel_id=kernel["kernel_id"])

    def wait_for_no_kernel(self) -> None:
        wait_until("no kernel's pod", lambda: not self.kernel_pods(), seconds=60)

    def server_log(self) -> str:
        return "\n".join(f"--- {pod}\n{self.namespace.log(pod)}" for pod in self.servers())


def deploy(namespace: Namespace, manifests: list[Object], name: str = NAME) -> Product:
    """Install the server and wait until it is ready; where it never is, say what the cluster tells of it."""
    product = Product(namespace, name)
    try:
        product.install(manifests)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{_state(product)}") from error
    return product


def _state(product: Product) -> str:
    """Why nothing came up, as far as the cluster tells."""
    lines = []
    for pod in product.namespace.core.list_namespaced_pod(product.namespace.name).items:
        lines += [f"{pod.metadata.name}: {pod.status.phase}", *product.namespace.events(pod.metadata.name)]
        lines += [str(one.state) for one in pod.status.container_statuses or []]
        if pod.status.phase == "Running":
            lines.append(product.namespace.log(pod.metadata.name)[-3000:])
    return "\n".join(lines)
