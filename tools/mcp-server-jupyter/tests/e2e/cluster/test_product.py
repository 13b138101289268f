"""The server in a cluster, its kernels in pods: what a client in another pod sees of it, whatever happens to them.

One installation for all of these tests: each has notebooks of its own and leaves no kernel behind.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from control import Control
from kube import Object, api, made_namespace, pod_manifest, wait_until
from kubernetes import client
from product import (
    AGENT_PORT,
    CLIENT,
    KERNELS,
    PORT,
    RESTRICTED,
    RESTRICTED_LABELS,
    SERVER,
    Answer,
    Product,
    deploy,
    render,
)

PROFILES = """
python3:
  resources:
    requests: {cpu: 50m, memory: 64Mi, ephemeral-storage: 16Mi}
    limits: {memory: 512Mi, ephemeral-storage: 256Mi}
small-disk:
  resources:
    requests: {cpu: 50m, memory: 64Mi, ephemeral-storage: 16Mi}
    limits: {memory: 512Mi, ephemeral-storage: 64Mi}
bad-image:
  image: mcp-server-jupyter/never-built:1
too-big:
  resources:
    requests: {memory: 900Gi}
    limits: {memory: 900Gi}
  schedule_seconds: 3
"""


@pytest.fixture(scope="module")
def product(_connected: None, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with made_namespace(**RESTRICTED_LABELS) as namespace:
        folder = tmp_path_factory.mktemp("overlay")
        (folder / "profiles.yaml").write_text(PROFILES)
        generated = {"name": "mcp-server-jupyter-profiles", "behavior": "replace", "files": ["profiles.yaml"]}
        manifests = render(control, folder, namespace.name, "overlays/kind", configMapGenerator=[generated])
        yield deploy(namespace, manifests)


@pytest.fixture(autouse=True)
def _no_kernel_left(product: Product, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    product.shut_down_kernels()
    product.wait_for_no_kernel()


def _notebook(product: Product, request: pytest.FixtureRequest, kernel_name: str = "") -> str:
    name = re.sub(r"\W+", "-", request.node.name)
    return product.notebook(f"{name}/work.ipynb", kernel_name)


# --------------------------------------------------------------------------- working


def test_a_plot_of_a_file_beside_the_notebook_comes_from_a_restricted_pod(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    folder = f"/notebooks/{notebook.rpartition('/')[0]}"
    written = product.namespace.execute(
        product.ready(), "sh", "-c", f"printf 'x,y\\n1,1\\n2,4\\n3,9\\n' > {folder}/data.csv"
    )
    assert written == ""
    plotted = product.run(notebook, 'import pandas as pd\npd.read_csv("data.csv").plot(x="x", y="y");')
    assert plotted.data["status"] == "ok", plotted
    (image,) = plotted.images
    assert base64.b64decode(image["data"]).startswith(b"\x89PNG")
    assert product.run(notebook, 'open("result.txt", "w").write("kept")').data["status"] == "ok"
    assert product.namespace.execute(product.ready(), "cat", f"{folder}/result.txt") == "kept"


def test_a_client_finds_the_server_by_its_name(product: Product) -> None:
    name = f"mcp-server-jupyter.{product.namespace.name}.svc.cluster.local"
    status, told = product.request("GET", "/api/readyz", host=name)
    assert (status, told) == (200, {"status": "ready", "reasons": []})
    assert product.request("GET", "/api/operations", host="mcp-server-jupyter")[0] == 200


def test_the_commands_of_the_guide_run_in_the_servers_pod(product: Product) -> None:
    guide = (Path(__file__).resolve().parents[5] / "DEPLOYMENT.md").read_text()
    listing, running = (
        shlex.split(line) for line in re.findall(r"^  (mcp-server-jupyter (?:kernels|run) .*)$", guide, re.M)
    )
    assert running[-1] == "/notebooks/report.ipynb"
    notebook = product.notebook("report.ipynb")
    product.run(notebook, "import socket\nprint('run in', socket.gethostname())")
    (kernel,) = product.call("list_kernels").data["kernels"]
    own = f"jupyter-kernel-{kernel['kernel_id']}-g1"

    def printed() -> str:
        return re.findall(r"^run in (\S+)", product.call("read_cell", notebook_path=notebook, cell_index=0).text, re.M)[
            0
        ]

    assert printed() == own
    assert kernel["kernel_id"][:8] in product.namespace.execute(product.ready(), *listing, seconds=60)
    said = product.namespace.execute(product.ready(), *running, seconds=150)
    assert re.fullmatch(r"jupyter-kernel-\S+", printed()), said
    assert printed() != own, said
    # Nothing is left of the run, and the server's own kernel goes on.
    wait_until("the pod of the run is gone", lambda: product.namespace.pod_names(KERNELS) == [own])


def test_a_notebook_runs_once_for_each_set_of_parameters_in_a_pod_of_its_own(product: Product) -> None:
    cells = [
        {"cell_type": "code", "source": "x = 0", "metadata": {"tags": ["parameters"]}},
        {"cell_type": "code", "source": "import socket\n[x, socket.gethostname()]", "metadata": {"tags": ["results"]}},
    ]
    cells = [{"id": f"cell-{i}", "outputs": [], "execution_count": None, **cell} for i, cell in enumerate(cells)]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    sets = "".join(json.dumps({"x": x}) + "\n" for x in (1, 2, 3))
    files = {"/notebooks/each.ipynb": json.dumps(notebook), "/notebooks/sets.jsonl": sets}
    code = f"import pathlib\nfor path, text in {files!r}.items(): pathlib.Path(path).write_text(text)"
    assert product.namespace.execute(product.ready(), "python", "-c", code) == ""
    command = ["mcp-server-jupyter", "run", "--root", "/notebooks", "--state-dir", "/state", "--kernels", "kubernetes"]
    command += ["/notebooks/each.ipynb", "--each", "/notebooks/sets.jsonl", "--output-dir", "/notebooks/out"]
    said = product.namespace.execute(product.ready(), *command, "--workers", "2", seconds=150)
    assert "3 done, 0 failed" in said
    summary = product.namespace.execute(product.ready(), "cat", "/notebooks/out/summary.jsonl")
    results = [json.loads(line)["results"]["result"] for line in summary.splitlines()]
    assert [x for x, _ in results] == [1, 2, 3]
    pods = {pod for _, pod in results}
    assert len(pods) == 3
    assert all(re.fullmatch(r"jupyter-kernel-\w+-g1", pod) for pod in pods), pods
    wait_until("the pods of the runs are gone", lambda: not product.namespace.pod_names(KERNELS))
    assert "3 of 3 are done already" in product.namespace.execute(product.ready(), *command, seconds=60)
    assert product.namespace.pod_names(KERNELS) == []


def test_what_runs_is_interrupted_be_it_a_sleep_a_child_or_a_coroutine(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "import asyncio, subprocess, time")
    for source in ("time.sleep(60)", 'subprocess.run(["sleep", "60"])', "await asyncio.sleep(60)"):
        execution = product.start(notebook, f"print('begun', flush=True)\n{source}")
        _wait_for_text(product, execution, "begun")
        assert product.call("interrupt_kernel", notebook_path=notebook).status == 200
        ended = product.wait(execution, seconds=15)
        assert ended.data["ename"] in ("KeyboardInterrupt", "CancelledError"), ended
    assert product.run(notebook, "print('still here')").text.count("still here")


def _wait_for_text(product: Product, execution: str, text: str, seconds: float = 60) -> None:
    wait_until(
        f"{text!r} from {execution}",
        lambda: text in product.call("get_execution", execution_id=execution).text,
        seconds,
        pause=0.3,
    )


# --------------------------------------------------------------------------- policies


def test_only_the_server_reaches_a_kernel_and_a_kernel_reaches_dns_alone(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "import socket")
    (kernel,) = product.kernel_pods()
    address, namespace = product.namespace.address(kernel), product.namespace
    expected = {}
    for name, labels, code in (("stranger", {}, 1), ("another-client", CLIENT, 1), ("a-server", SERVER, 0)):
        for port in ("52317", str(AGENT_PORT)):
            expected[f"{name}-{port}"] = code
            manifest = pod_manifest(f"{name}-{port}", "reach", address, port, labels=labels, **RESTRICTED)
            namespace.core.create_namespaced_pod(namespace.name, manifest)
    assert {pod: namespace.finished(pod)[0] for pod in expected} == expected
    known = product.run(notebook, "socket.gethostbyname('kubernetes.default.svc.cluster.local')")
    assert known.data["status"] == "ok", known
    server = namespace.address(product.ready())
    for place in ("('kubernetes.default.svc.cluster.local', 443)", f"('{server}', {PORT})"):
        out = product.run(notebook, f"socket.create_connection({place}, timeout=2)")
        assert out.data["status"] == "error", out
        assert "TimeoutError" in out.text


def test_only_a_clients_label_opens_the_server(product: Product) -> None:
    namespace, address = product.namespace, product.namespace.address(product.ready())
    namespace.run("no-client", "reach", address, str(PORT), **RESTRICTED)
    namespace.run("a-client", "reach", address, str(PORT), labels=CLIENT, **RESTRICTED)
    assert namespace.finished("no-client")[0] == 1
    assert namespace.finished("a-client")[0] == 0


def test_the_doctor_finds_the_installation_well_and_names_a_policy_that_is_missing(product: Product) -> None:
    pod = product.ready()
    well = product.namespace.execute(pod, "mcp-server-jupyter", "doctor", "kubernetes", seconds=120)
    assert "FAIL" not in well, well
    assert "A pod without the server's label reaches no kernel" in well
    networking = client.NetworkingV1Api(api())
    policy = networking.read_namespaced_network_policy("mcp-server-jupyter-kernels", product.namespace.name)
    networking.delete_namespaced_network_policy(policy.metadata.name, product.namespace.name)
    try:
        ill = product.namespace.execute(pod, "mcp-server-jupyter", "doctor", "kubernetes", seconds=120)
    finally:
        policy.metadata.resource_version = None
        networking.create_namespaced_network_policy(product.namespace.name, policy)
    assert "FAIL  A pod without the server's label reached a kernel's port" in ill
    assert "policies.yaml" in ill


# --------------------------------------------------------------------------- kernels that end


def test_a_kernel_over_its_memory_says_its_limit(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "x = 1")
    ended = product.run(notebook, "held = bytearray(b'x' * (1 << 30))")
    assert "out of memory" in ended.text, ended
    assert "512Mi" in ended.text, ended
    _restart(product, notebook)
    again = product.run(notebook, "print('x' in globals())")
    assert "False" in again.text, again


def _restart(product: Product, notebook: str) -> None:
    answer = product.call("restart_kernel", notebook_path=notebook)
    assert answer.status == 200, answer


def test_a_kernel_whose_pod_is_deleted_says_so_and_starts_again(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "import time")
    (pod,) = product.kernel_pods()
    execution = product.start(notebook, "print('begun', flush=True)\ntime.sleep(60)")
    _wait_for_text(product, execution, "begun")
    product.namespace.core.delete_namespaced_pod(pod, product.namespace.name, grace_period_seconds=1)
    ended = product.wait(execution, seconds=30)
    assert "its pod was deleted" in ended.text, ended
    assert "KeyboardInterrupt" not in ended.text, ended
    assert "deleted" in _refused(product, notebook)
    _restart(product, notebook)
    assert product.run(notebook, "print(6 * 7)").text.count("42")
    (other,) = product.kernel_pods()
    assert other != pod


def _refused(product: Product, notebook: str) -> str:
    """What the next call is told of a kernel that has ended."""
    told = wait_until("the kernel's end", lambda: _gone(product, notebook), seconds=30)
    return told.text.lower()


def _gone(product: Product, notebook: str) -> Answer | None:
    told = product.call("execute_code", code="1", notebook_path=notebook, timeout_seconds=5)
    return told if told.status == 410 else None


def test_an_evicted_kernel_says_so(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "import time")
    (pod,) = product.kernel_pods()
    execution = product.start(notebook, "print('begun', flush=True)\ntime.sleep(60)")
    _wait_for_text(product, execution, "begun")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": product.namespace.name},
        "deleteOptions": {"gracePeriodSeconds": 1},
    }
    product.namespace.core.create_namespaced_pod_eviction(pod, product.namespace.name, eviction)
    ended = product.wait(execution, seconds=30)
    assert "evicted" in ended.text, ended
    assert "KeyboardInterrupt" not in ended.text, ended
    assert "evict" in _refused(product, notebook)


@pytest.mark.full
def test_a_kernel_that_fills_its_disk_is_evicted_and_says_why(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request, "small-disk")
    source = (
        "import time\nopen('/tmp/big', 'wb').write(b'x' * (100 << 20))\nprint('written', flush=True)\ntime.sleep(120)"
    )
    product.run(notebook, source, seconds=150)
    told = _refused(product, notebook)
    assert "evicted" in told
    assert "64mi" in told


# --------------------------------------------------------------------------- kernels that do not start


def test_an_image_that_cannot_be_pulled_is_an_error_at_once(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request, "bad-image")
    told = product.run(notebook, "1", seconds=60)
    assert "never-built" in told.text, told
    assert re.search("pull", told.text, re.IGNORECASE), told
    wait_until("no pod left", lambda: not product.kernel_pods(), seconds=30)


def test_a_kernel_that_fits_on_no_node_waits_as_long_as_its_profile_says(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request, "too-big")
    told = product.run(notebook, "1", seconds=60)
    assert "Insufficient memory" in told.text, told


def test_a_full_quota_is_an_error_with_the_quotas_name(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request)
    core, namespace = product.namespace.core, product.namespace.name
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}})
    try:
        wait_until("the quota counts", lambda: core.read_namespaced_resource_quota("few", namespace).status.used)
        told = product.run(notebook, "1", seconds=30)
    finally:
        core.delete_namespaced_resource_quota("few", namespace)
    assert "quota" in told.text, told
    assert "few" in told.text, told
    assert product.run(notebook, "print(6 * 7)").text.count("42")


# --------------------------------------------------------------------------- servers that end


def test_a_server_killed_in_a_cell_loses_nothing(product: Product, request: pytest.FixtureRequest) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "import time\nx = 41")
    lines = 200
    source = f"for i in range({lines}):\n    print('line', i, flush=True)\n    time.sleep(0.04)"
    execution = product.start(notebook, source)
    _wait_for_text(product, execution, "line 5")
    kernels, server = product.kernel_pods(), product.ready()
    product.namespace.core.delete_namespaced_pod(server, product.namespace.name, grace_period_seconds=0)
    wait_until("another server", lambda: product.ready() != server, seconds=60)
    ended = product.wait(execution, seconds=60)
    assert ended.data["status"] == "ok", ended
    saved = json.loads(product.namespace.execute(product.ready(), "cat", f"/notebooks/{notebook}"))
    (output,) = saved["cells"][-1]["outputs"]
    assert "".join(output["text"]).splitlines() == [f"line {i}" for i in range(lines)]
    assert product.kernel_pods() == kernels
    assert "42" in product.run(notebook, "print(x + 1)").text


def test_a_second_server_waits_alive_and_not_ready_and_names_the_first(
    product: Product, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "x = 41")
    first = product.ready()
    product.scale(2)
    try:
        (second,) = wait_until("a second server", lambda: sorted(set(product.servers()) - {first}))
        product.namespace.started(second)
        address = wait_until("its address", lambda: product.namespace.pod(second)["status"].get("podIP", ""))
        status, told = wait_until("its answer", lambda: _answer(product, address), seconds=60, pause=0.5)
        assert status == 503
        assert first in json.dumps(told), told
        assert "42" in product.run(notebook, "print(x + 1)").text
        product.namespace.core.delete_namespaced_pod(first, product.namespace.name)
        wait_until("the second leads", lambda: product.ready() == second, seconds=60)
        assert "43" in product.run(notebook, "print(x + 2)").text
    finally:
        product.scale(1)
        wait_until("one server", lambda: len(product.servers()) == 1 and product.ready(), seconds=60)


def _answer(product: Product, address: str) -> tuple[int, Object] | None:
    status, told = product.request("GET", "/api/readyz", host=address)
    return (status, told) if status else None


@pytest.mark.full
def test_calls_are_served_while_the_api_server_is_away(
    product: Product, control: Control, request: pytest.FixtureRequest
) -> None:
    notebook = _notebook(product, request)
    product.run(notebook, "x = 41")
    server, restarts = product.ready(), _restarts(product)
    arguments = product.arguments(
        "POST", "/api/operations/execute_code", {"code": "print(x + 1)", "notebook_path": notebook}, timeout=5
    )
    manifest = pod_manifest("repeating", "repeat", *arguments, "--seconds", "50", labels=CLIENT, **RESTRICTED)
    product.namespace.core.create_namespaced_pod(product.namespace.name, manifest)
    product.namespace.started("repeating")
    control.pause_api_server(40)
    _, log = product.namespace.finished("repeating", seconds=60)
    answers = [json.loads(line) for line in log.splitlines()]
    assert len(answers) > 50
    assert [one for one in answers if one["status"] != 200 or "42" not in one["body"]] == []
    assert (product.ready(), _restarts(product)) == (server, restarts)
    assert product.run(product.notebook("after/pause.ipynb"), "print(6 * 7)").text.count("42")


def _restarts(product: Product) -> int:
    return int(product.namespace.pod(product.ready())["status"]["containerStatuses"][0]["restartCount"])


def test_a_pod_that_dies_while_dns_is_away_takes_nothing_else_with_it(
    product: Product, control: Control, request: pytest.FixtureRequest
) -> None:
    dying, living = _notebook(product, request), product.notebook("dns/living.ipynb")
    product.run(dying, "x = 1")
    (pod,) = product.kernel_pods()
    product.run(living, "x = 41")
    control.scale_dns(0)
    try:
        product.namespace.core.delete_namespaced_pod(pod, product.namespace.name, grace_period_seconds=0)
        wait_until("the pod is gone", lambda: pod not in product.kernel_pods())
        for _ in range(5):
            assert "42" in product.run(living, "print(x + 1)", seconds=10).text
        assert "deleted" in _refused(product, dying)
        _restart(product, dying)
        assert "42" in product.run(dying, "print(6 * 7)", seconds=60).text
    finally:
        control.scale_dns(1)
        _wait_for_dns(product)


def _wait_for_dns(product: Product) -> None:
    name = "kubernetes.default.svc.cluster.local"
    wait_until("DNS answers", lambda: product.namespace.lookup(product.client, name, "A").code == "NOERROR", seconds=60)


# --------------------------------------------------------------------------- more than one


def test_two_installations_in_one_namespace_leave_each_other_alone(
    product: Product, control: Control, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    mine = _notebook(product, request)
    product.run(mine, "x = 41")
    manifests = render(control, tmp_path, product.namespace.name, "overlays/second")
    second = deploy(product.namespace, manifests, "mcp-server-jupyter-second")
    theirs = second.notebook("theirs.ipynb")
    second.run(theirs, "x = 1")
    assert len(product.kernel_pods()) == len(second.kernel_pods()) == 1
    assert len(product.call("list_kernels").data["kernels"]) == len(second.call("list_kernels").data["kernels"]) == 1
    product.namespace.apps.delete_namespaced_deployment("mcp-server-jupyter-second", product.namespace.name)
    wait_until("its kernels go with it", lambda: not second.kernel_pods(), seconds=60)
    assert "42" in product.run(mine, "print(x + 1)").text


def test_nbclient_and_papermill_execute_notebooks_in_pods(product: Product) -> None:
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    own = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    restricted = {**RESTRICTED, "securityContext": {**RESTRICTED["securityContext"], "runAsUser": 10001}}
    manifest = pod_manifest("notebooks", labels=SERVER, serviceAccountName=product.name, **restricted)
    manifest["spec"]["automountServiceAccountToken"] = True
    manifest["spec"]["containers"][0] |= {"image": "mcp-server-jupyter/cluster-notebooks:e2e", "args": [], "env": own}
    product.namespace.core.create_namespaced_pod(product.namespace.name, manifest)
    code, log = product.namespace.finished("notebooks", seconds=150)
    assert code == 0, log
    told = json.loads(log.splitlines()[-1])
    assert re.fullmatch(r"jupyter-kernel-\w+-g1 2\n", told["nbclient"]), told
    assert re.fullmatch(r"jupyter-kernel-\w+-g1 42\n", told["papermill"]), told
    pods = product.namespace.pod_names("mcp-jupyter/role=kernel")
    assert wait_until("no pod of theirs", lambda: not product.namespace.pod_names("mcp-jupyter/role=kernel"), 30), pods
