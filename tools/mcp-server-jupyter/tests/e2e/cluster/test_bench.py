"""`make bench-cluster`: what starts, calls and bursts take in a cluster. Nothing fails for being slow: it is told."""

# ruff: noqa: T201 - figures are printed

from __future__ import annotations

import json
import secrets
import statistics
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from control import Control
from kube import Object, made_namespace, pod_manifest
from product import CLIENT, RESTRICTED, RESTRICTED_LABELS, SECRETS, SERVER, Product, deploy, render

pytestmark = [pytest.mark.bench, pytest.mark.timeout(2000)]

MEASURE = (Path(__file__).parent / "bench" / "measure.py").read_text()
TARGETS = {"cold start": 2.5, "warm start": 0.05, "restart": 1.0}
RATIO = 1.3
PROFILES = """
python3: &small
  resources:
    requests: {cpu: 10m, memory: 64Mi, ephemeral-storage: 16Mi}
    limits: {memory: 512Mi, ephemeral-storage: 256Mi}
small: *small
warm:
  resources:
    requests: {cpu: 10m, memory: 64Mi, ephemeral-storage: 16Mi}
    limits: {memory: 512Mi, ephemeral-storage: 256Mi}
  warm: 1
"""


@pytest.fixture(scope="module")
def product(_connected: None, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with made_namespace(**RESTRICTED_LABELS) as namespace:
        folder = tmp_path_factory.mktemp("overlay")
        (folder / "profiles.yaml").write_text(PROFILES)
        generated = {"name": "mcp-server-jupyter-profiles", "behavior": "replace", "files": ["profiles.yaml"]}
        manifests = render(control, folder, namespace.name, "overlays/kind", configMapGenerator=[generated])
        code = {"metadata": {"name": "bench"}, "data": {"measure.py": MEASURE}}
        namespace.core.create_namespaced_config_map(namespace.name, code)
        product = deploy(namespace, manifests)
        product.run(product.notebook("pull.ipynb"), "1 + 1")  # the node has the image
        product.shut_down_kernels()
        yield product


def measure(product: Product, part: str, *more: str) -> dict[str, list[float]]:
    """Run the measuring program in a pod of the server's image: it has jupyter_client, and may reach kernels."""
    server = product.namespace.pod(product.ready())["spec"]["containers"][0]["image"]
    name = f"bench-{part}-{secrets.token_hex(3)}"
    manifest = pod_manifest(name, labels={**CLIENT, **SERVER}, **RESTRICTED)
    container = manifest["spec"]["containers"][0]
    container |= {
        "image": server,
        "command": ["python", "/bench/measure.py", product.name, product.token, part, *more],
        "args": [],
        "volumeMounts": [{"name": "bench", "mountPath": "/bench"}],
    }
    manifest["spec"]["volumes"] = [{"name": "bench", "configMap": {"name": "bench"}}]
    product.namespace.core.create_namespaced_pod(product.namespace.name, manifest)
    product.namespace.started(name)
    code, log = product.namespace.finished(name, seconds=1800)
    assert code == 0, log
    samples: dict[str, list[float]] = json.loads(log.splitlines()[-1])
    return samples


def _tell(capsys: pytest.CaptureFixture[str], samples: dict[str, list[float]]) -> None:
    with capsys.disabled():
        print()
        for name, each in samples.items():
            median, target = statistics.median(each), TARGETS.get(name)
            verdict = "" if target is None else f"  target {target:g} s{'' if median <= target else '  MISSED'}"
            print(f"{name:<20} {median:8.4f} s  ({min(each):.4f} to {max(each):.4f}, {len(each)} samples){verdict}")


def test_starts(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    _tell(capsys, measure(product, "starts"))


def test_calls(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = product.notebook("calls.ipynb")
    product.run(notebook, "1 + 1")
    (kernel,) = product.call("list_kernels").data["kernels"]
    samples = measure(
        product, "calls", "--kernel", kernel["kernel_id"], "--connection", json.dumps(_connection(product))
    )
    _tell(capsys, samples)
    ratio = statistics.median(samples["1+1"]) / statistics.median(samples["1+1 raw"])
    with capsys.disabled():
        print(f"{'1+1 to raw':<20} {ratio:8.2f}    target {RATIO}{'' if ratio <= RATIO else '  MISSED'}")
    product.shut_down_kernels()


def _connection(product: Product) -> Object:
    """What a person would do to reach the one kernel by jupyter_client: its Secret's keys, its pod's address."""
    core, namespace = product.namespace.core, product.namespace.name
    (secret,) = [
        one
        for one in core.list_namespaced_secret(namespace, label_selector=f"{SECRETS},mcp-jupyter/role=kernel").items
        if one.metadata.labels.get("mcp-jupyter/state") != "warm"
    ]
    told: Object = json.loads(b64decode(secret.data["agent.json"]))
    selector = f"mcp-jupyter/kernel-id={secret.metadata.labels['mcp-jupyter/kernel-id']}"
    (pod,) = core.list_namespaced_pod(namespace, label_selector=selector).items
    ports = {f"{name}_port": 52317 + number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"))}
    keys = {name: told[name] for name in ("key", "curve_publickey", "curve_secretkey")}
    return {"transport": "tcp", "signature_scheme": "hmac-sha256", "ip": pod.status.pod_ip, **ports, **keys}


def test_a_burst(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    _tell(capsys, measure(product, "burst"))
