"""The package as it is built, locked and shipped."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import nbformat
import pytest

import mcp_server_jupyter

PROJECT = Path(__file__).resolve().parent.parent
REPOSITORY = PROJECT.parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for group, points in {**PYPROJECT["project"]["entry-points"], "scripts": PYPROJECT["project"]["scripts"]}.items()
    for name, value in points.items()
]


@pytest.fixture(scope="module")
def poetry() -> list[str]:
    """Poetry as `make package` uses it, in an environment of its own."""
    command = [sys.executable, str(PROJECT / "scripts" / "bootstrap.py"), "poetry"]
    python = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return [python, "-m", "poetry", "--no-interaction", "--project", str(PROJECT)]


@pytest.fixture(scope="module")
def wheel(poetry: list[str], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*poetry, "build", "--format", "wheel", "--output", str(folder)], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_there_is_one_version_number() -> None:
    assert mcp_server_jupyter.__version__ == PYPROJECT["project"]["version"]


def test_the_wheel_holds_the_package_and_its_sample_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for name in ("welcome.ipynb", "analysis.ipynb", "measurements.csv"):
        assert f"mcp_server_jupyter/sample/{name}" in names
    version = PYPROJECT["project"]["version"]
    tops = {name.split("/")[0] for name in names}
    assert tops <= {
        "mcp_server_jupyter",
        f"mcp_server_jupyter-{version}.dist-info",
        f"mcp_server_jupyter-{version}.data",
    }
    assert [name for name in names if "test" in name.split("/")[1] or name.endswith((".pyc", ".toml"))] == []


def test_the_wheel_enables_the_extension_of_jupyter_server(wheel: zipfile.ZipFile) -> None:
    # With another version in its path it would be installed as a plain folder among the packages.
    name = f"mcp_server_jupyter-{PYPROJECT['project']['version']}.data/data/etc/jupyter/jupyter_server_config.d"
    enabled = json.loads(wheel.read(f"{name}/mcp_server_jupyter.json"))
    assert enabled == {"ServerApp": {"jpserver_extensions": {"mcp_server_jupyter": True}}}
    assert [each for each in wheel.namelist() if ".data/" in each] == [f"{name}/mcp_server_jupyter.json"]


@pytest.mark.parametrize("point", ENTRY_POINTS, ids=lambda point: f"{point.group}:{point.name}")
def test_every_entry_point_names_something_to_call(point: EntryPoint) -> None:
    assert callable(point.load())


def test_every_dependency_has_an_upper_bound() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    assert [requirement for requirement in requirements if "<" not in requirement] == []


def test_the_lock_is_fresh_and_names_no_host(poetry: list[str]) -> None:
    done = subprocess.run([*poetry, "check", "--lock"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "://" not in (PROJECT / "poetry.lock").read_text()


def test_poetry_exports_hashed_requirements(poetry: list[str]) -> None:
    done = subprocess.run([*poetry, "export"], check=True, capture_output=True, text=True)
    assert re.search(r"^mcp==2\.\d+\.\d+ .*\\\n +--hash=sha256:", done.stdout, re.MULTILINE)
    assert "pytest" not in done.stdout


def test_the_lock_of_poetry_is_the_only_one() -> None:
    # What the stack's image of Jupyter holds is the operator's to change.
    elsewhere = {"e2e", "compose"}
    names = {path.name for path in tracked() if elsewhere.isdisjoint(path.parts)}
    assert "poetry.lock" in names
    assert names.isdisjoint({"uv.lock", "Pipfile.lock", "requirements.txt"})


def test_no_file_names_a_machine_or_a_registry() -> None:
    # Put together here, so that this file does not name them either.
    words = [
        "/wor" + "k/",
        "/far" + "m/",
        ".librar" + "y/",
        "pypi" + ".org",
        "python" + "hosted",
        "registry." + "npmjs",
    ]
    found = [
        f"{path.relative_to(REPOSITORY)}: {word}"
        for path in tracked()
        for word in words
        if word.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_sample_is_valid_and_has_no_outputs() -> None:
    sample = PROJECT / "src" / "mcp_server_jupyter" / "sample"
    for path in sample.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert all(not cell.get("outputs") for cell in notebook.cells)


def test_the_samples_measurements_are_what_their_formula_gives(tmp_path: Path) -> None:
    shipped = (PROJECT / "src" / "mcp_server_jupyter" / "sample" / "measurements.csv").read_text()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import make_sample as m, pathlib; "
    code += "m.write_measurements(pathlib.Path(sys.argv[2]))"
    made = tmp_path / "measurements.csv"
    subprocess.run([sys.executable, "-c", code, str(PROJECT / "scripts"), str(made)], check=True)
    assert made.read_text() == shipped
    assert len(list(csv.DictReader(io.StringIO(shipped)))) == 360
