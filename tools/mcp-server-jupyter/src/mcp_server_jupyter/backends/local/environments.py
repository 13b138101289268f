"""Python environments, as their files tell them: no interpreter is ever run here, and nothing that is broken raises.

Sources: PEP 405 (pyvenv.cfg) · docs.python.org, "site" (.pth files) · docs.conda.io, "Managing environments" ·
docs.astral.sh/uv, "Project structure" · python-poetry.org, "Managing environments" · pixi.sh, "Environment".
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...ports import Environment

BIN = "Scripts" if sys.platform == "win32" else "bin"
PYTHON = "python.exe" if sys.platform == "win32" else "python"
_OTHER = ("bin", "python") if sys.platform == "win32" else ("Scripts", "python.exe")
_STARTS = {"linux": (b"\x7fELF", b"#!"), "win32": (b"MZ",)}
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_MOST_BYTES = 64 * 1024
_MOST_LINKS = 100
_MOST_SITES = 200
_LIBRARY = re.compile(r"python3(\.\d+t?)?")
_MODULE = re.compile(r"([^.]+)\.(?:py|so|pyd|[A-Za-z0-9_.-]+\.(?:so|pyd))")


@dataclass(frozen=True, slots=True)
class Found:
    """What the files below one prefix say."""

    prefix: Path
    kind: str
    version: str
    problem: str
    sites: tuple[Path, ...]

    @property
    def python(self) -> Path:
        return self.prefix / BIN / PYTHON


class Reader:
    """Reads environments. What a folder of packages holds is remembered while the folder is as it was."""

    def __init__(self) -> None:
        self._names: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}

    def read(self, prefix: Path, kind: str = "") -> Found | None:
        """The environment of a prefix; None if there is none. `kind` is what made it, where that is known."""
        try:
            return self._read(prefix, kind)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            return Found(prefix, kind or "venv", "", f"it cannot be read: {why}", ())

    def holds(self, found: Found, module: str) -> bool:
        """Whether a module, dotted or not, is among an environment's packages."""
        first, *rest = module.split(".")
        return any(first in self._in(site) and _below(site / first, rest) for site in found.sites)

    def told(self, found: Found, root: Path) -> Environment:
        """The same for others, named as `Kernels.start` takes it."""
        python = found.python
        name = python.relative_to(root).as_posix() if python.is_relative_to(root) else str(python)
        holds = not found.problem and self.holds(found, "ipykernel")
        return Environment(name, str(found.prefix), str(python), found.kind, found.version, holds, found.problem)

    def _read(self, prefix: Path, kind: str) -> Found | None:
        config = _config(prefix / "pyvenv.cfg")
        is_conda = _stat(prefix / "conda-meta") is not None
        python = prefix / BIN / PYTHON
        if config is None and not is_conda and not os.path.lexists(python):
            return None
        values = config or {}
        made_by = kind or ("conda" if is_conda else "uv" if "uv" in values else "venv")
        version = values.get("version_info", values.get("version", ""))
        sites, newest = self._sites(prefix, values)
        known = ".".join(version.split(".")[:3]) or (newest if "." in newest else "")
        found = Found(prefix, made_by, known, "", sites)
        return replace(found, problem=_problem(prefix, values))

    def _sites(self, prefix: Path, values: Mapping[str, str]) -> tuple[tuple[Path, ...], str]:
        sites, version = _packages_of(prefix)
        if values.get("include-system-site-packages", "").lower() == "true" and values.get("home"):
            base = Path(values["home"]).parent
            below = "" if version == "" else f"python{version}"
            sites += [site for site in _packages_of(base)[0] if not below or site.parent.name == below]
            sites += [base / "lib" / "python3" / "dist-packages", Path("/usr/local/lib") / below / "dist-packages"]
        return tuple(dict.fromkeys([*sites, *(linked for site in sites for linked in self._linked(site))])), version

    def _linked(self, site: Path) -> Iterator[Path]:
        """The folders that .pth files add."""
        links = sorted(name for name in self._in(site) if name.endswith(".pth"))
        for name in links[:_MOST_LINKS]:
            for line in _text(site / name).splitlines():
                if line.strip() and not line.startswith(("#", "import ", "import\t")):
                    yield site / line.strip()

    def _in(self, site: Path) -> frozenset[str]:
        """Names of the modules in a folder of packages, and its .pth files."""
        try:
            known = os.stat(site)
            stamp = known.st_mtime_ns, known.st_ino
            if site not in self._names or self._names[site][0] != stamp:
                entries = os.listdir(site)
                if len(self._names) >= _MOST_SITES:
                    self._names.clear()
                self._names[site] = stamp, frozenset(map(_module_name, entries))
            return self._names[site][1]
        except (OSError, ValueError):
            # A folder that cannot be read holds nothing for the one who would import it, either.
            return frozenset()


def _module_name(entry: str) -> str:
    module = _MODULE.fullmatch(entry)
    return module[1] if module else entry


def _below(folder: Path, parts: Sequence[str]) -> bool:
    """Whether a package holds what a dotted name goes on with."""
    if not parts:
        return True
    inner = folder.joinpath(*parts)
    try:
        return any(_module_name(entry) == inner.name for entry in os.listdir(inner.parent))
    except (OSError, ValueError):
        return False


def _packages_of(prefix: Path) -> tuple[list[Path], str]:
    """Folders of packages of a prefix, and the version of Python that the last of them is for."""
    if sys.platform == "win32":
        return [prefix / "Lib" / "site-packages"], ""
    try:
        libraries = sorted(name for name in os.listdir(prefix / "lib") if _LIBRARY.fullmatch(name))
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return [], ""
    sites = [prefix / "lib" / name / "site-packages" for name in libraries]
    return sites, libraries[-1].removeprefix("python") if libraries else ""


def _problem(prefix: Path, values: Mapping[str, str]) -> str:
    """Why an environment cannot be used here; "" if it seems it can."""
    python = prefix / BIN / PYTHON
    home = values.get("home", "")
    if _stat(python) is None:
        if os.path.lexists(python):
            return f"its base Python {home or os.path.realpath(python)} is gone"
        if os.path.lexists(prefix.joinpath(*_OTHER)):
            return "it was made on another operating system"
        return f"it has no {BIN}/{PYTHON}"
    if home and _stat(Path(home)) is None:
        return f"its base Python {home} is gone"
    if not os.access(python, os.X_OK) or not python.is_file():
        return f"its {BIN}/{PYTHON} may not be run"
    starts = _STARTS.get(sys.platform)
    try:
        with open(python, "rb") as file:
            start = file.read(4)
    except PermissionError:
        return ""
    return "" if starts is None or start.startswith(starts) else "it was made for another operating system"


def _config(path: Path) -> dict[str, str] | None:
    if _stat(path) is None:
        return None
    pairs = (line.partition("=") for line in _text(path).splitlines())
    return {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}


def _text(path: Path) -> str:
    """The beginning of a file; nothing of what is no plain file, or is not there."""
    known = _stat(path)
    if known is None or not stat.S_ISREG(known.st_mode):
        return ""
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES).decode(errors="replace")


def _stat(path: Path) -> os.stat_result | None:
    """None for what is not there. Raises OSError for what cannot be looked at."""
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
