"""Other Jupyter applications' kernels in pods: jupyter_client and nbclient over the provisioner."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from fake_cluster import Lab
from mcp_server_jupyter.backends.kubernetes import cluster, objects, provisioner
from mcp_server_jupyter.errors import InvalidRequest, KernelStartFailed

pytestmark = pytest.mark.anyio

OWN = ("secrets", "services", "pods")


@pytest.fixture
def manager(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncKernelManager:
    monkeypatch.setattr(
        provisioner, "open_cluster", functools.partial(cluster.open_cluster, resolver=lab.names.resolver())
    )
    (tmp_path / "work").mkdir()
    # A process of this machine has no other home than one of this machine's folders.
    monkeypatch.setattr(objects, "HOME", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path / "work")
    folder = tmp_path / "kernels" / "pod"
    folder.mkdir(parents=True)
    config = {"profile": "python3", "settings": {"kubeconfig": str(lab.kubeconfig)}}
    spec = {
        "argv": [],
        "display_name": "Python in a pod",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": "mcp-kubernetes", "config": config}},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name="pod", kernel_spec_manager=specs)


@pytest.fixture
async def client(manager: AsyncKernelManager) -> AsyncIterator[AsyncKernelClient]:
    with anyio.fail_after(60):
        await manager.start_kernel()
        opened = manager.client()
        opened.start_channels()
        await opened.wait_for_ready(timeout=60)
        try:
            yield opened
        finally:
            opened.stop_channels()
            if manager.provisioner is not None:
                await manager.shutdown_kernel(now=True)


async def run(client: AsyncKernelClient, code: str, printed: Callable[[], None] = lambda: None) -> str:
    """What it shows; `printed` is called once it prints something."""
    told: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        told.append(message["content"].get("text") or message["content"].get("ename") or "")
        if message["msg_type"] == "stream":
            printed()

    with anyio.fail_after(60):
        await client.execute_interactive(code, timeout=60, output_hook=hear, stop_on_error=False)
    return "".join(told)


def counts(lab: Lab) -> list[int]:
    return [len(lab.fake.objects[kind]) for kind in OWN]


async def test_a_kernel_manager_starts_restarts_and_ends_a_kernel_in_a_pod(
    manager: AsyncKernelManager, client: AsyncKernelClient, lab: Lab
) -> None:
    assert manager.curve_publickey is not None
    assert await run(client, "x = 5\nprint(x)") == "5\n"
    [before] = lab.fake.objects["pods"]
    with anyio.fail_after(60):
        await manager.restart_kernel()
        await client.wait_for_ready(timeout=60)
    [after] = lab.fake.objects["pods"]

    assert before == after
    assert await run(client, "print('x' in globals())") == "False\n"
    with anyio.fail_after(60):
        await manager.shutdown_kernel()
    assert counts(lab) == [0, 0, 0]


async def test_a_kernel_that_died_is_noticed_and_started_again_in_a_new_pod(
    manager: AsyncKernelManager, client: AsyncKernelClient, lab: Lab
) -> None:
    [name] = lab.fake.objects["pods"]
    lab.node.kill(name)
    with anyio.fail_after(60):
        while await manager.is_alive():  # noqa: ASYNC110 - as applications ask
            await anyio.sleep(0.05)
    with anyio.fail_after(60):
        await manager.restart_kernel(now=True)
        assert await manager.is_alive()

    assert list(lab.fake.objects["pods"]) == [name.replace("-g1", "-g2")]


async def test_through_the_api_server_clients_of_a_kernel_find_its_next_pod_too(
    manager: AsyncKernelManager, lab: Lab
) -> None:
    lab.node.reachable = False
    config = manager.kernel_spec.metadata["kernel_provisioner"]["config"]
    config["settings"]["kernel_access"] = "port-forward"
    with anyio.fail_after(60):
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=30)
            assert await run(client, "print('x' * 100_000)") == "x" * 100_000 + "\n"
            [name] = lab.fake.objects["pods"]
            lab.node.kill(name)
            while await manager.is_alive():  # noqa: ASYNC110 - as applications ask
                await anyio.sleep(0.05)
            await manager.restart_kernel(now=True)
            await client.wait_for_ready(timeout=30)
            assert await run(client, "print('again')") == "again\n"
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
    assert counts(lab) == [0, 0, 0]


async def test_an_interrupt_reaches_the_kernel(manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def interrupt() -> None:
            await begun.wait()
            await manager.interrupt_kernel()

        tasks.start_soon(interrupt)
        told = await run(client, "print('begun', flush=True)\nimport time\ntime.sleep(60)", begun.set)
    assert told == "begun\nKeyboardInterrupt"


async def test_a_start_that_fails_leaves_nothing(manager: AsyncKernelManager, lab: Lab) -> None:
    lab.node.images = set()
    with anyio.fail_after(60), pytest.raises(KernelStartFailed, match="ErrImagePull"):
        await manager.start_kernel()
    assert counts(lab) == [0, 0, 0]


async def test_another_process_meets_the_kernel_again_by_what_was_written_down(
    manager: AsyncKernelManager, client: AsyncKernelClient
) -> None:
    assert manager.provisioner is not None
    await run(client, "kept = 7")
    info = await manager.provisioner.get_provisioner_info()
    found = provisioner.PodProvisioner(
        kernel_id=info["kernel_id"],
        kernel_spec=manager.kernel_spec,
        parent=manager,
        profile="python3",
        settings=manager.provisioner.settings,
    )
    await found.load_provisioner_info(info)
    assert found.has_process
    assert await found.poll() is None
    await found._close(remove=False)


async def test_nbclient_runs_a_notebook_in_a_pod(manager: AsyncKernelManager, lab: Lab) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    with anyio.fail_after(60):
        runner = NotebookClient(notebook, km=manager, timeout=60)
        await runner.async_execute()
        if runner.kc is not None:
            runner.kc.stop_channels()
        await manager.shutdown_kernel()

    assert notebook.cells[0].outputs[0]["text"] == "42\n"
    assert counts(lab) == [0, 0, 0]


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no setting imagee"):
        provisioner._settings({"imagee": "x"}, tmp_path)
