"""Make environments with Jupyters of several kinds in the user's cache, and print their Pythons, a line each.

`jupyters.py collaboration documents hub`: JupyterLab with jupyter-collaboration; jupyter-server-documents; JupyterHub
with its proxy, which needs npm, and the same JupyterLab. Standard library only. An environment is made once for its
versions.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bootstrap import _cache, _environment, _locked, _say

KINDS = {
    "collaboration": ["jupyterlab==4.6.6", "jupyter-collaboration==5.0.4", "ipykernel==7.1.0"],
    "documents": ["jupyter-server-documents==0.3.3", "ipykernel==7.1.0"],
    "hub": ["jupyterhub==6.1.1", "jupyterlab==4.6.6", "jupyter-collaboration==5.0.4", "ipykernel==7.1.0"],
}
NODE = {"hub": ["configurable-http-proxy@5.3.0"]}
"""Packages of npm, in the folder `node_modules` of the environment."""


def main() -> None:
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(KINDS):
        sys.exit(f"usage: jupyters.py [{'|'.join(KINDS)}]...")
    with _locked():
        for kind in sys.argv[1:]:
            print(python_of(kind))


def python_of(kind: str) -> Path:
    """The Python of one kind's environment, made when it is not there yet."""
    wanted = [*KINDS[kind], *NODE.get(kind, ())]
    digest = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    home = _cache() / f"jupyter-{kind}-{digest}"
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists() or not python.exists():
        _say(f"Installing {', '.join(wanted)} into {home}; this takes about a minute.")
        venv.create(home, with_pip=True, clear=True)
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        ended = subprocess.run([python, "-m", "pip", "install", *quiet, *KINDS[kind]], check=False, env=_environment())
        if ended.returncode:
            sys.exit(f"Setting up {home} failed.")
        if kind in NODE:
            _add_node(home, NODE[kind])
        done.touch()
    return python


def _add_node(home: Path, wanted: list[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed: JupyterHub's proxy comes from it.")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    # What npm says is no Python: it goes where it does not mix with them.
    ended = subprocess.run([npm, "install", *quiet, "--prefix", home, *wanted], check=False, stdout=sys.stderr)
    if ended.returncode:
        sys.exit(f"Setting up {home} failed.")


if __name__ == "__main__":
    main()
