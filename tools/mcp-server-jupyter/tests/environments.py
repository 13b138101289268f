"""Python environments on disk, for tests of which one a notebook runs on."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

BASE = Path(sys.base_prefix)


def site_of(prefix: Path) -> Path:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return prefix / "lib" / version / "site-packages"


def lean_environment(prefix: Path, *modules: str, **config: str) -> Path:
    """An environment that looks like one of this Python's and holds these modules; nothing in it runs."""
    site = site_of(prefix)
    site.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(sys.executable)
    values = {"home": str(Path(sys.executable).parent), "version": "3.12.1", **config}
    (prefix / "pyvenv.cfg").write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    for module in modules:
        (site / module).mkdir()
    return prefix


def conda_environment(prefix: Path, *modules: str) -> Path:
    """The same as conda lays it out."""
    lean_environment(prefix, *modules)
    (prefix / "pyvenv.cfg").unlink()
    (prefix / "conda-meta").mkdir()
    return prefix


def real_environment(prefix: Path) -> Path:
    """A real one, with the packages of the tests' own Python through a .pth file, as an offline machine can make it."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", prefix], check=True, env={"PATH": os.defpath}, timeout=100
    )
    (site_of(prefix) / "tests.pth").write_text(sysconfig.get_paths()["purelib"])
    return prefix
