"""Run the end-to-end tests: on KUBECONFIG's cluster, else on kind, else on this one.

A kind cluster made here is deleted afterwards; one that was there before stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testcluster import cluster, images
from testcluster.config import SOURCE, Paths, beside_proxies
from testcluster.shell import alone, run, say

SUITE = SOURCE.parent.parent / "tools" / "mcp-server-jupyter" / "tests" / "e2e" / "cluster"
IMAGES = SUITE / "images.txt"
KIND_CLUSTER = "mcp-server-jupyter"
KIND_NODE_IMAGE = "kindest/node:v1.34.0"


@dataclass(frozen=True)
class Target:
    """A cluster to test on, and how an image of ours gets there."""

    kind: str
    kubeconfig: Path
    provide: Callable[[str, Path, Path], None]


def run_tests(paths: Paths, arguments: list[str]) -> int:
    """Pytest's exit code."""
    python = _environment(paths)
    with _target(paths) as target:
        say(f"testing on: {target.kind} ({target.kubeconfig})")
        for image, context, dockerfile in _images():
            target.provide(image, context, dockerfile)
        command = [python, "-m", "pytest", "-c", SUITE / "pytest.ini", "--rootdir", SUITE, SUITE, *arguments]
        env = {**beside_proxies(os.environ), "KUBECONFIG": str(target.kubeconfig), "E2E_CLUSTER": target.kind}
        return subprocess.run([str(part) for part in command], env=env, check=False).returncode


def run_selftest(paths: Paths, arguments: list[str]) -> int:
    """Test these tools themselves, in the same environment."""
    tests = SOURCE / "tests"
    command = [_environment(paths), "-m", "pytest", "-c", tests / "pytest.ini", "--rootdir", tests, tests, *arguments]
    return subprocess.run([str(part) for part in command], check=False).returncode


def _images() -> list[tuple[str, Path, Path]]:
    """What the suite's list asks for: an image's name, its context and its Dockerfile; contexts are made before."""
    root = SOURCE.parent.parent
    lines = [line.split() for line in IMAGES.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for target in dict.fromkeys(target for _, _, _, *targets in lines for target in targets):
        run("make", "--no-print-directory", "--directory", root, target)
    return [(name, root / context, root / dockerfile) for name, context, dockerfile, *_ in lines]


def needs_root(paths: Paths) -> bool:
    """Whether the tests would run on the cluster of this directory, which only root can start."""
    given = os.environ.get("KUBECONFIG", "")
    return given == str(paths.kubeconfig) if given else not _kind_works()


@contextmanager
def _target(paths: Paths) -> Iterator[Target]:
    given = os.environ.get("KUBECONFIG", "")
    ours = given == str(paths.kubeconfig)
    if given and not ours:
        yield Target("given", Path(given), lambda image, *_: say(f"expecting the cluster to have or pull {image}"))
    elif not ours and _kind_works():
        with _kind(paths) as target:
            yield target
    else:
        cluster.up(paths)
        yield Target("testcluster", paths.kubeconfig, lambda *image: images.build(paths, *image))


def _kind_works() -> bool:
    """Whether kind is installed and Docker can get its node image."""
    if not shutil.which("kind") or not shutil.which("docker"):
        return False
    for command in (["docker", "image", "inspect", KIND_NODE_IMAGE], ["docker", "pull", "--quiet", KIND_NODE_IMAGE]):
        try:
            if subprocess.run(command, capture_output=True, check=False, timeout=600).returncode == 0:
                return True
        except subprocess.TimeoutExpired:
            return False
    return False


@contextmanager
def _kind(paths: Paths) -> Iterator[Target]:
    paths.cache.mkdir(parents=True, exist_ok=True)
    kubeconfig = paths.cache / "kind-kubeconfig"
    if KIND_CLUSTER in run("kind", "get", "clusters").split():
        run("kind", "export", "kubeconfig", "--name", KIND_CLUSTER, "--kubeconfig", kubeconfig)
        yield _on_kind(kubeconfig)
        return
    try:
        run("kind", "create", "cluster", "--name", KIND_CLUSTER, "--image", KIND_NODE_IMAGE, "--wait", "180s",
            "--config", SOURCE / "kind.yaml", "--kubeconfig", kubeconfig)  # fmt: skip
        yield _on_kind(kubeconfig)
    finally:
        run("kind", "delete", "cluster", "--name", KIND_CLUSTER, "--kubeconfig", kubeconfig)


def _on_kind(kubeconfig: Path) -> Target:

    def provide(image: str, context: Path, dockerfile: Path) -> None:
        run("docker", "build", "--tag", image, "--file", dockerfile, context)
        run("kind", "load", "docker-image", image, "--name", KIND_CLUSTER)

    return Target("kind", kubeconfig, provide)


def _environment(paths: Paths) -> Path:
    """A virtual environment of the suite's requirements, kept in the cache."""
    requirements = SUITE / "requirements.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:8]
    venv = paths.cache / f"e2e-{key}"
    with alone(paths.cache / "environment.lock", "waiting for the installation of the tests' requirements"):
        if not (venv / "complete").exists():
            say("installing the tests' requirements into the cache")
            run(sys.executable, "-m", "venv", "--clear", venv)
            run(venv / "bin" / "pip", "install", "--quiet", "--requirement", requirements)
            (venv / "complete").touch()
    return venv / "bin" / "python"
