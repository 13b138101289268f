"""Where Python environments are: beside a notebook and above it, active, and known to their tools.

Sources: as in `environments`. Only names are looked up; `environments` reads what is there.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

NAMES = (".venv", "venv", "env")
_MOST_ENVS = 50
_MOST_BYTES = 64 * 1024
_MOST_FOLDERS, _MOST_DEPTH, _MOST_ENTRIES = 300, 3, 2_000
_LEFT_OUT = frozenset({"node_modules", "__pycache__", "site-packages", "envs", *NAMES})

Place = tuple[Path, str]
"""A prefix that may be one, and what made it; "" where that is to be seen there."""


def above(root: Path, folder: str) -> Iterator[Path]:
    """The folder and those above it, up to the root."""
    inner = Path(os.path.normpath(root / folder))
    while inner != root and inner.is_relative_to(root):
        yield inner
        inner = inner.parent
    yield root


def inside(folder: Path, environ: Mapping[str, str]) -> Iterator[Place]:
    """Where one folder's environment may be, the likeliest first."""
    project = _read(folder / "pyproject.toml")
    chosen = environ.get("UV_PROJECT_ENVIRONMENT", "")
    if chosen and (project or os.path.exists(folder / "uv.lock")):
        yield folder / chosen, "uv"
    for name in NAMES:
        yield folder / name, ""
    yield from ((prefix, "pixi") for prefix in _children(folder / ".pixi" / "envs"))
    yield folder / ".conda", "conda"
    yield from ((prefix, "conda") for prefix in _children(folder / "envs") if os.path.isdir(prefix / "conda-meta"))
    if project:
        yield from ((prefix, "poetry") for prefix in _of_poetry(folder, environ))
    yield from ((prefix, "conda") for prefix in _named(folder, environ))


def active(environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The environments somebody has activated, and the variables that say so."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.path.isabs(environ.get(variable, "")):
            yield Path(environ[variable]), variable


def known_to_conda(environ: Mapping[str, str]) -> Iterator[Path]:
    """Every environment that conda knows of."""
    listed = _read(_home(environ) / ".conda" / "environments.txt").splitlines()
    yield from (Path(line) for line in listed[:_MOST_ENVS] if os.path.isabs(line))
    for folder in _conda_folders(environ):
        yield from _children(folder)


def below(root: Path) -> Iterator[Path]:
    """The folders of a root in which other projects may be, the nearest first; not all of a big one."""
    waiting, seen = deque([(root, 0)]), 0
    while waiting and seen < _MOST_FOLDERS:
        folder, depth = waiting.popleft()
        seen += 1
        yield folder
        if depth < _MOST_DEPTH:
            waiting.extend((inner, depth + 1) for inner in _folders(folder))


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in islice(entries, _MOST_ENTRIES) if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".") and name not in _LEFT_OUT]


def _of_poetry(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """Poetry's own environments of a project: its folder's hash is in their names."""
    real = os.path.normcase(os.path.realpath(folder))
    mark = base64.urlsafe_b64encode(hashlib.sha256(real.encode(errors="surrogateescape")).digest()).decode()[:8]
    for place in _poetry_places(environ):
        found = [
            prefix for prefix in _children(place, most=10_000) if re.search(f"-{re.escape(mark)}-py3", prefix.name)
        ]
        if found:
            chosen = re.search(rf'-{re.escape(mark)}"?\]\s*minor\s*=\s*"([^"]+)"', _read(place / "envs.toml"))
            last = f"-py{chosen[1]}" if chosen else ""
            return sorted(found, key=lambda prefix: not (last and prefix.name.endswith(last)))
    return []


def _poetry_places(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("POETRY_VIRTUALENVS_PATH"):
        yield Path(environ["POETRY_VIRTUALENVS_PATH"])
    cache = environ.get("POETRY_CACHE_DIR")
    if cache is None:
        from platformdirs import user_cache_dir  # noqa: PLC0415 - 2 ms that folders without a project save

        own = environ.get("XDG_CACHE_HOME") or (_home(environ) / ".cache")
        cache = user_cache_dir("pypoetry", appauthor=False) if os.name == "nt" else str(Path(own) / "pypoetry")
        if not os.path.isdir(cache):
            cache = user_cache_dir("pypoetry", appauthor=False)
    yield Path(cache) / "virtualenvs"


def _named(folder: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """The environment that a folder's environment.yml names."""
    text = _read(folder / "environment.yml") or _read(folder / "environment.yaml")
    prefix = re.search(r"^prefix:[ \t]*[\"']?([^\s\"'#]+)", text, re.MULTILINE)
    if prefix and os.path.isabs(prefix[1]):
        yield Path(prefix[1])
    name = re.search(r"^name:[ \t]*[\"']?([^\s\"'#/\\]+)", text, re.MULTILINE)
    if name:
        yield from (each for each in known_to_conda(environ) if each.name == name[1])


def _conda_folders(environ: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"):
        yield from (Path(part) for part in environ.get(variable, "").split(os.pathsep) if part)
    if environ.get("MAMBA_ROOT_PREFIX"):
        yield Path(environ["MAMBA_ROOT_PREFIX"]) / "envs"
    if environ.get("CONDA_EXE"):
        yield Path(environ["CONDA_EXE"]).parent.parent / "envs"
    prefix = Path(environ.get("CONDA_PREFIX") or os.devnull)
    yield prefix.parent if prefix.parent.name == "envs" else prefix / "envs"
    yield _home(environ) / ".conda" / "envs"


def _children(folder: Path, most: int = _MOST_ENVS) -> list[Path]:
    """What is in a folder of environments: `default` first."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, most)]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=lambda name: (name != "default", name))]


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~"))


def _read(path: Path) -> str:
    """The beginning of a file; nothing of what is no plain file or cannot be read."""
    try:
        # A pipe of that name would be waited for.
        if not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return ""
