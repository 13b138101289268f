"""The second wheel: the names of another project's guide, over the same server. The lines are the guide's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

import mcp_server_jupyter
from a_jupyter import TOKEN, Jupyter
from support import eventually

PROJECT = Path(__file__).resolve().parents[2] / "tk-ai-extension"
BOOTSTRAP = Path(__file__).resolve().parents[1] / "scripts" / "bootstrap.py"
ENABLED = "etc/jupyter/jupyter_server_config.d/tk_ai_extension.json"
PATIENCE = 120.0

pytestmark = pytest.mark.xdist_group("tk-ai-extension")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    found = subprocess.run([sys.executable, BOOTSTRAP, "poetry"], check=True, stdout=subprocess.PIPE, text=True)
    python = found.stdout.strip()
    options = ["--no-interaction", "--project", str(PROJECT), "build", "--format", "wheel", "--output", str(folder)]
    subprocess.run([python, "-m", "poetry", *options], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs that find the wheel installed beside the server's package."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (data,) = folder.glob("*.data/data/etc/jupyter")
    return {"PYTHONPATH": str(folder), "JUPYTER_CONFIG_DIR": str(data)}


def test_the_wheel_holds_names_of_the_servers_version_and_enables_its_extension(wheel: Path) -> None:
    version = mcp_server_jupyter.__version__
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == version
    assert f"mcp-server-jupyter (=={version})" in project["dependencies"]
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        enabled = json.loads(archive.read(f"tk_ai_extension-{version}.data/data/{ENABLED}"))
    assert tops == {"tk_ai_extension", f"tk_ai_extension-{version}.dist-info", f"tk_ai_extension-{version}.data"}
    assert enabled == {"ServerApp": {"jpserver_extensions": {"tk_ai_extension": True}}}


def test_jupyter_lists_it_as_enabled_and_fine(installed: dict[str, str]) -> None:
    command = [sys.executable, "-m", "jupyter_server.extension.serverextension", "list"]
    listed = subprocess.run(
        command, env={**os.environ, **installed}, check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    said = listed.stdout + listed.stderr
    assert "tk_ai_extension enabled" in re.sub(r"\x1b\[\d+m", "", said)
    assert f"tk_ai_extension {mcp_server_jupyter.__version__} " in said


@pytest.fixture(params=[["tk_ai_extension"], ["mcp_server_jupyter", "tk_ai_extension"]], ids=["alone", "both"])
def jupyter(
    request: pytest.FixtureRequest, tmp_path: Path, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Jupyter]:
    enabled: Sequence[str] = request.param
    config = tmp_path / "jupyter_config_dir" / "jupyter_server_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"ServerApp": {"jpserver_extensions": dict.fromkeys(enabled, True)}}))
    environment = {"PYTHONPATH": installed["PYTHONPATH"], "MCP_JUPYTER_STATE_DIR": str(tmp_path / "state")}
    server = Jupyter(tmp_path, extensions=True, environment=environment)
    try:
        yield server.start()
    finally:
        server.close()


def test_its_address_is_served_once_whichever_names_are_enabled(jupyter: Jupyter) -> None:
    address = f"{jupyter.url}api/tk-ai/mcp"
    with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as response:
        assert json.load(response)["status"] == "ok"
    (jupyter.root / "here.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_notebooks", "arguments": {}}}
    headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}

    def listed() -> str | None:
        request = urllib.request.Request(address, json.dumps(call).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return str(json.load(response))
        except urllib.error.HTTPError as error:
            if error.code == 503:
                # It is still opening.
                return None
            raise

    assert "here.ipynb" in eventually(listed, PATIENCE, "our server")
    assert "Traceback" not in jupyter.log.read_text()


def test_its_magic_is_loaded_by_its_name(installed: dict[str, str]) -> None:
    manager, client = start_new_kernel(env={**os.environ, **installed}, startup_timeout=PATIENCE)
    try:
        said: list[str] = []

        def hear(message: dict[str, object]) -> None:
            said.append(str(message["content"]))

        lines = "%load_ext tk_ai_extension", "import tk_ai_extension.magics.tk_magic", "%lsmagic"
        for line in lines:
            reply = client.execute_interactive(line, output_hook=hear, timeout=PATIENCE)
            assert reply["content"]["status"] == "ok", reply
        assert "%%tk" in "".join(said)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
