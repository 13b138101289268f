"""The magics in a kernel of a Jupyter that has our extension, or has it not."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient

from a_jupyter import TOKEN, Jupyter

# Each starts a Jupyter and a kernel of it.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("magics-jupyter")]
PROJECT = Path(__file__).resolve().parents[2]
LOAD = "%load_ext mcp_server_jupyter"
OWN = "folder/mine ü.ipynb"
SECONDS = 120.0


@contextmanager
def a_jupyter(folder: Path, *, extension: bool) -> Iterator[Jupyter]:
    if extension:
        config = folder / "jupyter_config_dir" / "jupyter_server_config.d" / "mcp_server_jupyter.json"
        config.parent.mkdir(parents=True)
        config.write_bytes(next((PROJECT / "jupyter-config").rglob("*.json")).read_bytes())
    jupyter = Jupyter(folder, base="/hub/user/x/", extensions=extension)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MCP_JUPYTER_STATE_DIR", str(folder / "state"))
        try:
            yield jupyter.start()
        finally:
            jupyter.close()


def ask(jupyter: Jupyter, method: str, path: str, body: dict[str, Any]) -> Any:
    headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{jupyter.url}{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return json.load(response)


@contextmanager
def a_kernel(folder: Path, jupyter: Jupyter) -> Iterator[BlockingKernelClient]:
    """The kernel of the notebook OWN, as JupyterLab starts one, reached beside our server."""
    (jupyter.root / "folder").mkdir()
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (jupyter.root / OWN).write_text(json.dumps(content))
    name = Path(OWN).name
    kernel = {"name": "python3"}
    # JupyterLab begins a session under a path of its own making; the name is right.
    path = f"folder/{uuid.uuid4()}"
    session = ask(jupyter, "POST", "api/sessions", {"path": path, "name": name, "type": "notebook", "kernel": kernel})
    file = folder / "jupyter_runtime_dir" / f"kernel-{session['kernel']['id']}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels(hb=False)  # a busy machine answers it too late
    try:
        client.wait_for_ready(timeout=SECONDS)
        yield client
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)


def run(kernel: BlockingKernelClient, code: str) -> str:
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        said.append(str(message["content"].get("text", "")))

    kernel.execute_interactive(code, timeout=SECONDS, output_hook=hear)
    return "".join(said)


def test_a_notebook_asks_the_extension_of_the_jupyter_that_runs_it(tmp_path: Path) -> None:
    with a_jupyter(tmp_path, extension=True) as jupyter, a_kernel(tmp_path, jupyter) as kernel:
        assert OWN in run(kernel, f"{LOAD}\n%mcp notebooks")
        assert OWN in run(kernel, "%%tk\nList all notebooks in the current directory")
        run(kernel, "%mcp call append_markdown_cell cell_source='from its own cell'")
        told = run(kernel, "%mcp call execute_code code='print(6 * 7)'")
        elsewhere = run(kernel, "%mcp call create_notebook notebook_path=other.ipynb")
        ran = run(kernel, "%mcp call execute_code notebook_path=other.ipynb code='print(6 * 7)' timeout_seconds=100")
    cells = json.loads((jupyter.root / OWN).read_text())["cells"]
    assert "".join(cells[-1]["source"]) == "from its own cell"
    assert "This kernel is running the very cell that asks." in told
    assert "other.ipynb" in elsewhere
    assert "\n42" in ran


def test_a_jupyter_without_the_extension_is_told_of(tmp_path: Path) -> None:
    with a_jupyter(tmp_path, extension=False) as jupyter, a_kernel(tmp_path, jupyter) as kernel:
        told = run(kernel, f"{LOAD}\n%mcp notebooks")
    assert "answers 404" in told
    assert "jupyter server extension list" in told
