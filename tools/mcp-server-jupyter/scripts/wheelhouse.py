"""`wheelhouse.py REQUIREMENTS FOLDER`: download what the server needs on this platform for every Python it supports.

By the hashes of the requirements, as wheels alone. Run with the Python of Poetry's environment. pip's own download for
another Python judges the markers by the Python that runs it: so they are judged here, one Python after the other.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker, default_environment

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
GLIBC = 28  # 2.28, the oldest that VS Code runs with
MUSL = 2  # 1.2
MACOS = 11


def main() -> None:
    requirements, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as scratch:
            chosen = Path(scratch) / "requirements.txt"
            chosen.write_text("\n".join(needed(requirements.read_text(), python)) + "\n")
            download(chosen, folder, python)


def needed(requirements: str, python: str) -> list[str]:
    """The lines whose markers hold for this Python here, without the markers."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    lines = []
    for line in re.sub(r"\\\n", " ", requirements).splitlines():
        requirement, _, rest = line.partition(";")
        marker, *hashes = re.split(r"\s+(?=--hash=)", rest) if rest else ["", *requirement.split()[1:]]
        if line.strip() and not line.startswith("#") and (not marker.strip() or Marker(marker).evaluate(environment)):
            lines.append(" ".join([requirement.split()[0], *hashes]))
    return lines


def download(requirements: Path, folder: Path, python: str) -> None:
    exact = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    target = ["--implementation", "cp", "--python-version", python]
    for name in platforms():
        target += ["--platform", name]
    where = ["--dest", str(folder), "--requirement", str(requirements)]
    subprocess.run([sys.executable, "-m", "pip", "download", *exact, *target, *where], check=True)


def platforms() -> list[str]:
    """Tags of wheels that run on every machine of this platform which the editor runs on."""
    machine = platform.machine()
    if sys.platform == "darwin":
        return [f"macosx_{MACOS}_0_{machine}"]
    if platform.libc_ver()[0] != "glibc":
        return [f"musllinux_1_{minor}_{machine}" for minor in range(MUSL, 0, -1)]
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    return [*names, *(f"manylinux{old}_{machine}" for old in ("2014", "2010", "1"))]


if __name__ == "__main__":
    os.umask(0o022)
    main()
