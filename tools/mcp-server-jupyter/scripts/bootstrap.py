"""Set up `.venv` from `poetry.lock`: `bootstrap.py run` for the server alone, `dev` for its tests too.

Standard library only, so that any Python >= 3.11 can start it. Poetry reads the lock in a virtual environment of its
own, kept in the user's cache; pip installs what it says, every file checked against the lock's hashes.
Does nothing, quickly, when the environment is up to date.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
POETRY = "poetry==2.5.1"
EXPORT = "poetry-plugin-export==1.10.1"
KINDS = {
    "run": ["--extras", "images", "--extras", "sample"],
    "dev": ["--all-extras", "--with", "dev"],
}


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind == "poetry":
        with _locked():
            print(_poetry())
        return
    if kind not in KINDS:
        sys.exit(f"usage: bootstrap.py {'|'.join((*KINDS, 'poetry'))}")
    with _locked():
        if not _is_fresh(kind):
            _say(f"Setting up {VENV} with Python {sys.version.split()[0]}; the first time takes about a minute.")
            _install(kind)


def _install(kind: str) -> None:
    with ThreadPoolExecutor() as pool:
        environment = pool.submit(_make_venv)
        poetry = pool.submit(_poetry).result()
        environment.result()
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        export = [poetry, "-m", "poetry", "--no-interaction", "export", "--output", str(requirements)]
        _run([*export, *KINDS[kind]])
        _run([*_pip(VENV), "--no-deps", "--require-hashes", "--requirement", str(requirements)])
    _run([*_pip(VENV), "--no-deps", "--editable", str(PROJECT)])
    _stamp(kind).write_text(_fingerprint())
    if kind == "dev":
        _stamp("run").write_text(_fingerprint())


def _poetry() -> Path:
    """The Python of Poetry's own environment, made when it is not there yet."""
    home = _cache() / f"{POETRY}-{EXPORT}-py{sys.version_info.major}.{sys.version_info.minor}".replace("==", "-")
    done = home / "complete"
    if not done.exists() or not (home / "bin" / "python").exists():
        _say(f"Installing {POETRY} into {home}.")
        venv.create(home, with_pip=True, clear=True)
        _run([*_pip(home), POETRY, EXPORT])
        done.touch()
    return home / "bin" / "python"


def _make_venv() -> None:
    python = VENV / "bin" / "python"
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    if python.exists() and subprocess.run([python, "-c", check], check=False).returncode == 0:
        return
    venv.create(VENV, with_pip=True, clear=True)


def _is_fresh(kind: str) -> bool:
    stamp = _stamp(kind)
    return stamp.exists() and (VENV / "bin" / "python").exists() and stamp.read_text() == _fingerprint()


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name in ("poetry.lock", "pyproject.toml", "scripts/bootstrap.py"):
        digest.update((PROJECT / name).read_bytes())
    return digest.hexdigest()


def _stamp(kind: str) -> Path:
    return VENV / f".installed-{kind}"


def _pip(environment: Path) -> list[str | Path]:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    return [environment / "bin" / "python", "-m", "pip", "install", *quiet]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mcp-server-jupyter"


@contextmanager
def _locked() -> Iterator[None]:
    """Two `make` commands at once wait for each other instead of writing one environment together."""
    _cache().mkdir(parents=True, exist_ok=True)
    with open(_cache() / "bootstrap.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Waiting for another set-up of this user to end.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, cwd=PROJECT, check=False, env=_environment())
    if done.returncode:
        sys.exit(f"Setting up failed: {' '.join(map(str, command))} ended with {done.returncode}.")


def _environment() -> dict[str, str]:
    # An activated environment or a PYTHONPATH of the caller's must not leak into ours.
    unwanted = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "POETRY_ACTIVE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
