"""Tests of the stack on a Docker engine: the one that is here, else Debian's, started for the tests alone.

Run: `python3 deploy/compose/engine.py [PYTEST'S ARGUMENTS]`. An engine of our own needs root. It has its socket and its
state in folders of its own and runs, with the tests, in a network namespace of its own: whatever listens on the
stack's ports here is in nobody's way, and nothing of the machine's network is changed. Its images are made by buildah,
on a base of Debian's packages: no registry is asked. `engine.py needs-root` says, by exit code 0, that nothing can be
tested here: there is no engine, and no root who may start one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "deploy" / "testcluster"))

from testcluster import build, images, preflight  # noqa: E402 - a folder beside this one
from testcluster.config import Paths  # noqa: E402
from testcluster.shell import CommandFailed, Refusal, alone, run, say, tail  # noqa: E402

CONTEXT = ROOT / "dist" / "compose"
START_SECONDS = 60
INSIDE, NEEDS_ROOT = "--inside", "needs-root"
CONFIGURATION = "docker"
PACKAGES = {
    "containerd": ("containerd", "containerd-shim-runc-v2", "ctr"),
    "docker.io": ("docker", "dockerd", "docker-proxy"),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "runc": ("runc",),
}
IMAGES = {"notebooks": "notebooks.Dockerfile", "server": "server.Dockerfile"}


def main(arguments: list[str]) -> int:
    """Pytest's exit code."""
    if arguments == [NEEDS_ROOT]:
        return int(_works(os.environ) or _may_start())
    if arguments[:1] == [INSIDE]:
        with _engine(Path(arguments[1])) as environment:
            _load(Path(arguments[1]), environment)
            return _tests(environment, arguments[2:])
    run("make", "--no-print-directory", "--directory", ROOT, "compose-context", timeout=900)
    if _works(os.environ):
        say("testing on the Docker engine that is here")
        run("docker", "compose", "--file", HERE / "compose.yaml", "build", timeout=3600)
        return _tests(os.environ, arguments)
    if os.geteuid() != 0:
        raise Refusal("these tests need a Docker engine with the compose plugin, or root to start one")
    paths = Paths.from_environment()
    cache = paths.cache.parent / "compose"
    with alone(cache / "lock", "waiting for other tests of the stack to finish"):
        preflight.install_packages(PACKAGES)
        _provide_plugin(paths, cache)
        _build_images(paths, cache)
        script = 'ip link set lo up && exec "$0" "$@"'
        command = ["unshare", "--net", "sh", "-ec", script, sys.executable, __file__, INSIDE, str(cache), *arguments]
        return subprocess.run(command, check=False).returncode


def _tests(environment: Mapping[str, str], arguments: list[str]) -> int:
    python, tests = ROOT / "tools" / "mcp-server-jupyter" / ".venv" / "bin" / "python", HERE / "tests"
    command = [python, "-m", "pytest", "-c", tests / "pytest.ini", "--rootdir", tests, tests, *arguments]
    # What is published here is reached directly, whatever proxy this machine uses.
    direct = {"no_proxy": "localhost,127.0.0.1", "NO_PROXY": "localhost,127.0.0.1", "MCP_VERSION": version()}
    return subprocess.run([str(part) for part in command], env={**environment, **direct}, check=False).returncode


def _works(environment: Mapping[str, str]) -> bool:
    if shutil.which("docker") is None:
        return False
    return all(
        subprocess.run(["docker", *question], env=dict(environment), capture_output=True, check=False).returncode == 0
        for question in (["version"], ["compose", "version"])
    )


def _may_start() -> bool:
    """Whether an engine of our own can have its network namespace: root in a container may not."""
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def _provide_plugin(paths: Paths, cache: Path) -> None:
    """Put the compose plugin into the folder of Docker's configuration."""
    build.ensure(build.COMPOSE, paths)
    plugin = cache / CONFIGURATION / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.unlink(missing_ok=True)
    plugin.symlink_to(build.COMPOSE.directory(paths) / "docker-compose")


@contextmanager
def _engine(cache: Path) -> Iterator[Mapping[str, str]]:
    """The environment in which `docker compose` works; the engine and all its containers end with the context."""
    with tempfile.TemporaryDirectory(prefix="compose-") as folder:
        socket, log = Path(folder) / "docker.sock", cache / "dockerd.log"
        command = [
            *("dockerd", "--host", f"unix://{socket}", "--pidfile", f"{folder}/pid", "--exec-root", f"{folder}/exec"),
            *("--data-root", str(cache / "data"), "--storage-driver", "overlay2"),
            # Published ports are served by a proxy: nothing more is needed of this machine's kernel.
            *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
        ]
        environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(cache / CONFIGURATION)}
        environment.pop("DOCKER_CONTEXT", None)
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait(process, environment, log)
            yield environment
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], environment: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _works(environment):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Refusal(f"Docker's engine does not start here:\n{tail(log)}")
        time.sleep(0.2)


def _build_images(paths: Paths, cache: Path) -> None:
    """Make an archive of each image of this tree that the engine does not have."""
    for name, dockerfile in IMAGES.items():
        if not _is_loaded(cache, name):
            tag = f"mcp-server-jupyter/{name}:{version()}"
            images.build_archive(paths, tag, CONTEXT, CONTEXT / dockerfile, cache / f"{name}.tar")


def _load(cache: Path, environment: Mapping[str, str]) -> None:
    for name in IMAGES:
        if not _is_loaded(cache, name):
            archive = cache / f"{name}.tar"
            run("docker", "load", "--input", archive, env=environment, timeout=900)
            (cache / f"{name}.loaded").write_text(_digest())
            archive.unlink()


def _is_loaded(cache: Path, name: str) -> bool:
    mark = cache / f"{name}.loaded"
    return (cache / "data").is_dir() and mark.exists() and mark.read_text() == _digest()


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(CONTEXT.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def version() -> str:
    """The version that the wheel in the context is of."""
    return next(CONTEXT.glob("*.whl")).name.split("-")[1]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Refusal, CommandFailed, OSError) as refusal:
        sys.stderr.write(f"compose: {refusal}\n")
        sys.exit(1)
