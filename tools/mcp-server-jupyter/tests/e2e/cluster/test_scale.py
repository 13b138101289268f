"""`make bench-cluster`: a thousand kernels of one server, on a node that is none. See `bench/hollow.py`."""

# ruff: noqa: T201 - figures are printed

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from control import Control
from kube import Namespace, Object, made_namespace, wait_until
from kubernetes import client
from product import RESTRICTED_LABELS, Product, deploy, render
from test_bench import MEASURE, measure

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.environ.get("E2E_CLUSTER") != "testcluster", reason="a node of the test cluster routes what is not there"
    ),
]

KERNELS = int(os.environ.get("BENCH_KERNELS", "1000"))
IDLE_SECONDS = 120
HOLLOW = (Path(__file__).parent / "bench" / "hollow.py").read_text()
PROFILES = """
python3:
  files: none
hollow:
  files: none
  nodeSelector: {bench: hollow}
  tolerations: [{key: bench, operator: Exists}]
  resources:
    requests: {cpu: 10m, memory: 64Mi, ephemeral-storage: 16Mi}
    limits: {memory: 512Mi, ephemeral-storage: 256Mi}
"""
MANY = """
- op: add
  path: /spec/template/spec/containers/0/args/-
  value: --max-kernels=20000
"""


@pytest.fixture(scope="module")
def product(_connected: None, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with made_namespace(**RESTRICTED_LABELS) as namespace:
        folder = tmp_path_factory.mktemp("overlay")
        (folder / "profiles.yaml").write_text(PROFILES)
        generated = {"name": "mcp-server-jupyter-profiles", "behavior": "replace", "files": ["profiles.yaml"]}
        patch = {"target": {"kind": "Deployment"}, "patch": MANY}
        manifests = render(
            control, folder, namespace.name, "overlays/kind", configMapGenerator=[generated], patches=[patch]
        )
        namespace.core.create_namespaced_config_map(
            namespace.name, {"metadata": {"name": "bench"}, "data": {"measure.py": MEASURE}}
        )
        # The test cluster's own policies know the pods that its node has made, and no others.
        server = {"app": "mcp-server-manager", "app.kubernetes.io/instance": "mcp-server-jupyter"}
        hollow = {"egress": [{"to": [{"ipBlock": {"cidr": "10.245.0.0/16"}}]}], "policyTypes": ["Egress"]}
        namespace.policy("hollow", podSelector={"matchLabels": server}, **hollow)
        product = deploy(namespace, manifests)
        with made_namespace() as place:
            yield from _beside_a_hollow_node(product, place)


def _beside_a_hollow_node(product: Product, place: Namespace) -> Iterator[Product]:
    rbac, core = place.rbac, place.core
    binding = f"hollow-{place.name}"
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": place.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    rbac.create_cluster_role_binding({"metadata": {"name": binding}, "subjects": [subject], "roleRef": role})
    try:
        core.create_namespaced_config_map(place.name, {"metadata": {"name": "bench"}, "data": {"hollow.py": HOLLOW}})
        core.create_namespaced_pod(place.name, _hollow_pod(product))
        place.started("hollow")
        place.serving("hollow")
        yield product
    finally:
        core.delete_collection_namespaced_pod(
            product.namespace.name, label_selector="mcp-jupyter/role=kernel", grace_period_seconds=0
        )
        with suppress(client.ApiException):  # it may not have come so far
            core.delete_node("hollow")
        rbac.delete_cluster_role_binding(binding)


def _hollow_pod(product: Product) -> Object:
    image = product.namespace.pod(product.ready())["spec"]["containers"][0]["image"]
    security = {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}}
    container = {
        "name": "hollow",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/bench/hollow.py", product.namespace.name],
        "securityContext": security,
        "volumeMounts": [{"name": "bench", "mountPath": "/bench"}],
    }
    volumes = [{"name": "bench", "configMap": {"name": "bench"}}]
    spec = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "restartPolicy": "Never"}
    return {"metadata": {"name": "hollow"}, "spec": {**spec, "containers": [container], "volumes": volumes}}


# --------------------------------------------------------------------------- figures


def _rss(product: Product) -> float:
    """Resident memory of the server, in MiB."""
    status = product.namespace.execute(product.ready(), "cat", "/proc/1/status")
    [kilobytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kilobytes) / 1024


def _requests(control: Control) -> int:
    """All that the API server has been asked so far, by anybody."""
    lines = control.kubectl("get", "--raw", "/metrics").splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("apiserver_request_total{"))


def _rate(control: Control) -> float:
    began, before = time.monotonic(), _requests(control)
    time.sleep(IDLE_SECONDS)
    return (_requests(control) - before) / (time.monotonic() - began)


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[-1]


def test_a_thousand_kernels(product: Product, control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(what: str, value: float, unit: str, target: float | None = None) -> None:
        verdict = "" if target is None else f"  target {target:g}{'' if value <= target else '  MISSED'}"
        with capsys.disabled():
            print(f"{what:<34} {value:10.4f} {unit}{verdict}", flush=True)

    with capsys.disabled():
        print()
    measure(product, "fill", "--count", "1")
    small, alone = _rss(product), measure(product, "spread")["1+1"]
    tell("1+1 of one kernel, median", statistics.median(alone), "s")
    tell("1+1 of one kernel, p99", _p99(alone), "s")

    filled = measure(product, "fill", "--count", str(KERNELS - 1))
    for name, each in filled.items():
        tell(name, statistics.median(each), "s")
    big, many = _rss(product), measure(product, "spread")
    tell(f"1+1 of {KERNELS}, median", statistics.median(many["1+1"]), "s")
    tell(f"1+1 of {KERNELS}, p99", _p99(many["1+1"]), "s", 3 * _p99(alone))
    tell("every kernel once", many["every kernel once"][0], "s")
    tell("memory with one kernel", small, "MiB")
    tell(f"memory with {KERNELS}", big, "MiB")

    with_server = _rate(control)
    product.scale(0)
    wait_until("the server has gone", lambda: not product.servers())
    without = _rate(control)
    tell("API requests of the idle server", with_server - without, "/s", 2)

    began = time.monotonic()
    product.scale(1)
    product.ready(300)
    tell(f"adoption of {KERNELS}, pod included", time.monotonic() - began, "s", 30)
    adopted = measure(product, "spread")
    tell("every kernel once, then", adopted["every kernel once"][0], "s")
    tell(f"memory after adopting {KERNELS}", _rss(product), "MiB")
    assert len(product.kernel_pods()) == KERNELS
