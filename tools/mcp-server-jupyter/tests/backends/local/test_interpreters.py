"""Which Python a notebook runs on, told from files alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from environments import conda_environment, lean_environment, site_of
from local_kernels import kernelspec
from mcp_server_jupyter.backends.local.interpreters import LocalInterpreters
from mcp_server_jupyter.errors import NotFound
from mcp_server_jupyter.ports import Choice, Environment

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of a user who has nothing registered, active or cached."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    return folder.resolve()


async def choose(
    root: Path, name: str = "python3", environ: Mapping[str, str] | None = None, folder: str = "a/b"
) -> Choice:
    given = {"HOME": os.environ["HOME"], **(environ or {})}
    return await LocalInterpreters(root).choose(name, folder=folder, environ=given)


async def found(root: Path, environ: Mapping[str, str] | None = None) -> dict[str, Environment]:
    given = {"HOME": os.environ["HOME"], **(environ or {})}
    environments = await LocalInterpreters(root).environments(environ=given)
    return {_relative(each.prefix, root): each for each in environments}


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root)


async def test_the_nearest_environment_with_ipykernel_is_taken_from_the_folder_up_to_the_root(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    lean_environment(root / "a" / "venv", "ipykernel")
    lean_environment(root / "a" / "b" / ".venv", "numpy")
    choice = await choose(root)
    assert choice.name == "a/venv/bin/python"
    assert str(choice) == "Python 3.12.1 at a/venv: the nearest environment with ipykernel"
    assert (await choose(root, folder="")).name == ".venv/bin/python"


async def test_an_environment_above_the_root_is_not_taken_but_listed(root: Path) -> None:
    lean_environment(root.parent / ".venv", "ipykernel")
    assert (await choose(root)).name == "python3"
    assert (await found(root))["../.venv"].has_ipykernel


async def test_a_registered_kernelspec_comes_before_every_environment(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    kernelspec(root.parent / "jupyter", "mine", ["/bin/sh", "-m", "ipykernel_launcher"])
    kernelspec(root.parent / "jupyter", "python3", ["/bin/sh", "-m", "ipykernel_launcher"])
    for name in ("mine", "python3"):
        choice = await choose(root, name)
        assert (choice.name, choice.why) == (name, "registered under the name that the notebook gives")


@pytest.mark.parametrize("program", ["python", sys.executable, "/no/such/python"])
async def test_python3_of_no_other_python_is_only_a_name(root: Path, program: str) -> None:
    kernelspec(root.parent / "jupyter", "python3", [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    lean_environment(root / ".venv", "ipykernel")
    assert (await choose(root)).name == ".venv/bin/python"


async def test_an_environments_own_python3_says_nothing_of_which_python_is_meant(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = lean_environment(root.parent / "usr", "ipykernel")
    kernelspec(system / "share" / "jupyter", "python3", [str(system / "bin" / "python"), "-m", "ipykernel_launcher"])
    monkeypatch.setenv("JUPYTER_PATH", str(system / "share" / "jupyter"))
    lean_environment(root / ".venv", "ipykernel")
    assert (await choose(root)).name == ".venv/bin/python"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
async def test_the_active_environment_of_the_one_who_starts_is_taken_where_no_other_is_near(
    root: Path, variable: str
) -> None:
    active = lean_environment(root.parent / "active", "ipykernel")
    choice = await choose(root, environ={variable: str(active)})
    assert (choice.name, choice.why) == (f"{active}/bin/python", f"the active environment ({variable})")
    lean_environment(root / "env", "ipykernel")
    assert (await choose(root, environ={variable: str(active)})).name == "env/bin/python"


async def test_the_servers_own_python_is_the_last_and_the_answer_says_so(root: Path) -> None:
    lean_environment(root / ".venv", "numpy")
    choice = await choose(root)
    assert choice.name == "python3"
    assert choice.why.startswith("the server's own, as no environment with ipykernel was found; .venv has no ipykernel")
    assert f"uv pip install --python {root}/.venv ipykernel" in choice.why


async def test_the_servers_own_environment_is_known_wherever_it_is_met(root: Path) -> None:
    (root / ".venv").symlink_to(sys.prefix)
    choice = await choose(root)
    assert (choice.name, choice.why) == ("python3", "the nearest environment with ipykernel")
    assert choice.where.endswith("at .venv")


async def test_an_unknown_kernelspec_of_python_is_stood_in_for_and_one_of_another_language_is_not(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    choice = await choose(root, "conda-env-work-py")
    assert choice.name == ".venv/bin/python"
    assert "a kernelspec conda-env-work-py is not registered" in choice.why
    with pytest.raises(NotFound, match=r"'ir'.*There are: .*\.venv/bin/python"):
        await LocalInterpreters(root).choose("ir", folder="", language="R")


async def test_a_notebook_cannot_name_a_path(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    lean_environment(root / "other", "ipykernel")
    assert (await choose(root, "other/bin/python")).name == ".venv/bin/python"


async def test_pixi_and_conda_environments_inside_a_project_are_found(root: Path) -> None:
    conda_environment(root / "a" / ".pixi" / "envs" / "test", "ipykernel")
    conda_environment(root / "a" / ".pixi" / "envs" / "default", "ipykernel")
    assert (await choose(root)).name == "a/.pixi/envs/default/bin/python"
    conda_environment(root / "a" / "b" / "envs" / "report", "ipykernel")
    assert (await choose(root)).name == "a/b/envs/report/bin/python"
    kinds = {name: each.kind for name, each in (await found(root)).items()}
    assert kinds["a/.pixi/envs/default"] == "pixi"
    assert kinds["a/b/envs/report"] == "conda"


@pytest.mark.parametrize("text", ["name: work\n", "# a comment\nchannels: [x]\nname: 'work'  # why\n", 'name: "work"'])
async def test_the_conda_environment_that_environment_yml_names_is_found(root: Path, text: str) -> None:
    conda = root.parent / "miniforge"
    conda_environment(conda / "envs" / "other", "ipykernel")
    work = conda_environment(conda / "envs" / "work", "ipykernel")
    (root / "a" / "environment.yml").write_text(text)
    for environ in ({"CONDA_PREFIX": str(conda)}, {"CONDA_EXE": str(conda / "bin" / "conda")}):
        assert (await choose(root, environ=environ)).name == f"{work}/bin/python"
    (root.parent / "home" / ".conda").mkdir()
    (root.parent / "home" / ".conda" / "environments.txt").write_text(f"/gone\n{work}\n")
    assert (await choose(root)).name == f"{work}/bin/python"


async def test_poetrys_environment_is_known_by_its_projects_path_and_the_version_in_use(root: Path) -> None:
    project = root / "a"
    (project / "pyproject.toml").write_text('[tool.poetry]\nname = "Some.Thing"\n')
    mark = _poetry_mark(project)
    places = root.parent / "cache" / "virtualenvs"
    for version in ("3.11", "3.12"):
        lean_environment(places / f"some-thing-{mark}-py{version}", "ipykernel")
    lean_environment(places / "some-thing-AAAAAAAA-py3.12", "ipykernel")
    environ = {"POETRY_CACHE_DIR": str(places.parent)}
    (places / "envs.toml").write_text(f'[some-thing-{mark}]\nminor = "3.12"\npatch = "3.12.1"\n')
    assert (await choose(root, environ=environ)).name == f"{places}/some-thing-{mark}-py3.12/bin/python"
    (places / "envs.toml").unlink()
    assert (await choose(root, environ=environ)).name == f"{places}/some-thing-{mark}-py3.11/bin/python"
    assert (await choose(root, environ={"POETRY_VIRTUALENVS_PATH": str(root)})).name == "python3"


def _poetry_mark(project: Path) -> str:
    """As python-poetry's `generate_env_name` makes it."""
    digest = hashlib.sha256(os.path.normcase(os.path.realpath(project)).encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:8]


async def test_uvs_own_place_for_an_environment_is_found_in_its_project_only(root: Path) -> None:
    lean_environment(root / "a" / "made" / "here", "ipykernel", uv="0.9.1")
    environ = {"UV_PROJECT_ENVIRONMENT": "made/here"}
    assert (await choose(root, environ=environ)).name == "python3"
    (root / "a" / "uv.lock").touch()
    assert (await choose(root, environ=environ)).name == "a/made/here/bin/python"
    assert (await found(root, environ))["a/made/here"].kind == "uv"


async def test_packages_are_seen_through_pth_files_and_the_base_pythons(root: Path) -> None:
    packages = root.parent / "packages"
    (packages / "ipykernel").mkdir(parents=True)
    environment = lean_environment(root / ".venv")
    assert (await choose(root)).name == "python3"
    (site_of(environment) / "more.pth").write_text(f"import os\n# a comment\n{packages}\n\0\n")
    assert (await choose(root)).name == ".venv/bin/python"

    base = lean_environment(root.parent / "base", "ipykernel")
    more = {"home": str(base / "bin"), "include-system-site-packages": "true"}
    lean_environment(root / "a" / "venv", **more)
    assert (await choose(root)).name == "a/venv/bin/python"


async def test_what_was_installed_or_removed_is_seen_at_once(root: Path) -> None:
    site = site_of(lean_environment(root / ".venv", "numpy"))
    interpreters = LocalInterpreters(root)
    names = []
    for change in (lambda: None, (site / "ipykernel").mkdir, (site / "ipykernel").rmdir):
        change()
        names.append((await interpreters.choose("python3", environ={})).name)
    assert names == ["python3", ".venv/bin/python", "python3"]


async def test_modules_are_found_by_their_names_dotted_or_not(root: Path) -> None:
    site = site_of(lean_environment(root / ".venv", "ipykernel", "google", "plain"))
    (site / "google" / "cloud").mkdir()
    (site / "fast.cpython-312-x86_64-linux-gnu.so").touch()
    (site / "single.py").touch()
    (site / "plain-1.0.dist-info").mkdir()
    lean_environment(root / "a" / "env", "numpy")
    interpreters = LocalInterpreters(root)
    for module in ("google", "google.cloud", "fast", "single", "plain"):
        assert [each.name for each in await interpreters.having(module, environ={})] == [".venv/bin/python"]
    for module in ("google.other", "plain-1", "nothing", "single.inner"):
        assert await interpreters.having(module, environ={}) == []
    assert [each.has_ipykernel for each in await interpreters.having("numpy", environ={})] == [False]


async def test_broken_environments_are_told_and_passed_over(root: Path) -> None:
    lean_environment(root / "gone" / ".venv", "ipykernel", home="/no/such/bin")
    dangling = lean_environment(root / "dangling" / ".venv", "ipykernel")
    (dangling / "bin" / "python").unlink()
    (dangling / "bin" / "python").symlink_to("/no/such/python3.8")
    windows = lean_environment(root / "windows" / ".venv", "ipykernel")
    (windows / "bin" / "python").unlink()
    (windows / "Scripts").mkdir()
    (windows / "Scripts" / "python.exe").touch()
    foreign = lean_environment(root / "foreign" / ".venv", "ipykernel")
    (foreign / "bin" / "python").unlink()
    (foreign / "bin" / "python").write_bytes(b"\xcf\xfa\xed\xfe and more")
    (foreign / "bin" / "python").chmod(0o755)
    empty = lean_environment(root / "empty" / ".venv", "ipykernel")
    (empty / "bin" / "python").unlink()
    plain = lean_environment(root / "plain" / ".venv", "ipykernel")
    (plain / "bin" / "python").unlink()
    (plain / "bin" / "python").write_text("not a program")
    (root / "loop").mkdir()
    (root / "loop" / ".venv").symlink_to("venv")
    (root / "loop" / "venv").symlink_to(".venv")
    (root / "env").write_text("a file")
    (root / "venv").mkdir()

    problems = {name: each.problem for name, each in (await found(root)).items() if each.problem}
    assert problems["gone/.venv"] == "its base Python /no/such/bin is gone"
    assert problems["dangling/.venv"].startswith("its base Python ")
    assert problems["windows/.venv"] == "it was made on another operating system"
    if sys.platform == "linux":
        assert problems["foreign/.venv"] == "it was made for another operating system"
    assert problems["empty/.venv"] == "it has no bin/python"
    assert problems["plain/.venv"] == "its bin/python may not be run"
    assert problems["loop/.venv"].startswith("it cannot be read: ")
    for name in problems:
        choice = await choose(root, folder=name.partition("/")[0])
        assert choice.name == "python3"
        assert problems[name] in choice.why


async def test_a_pipe_where_a_file_is_looked_for_is_not_waited_for(root: Path) -> None:
    for name in ("pyproject.toml", "environment.yml"):
        os.mkfifo(root / name)
    site = site_of(lean_environment(root / ".venv", "ipykernel"))
    os.mkfifo(site / "pipe.pth")
    assert (await choose(root)).name == ".venv/bin/python"


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs a second user")
def test_what_may_not_be_read_is_told_and_passed_over() -> None:
    # Not below pytest's own folder, which is its user's alone: another user must come so far as to be refused.
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)
        lean_environment(root / ".venv", "ipykernel").chmod(0o700)
        code = (
            "import anyio, json, os, pathlib, sys\n"
            "from mcp_server_jupyter.backends.local.interpreters import LocalInterpreters\n"
            "async def ask():\n"
            "    interpreters = LocalInterpreters(pathlib.Path(sys.argv[1]))\n"
            "    choice = await interpreters.choose('python3', environ={})\n"
            "    return [choice.name, [each.problem for each in await interpreters.environments(environ={})]]\n"
            "anyio.run(ask)  # what it imports, the other user may not read\n"
            "os.seteuid(65534)\n"
            "print(json.dumps(anyio.run(ask)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, root],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "HOME": folder, "JUPYTER_DATA_DIR": folder, "JUPYTER_PATH": folder},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["python3", ["it cannot be read: Permission denied"]]


async def test_no_interpreter_is_run_by_looking(root: Path) -> None:
    environment = lean_environment(root / ".venv", "ipykernel", "numpy")
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").write_text(f"#!/bin/sh\ntouch {root}/it-ran\n")
    (environment / "bin" / "python").chmod(0o755)
    interpreters = LocalInterpreters(root)
    assert (await interpreters.choose("python3", environ={})).name == ".venv/bin/python"
    assert await interpreters.environments(environ={})
    assert await interpreters.having("numpy", environ={})
    assert not await interpreters.flaws()
    assert not (root / "it-ran").exists()


async def test_a_big_root_is_not_searched_to_its_end(root: Path) -> None:
    for number in range(400):
        (root / f"{number:03}").mkdir()
    lean_environment(root / "000" / ".venv", "ipykernel")
    lean_environment(root / "399" / ".venv", "ipykernel")
    listed = await found(root)
    assert "000/.venv" in listed
    assert "399/.venv" not in listed
    assert (await choose(root, folder="399")).name == "399/.venv/bin/python"


async def test_kernelspecs_that_cannot_start_are_told_with_what_to_do(root: Path) -> None:
    jupyter = root.parent / "jupyter"
    kernelspec(jupyter, "nowhere", ["/no/such/program", "{connection_file}"])
    kernelspec(jupyter, "silent", [])
    kernelspec(jupyter, "fine", [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    kernelspec(jupyter, "pod", ["x"], metadata={"kernel_provisioner": {"provisioner_name": "mcp-kubernetes"}})
    lacking = conda_environment(root.parent / "lacking")
    kernelspec(jupyter, "lacking", [str(lacking / "bin" / "python"), "-m", "ipykernel_launcher"])
    broken = jupyter / "kernels" / "broken"
    broken.mkdir()
    (broken / "kernel.json").write_text("{")
    texts = {name: str(each) for name, each in (await LocalInterpreters(root).flaws()).items()}
    assert texts.keys() == {"nowhere", "silent", "lacking", "broken"}
    assert "/no/such/program is not there" in texts["nowhere"]
    assert "no command to start" in texts["silent"]
    assert f"conda install -p {lacking} ipykernel" in texts["lacking"]
    assert "cannot be read" in texts["broken"]
