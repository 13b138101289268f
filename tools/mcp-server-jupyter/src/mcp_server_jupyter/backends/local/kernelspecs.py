"""How to start a kernel: installed kernelspecs, and Python environments that have ipykernel.

Source: jupyter-client docs, "Making kernels for Jupyter", Kernel specs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest, NotFound, Unsupported
from ...ports import Kernelspec

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager

_PYTHONS = frozenset({"python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"})
_ENVIRONMENTS = (".venv", "venv", "env")
_BIN = "Scripts" if sys.platform == "win32" else "bin"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What starting one kernelspec takes. `argv` still holds `{connection_file}`."""

    spec: Kernelspec
    env: Mapping[str, str] = field(default_factory=dict)
    interrupt_mode: str = "signal"
    resource_dir: str = ""

    @property
    def is_ipykernel(self) -> bool:
        return any("ipykernel" in argument for argument in self.spec.argv)

    def command(self, connection_file: str) -> list[str]:
        """The argument list for one connection file."""
        values = {"connection_file": connection_file, "prefix": sys.prefix, "resource_dir": self.resource_dir}
        argv = [
            re.sub(r"\{([A-Za-z0-9_]+)\}", lambda match: values.get(match[1], match[0]), argument)
            for argument in self.spec.argv
        ]
        if argv[0] in _PYTHONS:
            argv[0] = sys.executable
        return argv


def find(name: str, root: Path) -> Recipe:
    """The recipe of a kernelspec, or of a Python interpreter given by its path (absolute, or below the root).

    Raises:
        NotFound: neither; the message lists what there is.
        InvalidRequest: an interpreter without ipykernel.
    """
    if "/" in name or os.sep in name:
        return _interpreter(name, root)
    return _installed(name) or _managed(name, root)


def listing(root: Path) -> list[Kernelspec]:
    """Every kernelspec installed, then every environment found. Reads folders: to be called in a thread."""
    found = []
    for name, entry in sorted(_manager().get_all_specs().items()):
        spec = entry["spec"]
        if _foreign_provisioner(spec):
            continue
        found.append(Kernelspec(name, spec["display_name"], spec["language"], tuple(spec["argv"])))
    if not any(spec.name == "python3" for spec in found):
        found.insert(0, _own_python())
    seen = {os.path.realpath(sys.prefix)}
    for folder in _environment_folders(root):
        real = os.path.realpath(folder)
        if real not in seen and has_ipykernel(folder):
            seen.add(real)
            found.append(_environment_spec(folder / _BIN / "python", root))
    return found


def has_ipykernel(prefix: Path) -> bool:
    """Whether an environment's own packages include ipykernel, without starting its Python."""
    pattern = "Lib/site-packages/ipykernel" if sys.platform == "win32" else "lib/python*/site-packages/ipykernel"
    return any(prefix.glob(pattern))


def _installed(name: str) -> Recipe | None:
    # As KernelSpecManager finds them, without the 0.2 s its import takes before a first kernel can start.
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415  (only for opening kernels)

    if not re.fullmatch(r"[A-Za-z0-9._\-]+", name):
        return None
    for folder in jupyter_path("kernels"):
        resource_dir = os.path.join(folder, name.lower())
        try:
            with open(os.path.join(resource_dir, "kernel.json"), encoding="utf-8") as file:
                return _recipe(name, json.load(file), resource_dir)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError) as error:
            raise InvalidRequest(
                f"The kernelspec {name!r} in {resource_dir} cannot be read.", hint=f"Mend or remove it ({error})."
            ) from error
    return None


def _managed(name: str, root: Path) -> Recipe:
    from jupyter_client.kernelspec import NoSuchKernel  # noqa: PLC0415  (see `_manager`)

    try:
        spec = _manager().get_kernel_spec(name)
    except NoSuchKernel:
        if name == "python3":
            return Recipe(_own_python())
        names = ", ".join(spec.name for spec in listing(root))
        raise NotFound(f"There is no kernelspec {name!r}.", hint=f"There are: {names}.") from None
    return _recipe(name, spec.to_dict(), spec.resource_dir)


def _manager() -> KernelSpecManager:
    """Of the folders it would look in by itself; to find the last of them it imports IPython, 5 MB of the server's."""
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415  (0.2 s, only listings need it)
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415

    ipython = Path(os.environ.get("IPYTHONDIR") or "~/.ipython").expanduser()
    return KernelSpecManager(kernel_dirs=[*jupyter_path("kernels"), str(ipython / "kernels")])


def _foreign_provisioner(spec: Mapping[str, Any]) -> str:
    """What starts a kernelspec elsewhere than on this machine (jupyter-client docs, "Kernel Provisioning"); or ""."""
    provisioner = (spec.get("metadata") or {}).get("kernel_provisioner") or {}
    name = str(provisioner.get("provisioner_name") or "")
    return "" if name == "local-provisioner" else name


def _recipe(name: str, spec: Mapping[str, Any], resource_dir: str) -> Recipe:
    if provisioner := _foreign_provisioner(spec):
        raise Unsupported(
            f"The kernelspec {name!r} is started by the provisioner {provisioner!r}, not on this machine.",
            hint="Give another kernelspec; for kernels in pods, start the server with --kernels kubernetes.",
        )
    return Recipe(
        Kernelspec(name, spec["display_name"], spec["language"], tuple(spec["argv"])),
        env=spec.get("env") or {},
        interrupt_mode=spec.get("interrupt_mode") or "signal",
        resource_dir=resource_dir,
    )


def _interpreter(name: str, root: Path) -> Recipe:
    path = Path(os.path.abspath(root / Path(name).expanduser()))
    if path.is_dir():
        path = path / _BIN / "python"
    if not os.access(path, os.X_OK) or not path.is_file():
        names = ", ".join(spec.name for spec in listing(root))
        raise NotFound(f"There is no Python interpreter {name!r}.", hint=f"Kernels there are: {names}.")
    prefix = path.parent.parent
    if not has_ipykernel(prefix) and not _imports_ipykernel(path):
        raise InvalidRequest(
            f"The Python interpreter {name!r} has no ipykernel.", hint=f"Run: {path} -m pip install ipykernel"
        )
    env = {"PATH": os.pathsep.join([str(path.parent), os.environ.get("PATH", os.defpath)])}
    if (prefix / "pyvenv.cfg").exists():
        env["VIRTUAL_ENV"] = str(prefix)
    return Recipe(_environment_spec(path, root), env=env)


def _imports_ipykernel(python: Path) -> bool:
    import subprocess  # noqa: PLC0415  (only for an interpreter whose packages are not beside it)

    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ipykernel') is None)"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _environment_spec(python: Path, root: Path) -> Kernelspec:
    name = python.relative_to(root).as_posix() if python.is_relative_to(root) else str(python)
    argv = (str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}")
    return Kernelspec(name, f"Python ({python.parent.parent.name})", "python", argv, source="environment")


def _own_python() -> Kernelspec:
    argv = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
    return Kernelspec("python3", "Python 3 (ipykernel)", "python", argv)


def _environment_folders(root: Path) -> Iterator[Path]:
    for folder in (root, *root.parents):
        for name in _ENVIRONMENTS:
            if (folder / name / _BIN / "python").exists():
                yield folder / name
    listed: Sequence[str] = [os.environ.get("VIRTUAL_ENV", ""), os.environ.get("CONDA_PREFIX", "")]
    with suppress(OSError, RuntimeError):
        listed = [*listed, *(Path.home() / ".conda" / "environments.txt").read_text().split("\n")]
    for name in listed:
        if name and (Path(name) / _BIN / "python").exists():
            yield Path(name)
