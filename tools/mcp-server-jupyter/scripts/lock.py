"""Write `poetry.lock` anew from `pyproject.toml`. Run with Poetry's own Python: `make lock`.

`poetry lock` asks the package index for JSON, which a mirror that only serves the simple HTML pages (PEP 503) does
not have. So a copy of the project is locked against those pages, which every index serves, and the lock is written
as `poetry lock` would: no source named, the hash of the real `pyproject.toml`. Takes `--update` to move to the
newest versions; without it, locked versions stay where the constraints still admit them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from poetry.packages.locker import Locker
from poetry.repositories.pypi_repository import PyPiRepository

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = '\n[package.source]\ntype = "legacy"\nurl = "{url}"\nreference = "simple"\n'


def main() -> None:
    url = PyPiRepository().url.rstrip("/")
    pyproject = (PROJECT / "pyproject.toml").read_text()
    lock = PROJECT / "poetry.lock"
    update = "--update" in sys.argv[1:] or not lock.exists()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        source = f'\n[[tool.poetry.source]]\nname = "simple"\nurl = "{url}/"\npriority = "primary"\n'
        (copy / "pyproject.toml").write_text(pyproject + source)
        if not update:
            _with_source(lock, copy / "poetry.lock", url)
        command = [sys.executable, "-m", "poetry", "lock", "--no-interaction", "--project", folder]
        environment = {**os.environ, "POETRY_VIRTUALENVS_CREATE": "false"}
        subprocess.run([*command, "--regenerate"] if update else command, check=True, env=environment)
        text = (copy / "poetry.lock").read_text().replace(SOURCE.format(url=url), "")
    content_hash = Locker(lock, tomllib.loads(pyproject))._get_content_hash()
    lock.write_text(re.sub(r'^content-hash = ".*"$', f'content-hash = "{content_hash}"', text, flags=re.MULTILINE))
    subprocess.run([sys.executable, "-m", "poetry", "check", "--lock", "--project", str(PROJECT)], check=True)


def _with_source(lock: Path, copy: Path, url: str) -> None:
    """Give every package its source again: Poetry keeps a locked version only when it comes from the same one."""
    shutil.copy(lock, copy)
    packages, end = re.split(r"(?m)^(?=\[extras\]|\[metadata\])", copy.read_text(), maxsplit=1)
    blocks = packages.split("\n[[package]]\n")
    body = "\n[[package]]\n".join([blocks[0], *(block + SOURCE.format(url=url) for block in blocks[1:])])
    copy.write_text(body + "\n" + end)


if __name__ == "__main__":
    main()
