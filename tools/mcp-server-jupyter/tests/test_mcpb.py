"""The bundle for Claude Desktop that `make package` writes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import TextContent

from mcp_server_jupyter import __version__

PROJECT = Path(__file__).resolve().parents[1]
WITH_NODE = PROJECT.parents[1] / "vscode-extension" / "scripts" / "with-node"
VALIDATOR = "@anthropic-ai/mcpb@2.1.2"
NO_NPM = 77
UV = "uv==0.13.9"
SECONDS = 300


def bundle(folder: Path) -> Path:
    folder.mkdir()
    (folder / f"mcp_server_jupyter-{__version__}-py3-none-any.whl").write_bytes(b"a wheel")
    return bundled(folder)


def bundled(folder: Path) -> Path:
    """The bundle of the wheel in a folder."""
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `make package` builds it."""
    command = [sys.executable, PROJECT / "scripts" / "bootstrap.py", "poetry"]
    python = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    folder = tmp_path_factory.mktemp("wheel")
    poetry = [python, "-m", "poetry", "--no-interaction", f"--project={PROJECT}", "build", "--format=wheel"]
    subprocess.run([*poetry, f"--output={folder}"], check=True, capture_output=True, timeout=SECONDS)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def uv(wheel: Path) -> Path:
    """A folder with uv, and in `wheels` what it would fetch: pip knows from where this machine gets packages."""
    dependencies = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    key = hashlib.sha256(repr((UV, sys.version_info[:2], dependencies)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcp-server-jupyter"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"uv-{key}"
    with (cache / "uv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=SECONDS)
            pip = [folder / "bin" / "python", "-m", "pip", "--quiet"]
            subprocess.run([*pip, "install", UV], check=True, timeout=SECONDS)
            download = [*pip, "download", "--only-binary=:all:", f"--dest={folder / 'wheels'}", wheel]
            subprocess.run(download, check=True, timeout=SECONDS)
            (folder / "wheels" / wheel.name).unlink(missing_ok=True)
            (folder / "done").touch()
    return folder


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_the_bundle_works_when_it_is_started_as_its_manifest_says(wheel: Path, uv: Path, tmp_path: Path) -> None:
    installed, root = tmp_path / "the extension", tmp_path / "my notebooks"
    root.mkdir()
    with zipfile.ZipFile(bundled(wheel.parent)) as archive:
        archive.extractall(installed)
    config = json.loads((installed / "manifest.json").read_text())["server"]["mcp_config"]
    command, *arguments = (
        part.replace("${__dirname}", str(installed)).replace("${user_config.root}", str(root))
        for part in (config["command"], *config["args"])
    )
    environment = {
        **os.environ,
        **config["env"],
        "PATH": f"{uv / 'bin'}:{os.environ['PATH']}",
        "MCP_JUPYTER_STATE_DIR": str(tmp_path / "state"),
        "UV_CACHE_DIR": str(uv / "cache"),
        "UV_FIND_LINKS": str(uv / "wheels"),
        "UV_NO_INDEX": "1",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
    }
    started = StdioServerParameters(command=command, args=arguments, env=environment)
    try:
        with anyio.fail_after(SECONDS):
            async with Client(stdio_client(started)) as client:
                tools = (await client.list_tools()).tools
                await client.call_tool("create_notebook", {"notebook_path": "a.ipynb"})
                cell = {"notebook_path": "a.ipynb", "cell_index": 0, "cell_source": "6 * 7"}
                answer = await client.call_tool("insert_execute_code_cell", cell)
    finally:
        with anyio.CancelScope(shield=True):
            down = [sys.executable, "-m", "mcp_server_jupyter", "down", f"--root={root}"]
            await anyio.run_process(down, env=environment)
    assert "execute_code" in {tool.name for tool in tools}
    (text,) = answer.content
    assert isinstance(text, TextContent)
    assert text.text.endswith("42")
    assert json.loads((root / "a.ipynb").read_text())["cells"][0]["source"] == ["6 * 7"]
