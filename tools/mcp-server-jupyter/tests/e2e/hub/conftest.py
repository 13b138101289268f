"""Hubs, from an environment of their own in the user's cache, and learners' images."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from examples import Examples
from marks import Marks

from hub import DEPLOY, NAME, PACKAGE, Hub, values

CULLED_SECONDS = 20


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def python() -> str:
    """The Python that has JupyterHub."""
    script = PACKAGE / "scripts" / "jupyters.py"
    made = subprocess.run([sys.executable, script, "hub"], check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


@pytest.fixture(scope="session")
def image(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What deploy/jupyterhub/learner.Dockerfile installs: our wheel, and what learner.txt lists."""
    home = tmp_path_factory.mktemp("image")
    command = [sys.executable, PACKAGE / "scripts" / "bootstrap.py", "poetry"]
    poetry = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    project = ["--no-interaction", "--project", PACKAGE]
    built = [poetry, "-m", "poetry", *project, "build", "--format", "wheel", "--output", home / "dist"]
    subprocess.run(built, check=True, capture_output=True)
    (wheel,) = (home / "dist").glob("*.whl")
    below = Path(python).parents[1]
    venv.create(home / "env", with_pip=True)
    (packages,) = (home / "env" / "lib").glob("python3*/site-packages")
    (shared,) = (below / "lib").glob("python3*/site-packages")
    (packages / "below.pth").write_text(f"{shared}\n")
    own = home / "env" / "bin" / "python"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    wanted = ["--requirement", DEPLOY / "learner.txt", f"{wheel}[jupyter]"]
    subprocess.run([own, "-m", "pip", "install", *quiet, *wanted], check=True)
    return {
        "command": [str(own), "-m", "jupyterhub.singleuser"],
        "environment": {
            "JUPYTER_CONFIG_PATH": str(below / "etc" / "jupyter"),
            "JUPYTER_PATH": str(below / "share" / "jupyter"),
            "PATH": os.pathsep.join([str(own.parent), os.environ["PATH"]]),
        },
    }


@contextmanager
def opened(folder: Path, python: str, **more: Any) -> Iterator[Hub]:
    """A hub, and its end with all it has started."""
    hub = Hub(folder, python, **more)
    try:
        yield hub.start()
    finally:
        hub.close()


def lacking() -> Mapping[str, list[str]]:
    """Roles that each lack one scope of the service's, by the name of that scope."""
    whole: list[str] = values()["hub"]["loadRoles"][NAME]["scopes"]
    return {scope.partition("!")[0]: [each for each in whole if each != scope] for scope in whole}


def service_name(scope: str) -> str:
    return "without-" + scope.replace(":", "-")


def token_of(service: str) -> str:
    return f"token-of-{service}-0123456789"


@pytest.fixture(scope="session")
def marks() -> Marks:
    return Marks()


@pytest.fixture(scope="session")
def examples(python: str, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return Examples(python, tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def hub(
    tmp_path_factory: pytest.TempPathFactory, python: str, image: dict[str, Any], marks: Marks, examples: Examples
) -> Iterator[Hub]:
    """A hub with values.yaml, where dora's and mia's servers are of our image, with tasks for the tutor.

    Beside its service are others, whose roles lack one scope each.
    """
    names = [service_name(scope) for scope in lacking()]
    services = [{"name": name, "api_token": token_of(name)} for name in names]
    roles = [
        {"name": name, "services": [name], "scopes": scopes}
        for name, scopes in zip(names, lacking().values(), strict=True)
    ]
    folder = tmp_path_factory.mktemp("hub")
    marks.write(folder / "tasks")
    examples.write(folder / "tasks")
    more = {"options": [f"--tasks={folder / 'tasks'}", "--rate-limit=0"], "images": {"dora": image, "mia": image}}
    with opened(folder, python, services=services, roles=roles, **more) as running:
        yield running


@pytest.fixture(scope="session")
def culled(hub: Hub, tmp_path_factory: pytest.TempPathFactory, python: str, image: dict[str, Any]) -> Iterator[Hub]:
    """One with access-role.yaml beside, that ends what nobody has used for `CULLED_SECONDS`."""
    # What begins here ends while that one starts.
    hub.run("cal")
    hub.call(hub.token("cal"), "/mcp", "list_notebooks")
    culler = {
        "name": "culler",
        "command": [python, "-m", "jupyterhub_idle_culler", f"--timeout={CULLED_SECONDS}", "--cull-every=5"],
    }
    role = {
        "name": "culler",
        "services": ["culler"],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
    }
    folder = tmp_path_factory.mktemp("culled")
    more = {"files": ["access-role.yaml"], "services": [culler], "roles": [role], "images": {"dora": image}}
    with opened(folder, python, **more) as running:
        yield running
