"""The bundle for Claude Desktop that `make package` writes."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mcp_server_jupyter import __version__

PROJECT = Path(__file__).resolve().parents[1]
WITH_NODE = PROJECT.parents[1] / "vscode-extension" / "scripts" / "with-node"
VALIDATOR = "@anthropic-ai/mcpb@2.1.2"
NO_NPM = 77


def bundle(folder: Path) -> Path:
    folder.mkdir()
    (folder / f"mcp_server_jupyter-{__version__}-py3-none-any.whl").write_bytes(b"a wheel")
    command = [sys.executable, PROJECT / "scripts" / "mcpb.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_the_bundle_starts_the_wheel_it_holds_for_the_folder_that_was_chosen(tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle(tmp_path / "dist")) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        wheel = f"mcp_server_jupyter-{__version__}-py3-none-any.whl"
        assert sorted(archive.namelist()) == ["LICENSE", "README.md", "manifest.json", wheel]
    arguments = manifest["server"]["mcp_config"]["args"]
    assert f"${{__dirname}}/{wheel}" in arguments
    assert arguments[-3:] == ["mcp-server-jupyter", "--root", "${user_config.root}"]
    assert manifest["version"] == __version__


def test_the_same_wheel_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = bundle(tmp_path / "a"), bundle(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_without_a_wheel_nothing_is_written(tmp_path: Path) -> None:
    command = [sys.executable, PROJECT / "scripts" / "mcpb.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "make package writes it" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_formats_own_tool_finds_the_manifest_valid(tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle(tmp_path / "dist")) as archive:
        archive.extract("manifest.json", tmp_path)
    command = [WITH_NODE, "npx", "--yes", VALIDATOR, "validate", tmp_path / "manifest.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode == NO_NPM:
        pytest.skip("npm is not here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation passes" in done.stdout
