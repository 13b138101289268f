"""Make environments with Jupyters of several kinds in the user's cache, and print their Pythons, a line each.

`jupyters.py plain collaboration documents hub extension browser`: a Jupyter server alone; JupyterLab with
jupyter-collaboration; jupyter-server-documents; JupyterHub with its proxy, which needs npm, and the same JupyterLab; a
Jupyter server with jupyter-collaboration, jupyter-server-mcp and this very package; what drives a browser. Standard
library only. An environment is made once for its versions.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bootstrap import PROJECT, _cache, _environment, _locked, _say

KINDS = {
    "plain": ["jupyter-server==2.21.1", "ipykernel==7.1.0"],
    "collaboration": ["jupyterlab==4.6.6", "jupyter-collaboration==5.0.4", "ipykernel==7.1.0"],
    "documents": ["jupyter-server-documents==0.3.3", "ipykernel==7.1.0"],
    "hub": [
        "jupyterhub==6.1.1",
        "jupyterhub-idle-culler==2.0.0",
        "jupyterlab==4.6.6",
        "jupyter-collaboration==5.0.4",
        "ipykernel==7.1.0",
    ],
    "extension": ["jupyter-collaboration==5.0.4", "jupyter-server-mcp==0.4.1", "ipykernel==7.1.0"],
    "browser": ["playwright==1.65.2"],
}
NODE = {"hub": ["configurable-http-proxy@5.3.0"]}
"""Packages of npm, in the folder `node_modules` of the environment."""
OURS = {"extension": ["--editable", f"{PROJECT}[jupyter]"]}
"""What pip is given besides, for this package: its code is what is here now, its requirements those of its making."""


def main() -> None:
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(KINDS):
        sys.exit(f"usage: jupyters.py [{'|'.join(KINDS)}]...")
    kinds = sys.argv[1:]
    # Who has everything waits for nobody.
    if not all(map(is_complete, kinds)):
        with _locked():
            for kind in kinds:
                if not is_complete(kind):
                    _make(kind)
    for kind in kinds:
        print(python_of(kind))


def home_of(kind: str) -> Path:
    """The folder of one kind's environment."""
    digest = hashlib.sha256("\n".join([sys.version, *_wanted(kind)]).encode()).hexdigest()[:12]
    return _cache() / f"jupyter-{kind}-{digest}"


def python_of(kind: str) -> Path:
    """The Python of one kind's environment."""
    return home_of(kind) / "bin" / "python"


def is_complete(kind: str) -> bool:
    """Whether it is there, whole."""
    return (home_of(kind) / "complete").exists() and python_of(kind).exists()


def _wanted(kind: str) -> list[str]:
    wanted = [*KINDS[kind], *NODE.get(kind, ())]
    return [*wanted, str(PROJECT), (PROJECT / "pyproject.toml").read_text()] if kind in OURS else wanted


def _make(kind: str) -> None:
    home = home_of(kind)
    _say(f"Installing {', '.join([*KINDS[kind], *NODE.get(kind, ())])} into {home}; this takes about a minute.")
    (home / "complete").unlink(missing_ok=True)
    venv.create(home, with_pip=True, clear=True)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    install = [python_of(kind), "-m", "pip", "install", *quiet, *KINDS[kind], *OURS.get(kind, ())]
    if subprocess.run(install, check=False, env=_environment()).returncode:
        sys.exit(f"Setting up {home} failed.")
    if kind in NODE:
        _add_node(home, NODE[kind])
    (home / "complete").touch()


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
