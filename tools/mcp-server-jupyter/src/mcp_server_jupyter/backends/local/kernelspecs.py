"""How to start a kernel: installed kernelspecs, and Python environments that have ipykernel.

Source: jupyter-client docs, "Making kernels for Jupyter", Kernel specs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest, NotFound, Unsupported
from ...ports import Environment, Kernelspec
from .environments import BIN, PYTHON, Reader

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager

PYTHONS = frozenset({"python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What starting one kernelspec takes. `argv` still holds `{connection_file}`."""

    spec: Kernelspec
    env: Mapping[str, str] = field(default_factory=dict)
    interrupt_mode: str = "signal"
    resource_dir: str = ""
    prefix: str = ""
    """Of the Python environment that is to be active in the kernel; "" leaves that as it is."""

    @property
    def is_ipykernel(self) -> bool:
        return any("ipykernel" in argument for argument in self.spec.argv)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of the kernel's process, over what it inherits."""
        found = {**inherited, **self.env}
        if self.prefix:
            for variable in ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONHOME"):
                found.pop(variable, None)
            found["PATH"] = os.pathsep.join([os.path.join(self.prefix, BIN), inherited.get("PATH", os.defpath)])
            is_conda = os.path.isdir(os.path.join(self.prefix, "conda-meta"))
            if is_conda or os.path.exists(os.path.join(self.prefix, "pyvenv.cfg")):
                found["CONDA_PREFIX" if is_conda else "VIRTUAL_ENV"] = self.prefix
        return found

    def command(self, connection_file: str) -> list[str]:
        """The argument list for one connection file."""
        values = {"connection_file": connection_file, "prefix": sys.prefix, "resource_dir": self.resource_dir}
        argv = [
            re.sub(r"\{([A-Za-z0-9_]+)\}", lambda match: values.get(match[1], match[0]), argument)
            for argument in self.spec.argv
        ]
        if argv[0] in PYTHONS:
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


def listing(root: Path, environments: Sequence[Environment] = ()) -> list[Kernelspec]:
    """Every kernelspec installed, then environments that have ipykernel. Reads folders: to be called in a thread."""
    found = []
    for name, entry in sorted(_manager().get_all_specs().items()):
        spec = entry["spec"]
        if _foreign_provisioner(spec):
            continue
        found.append(Kernelspec(name, spec["display_name"], spec["language"], tuple(spec["argv"])))
    if not any(spec.name == "python3" for spec in found):
        found.insert(0, _own_python())
    own = os.path.realpath(sys.prefix)
    for environment in environments:
        if environment.has_ipykernel and not environment.problem and os.path.realpath(environment.prefix) != own:
            found.append(_environment_spec(Path(environment.prefix) / BIN / PYTHON, root))
    return found


def is_python(name: str) -> bool:
    """Whether a kernelspec's name means Python 3 in general, as every environment's own is called."""
    return re.fullmatch(r"python(3(\.\d+)?)?", name) is not None


def registered(name: str) -> Recipe | None:
    """The kernelspec that somebody has registered under a name.

    What ipykernel brings into its own environment as `python3` is no such thing: it says nothing of which Python is
    meant.
    """
    return next((recipe for recipe in _all_installed(name) if not (is_python(name) and _is_native(recipe))), None)


def _is_native(recipe: Recipe) -> bool:
    python, of_folder = recipe.spec.argv[0], Path(recipe.resource_dir).parents[3:4]
    if not os.path.isabs(python):
        return True
    prefix = os.path.realpath(os.path.dirname(os.path.dirname(python)))
    return prefix in [os.path.realpath(sys.prefix), *map(os.path.realpath, of_folder)] or not os.access(python, os.X_OK)


def _installed(name: str) -> Recipe | None:
    return next(_all_installed(name), None)


def _all_installed(name: str) -> Iterator[Recipe]:
    # As KernelSpecManager finds them, without the 0.2 s its import takes before a first kernel can start.
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415  (only for opening kernels)

    if not re.fullmatch(r"[A-Za-z0-9._\-]+", name):
        return
    for folder in jupyter_path("kernels"):
        resource_dir = os.path.join(folder, name.lower())
        try:
            with open(os.path.join(resource_dir, "kernel.json"), encoding="utf-8") as file:
                yield _recipe(name, json.load(file), resource_dir)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(
                f"The kernelspec {name!r} in {resource_dir} cannot be read.", hint=f"Mend or remove it ({error})."
            ) from error


def flaws() -> Iterator[tuple[str, str, str]]:
    """Kernelspecs that cannot start: their names, what is wrong, and what to do."""
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415  (see `_all_installed`)

    met: set[str] = set()
    for folder in jupyter_path("kernels"):
        with suppress(OSError):
            for name in sorted(set(os.listdir(folder)) - met):
                path = os.path.join(folder, name, "kernel.json")
                if os.path.isfile(path):
                    met.add(name)
                    if wrong := _flaw(path):
                        yield name, *wrong


def _flaw(path: str) -> tuple[str, str] | None:
    remove = f"Mend {path}, or remove its folder."
    try:
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
        argv, _, _ = spec["argv"], spec["display_name"], spec["language"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})", remove
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        return "it says no command to start (argv)", remove
    if _foreign_provisioner(spec):
        return None
    program = argv[0].replace("{prefix}", sys.prefix).replace("{resource_dir}", os.path.dirname(path))
    if program not in PYTHONS and shutil.which(program) is None:
        return f"its program {program} is not there", f"Install it again. {remove}"
    python = Path(program)
    if "ipykernel_launcher" in argv and python.is_absolute():
        reader = Reader()
        found = reader.read(python.parent.parent)
        if found is not None and found.problem:
            return f"the environment of its Python {program}: {found.problem}", remove
        if found is not None and found.sites and found.kind != "venv" and not reader.holds(found, "ipykernel"):
            return (
                f"its Python {program} has no ipykernel",
                f"Run: {reader.told(found, python.parent).adding_ipykernel}",
            )
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
    if os.path.isdir(path):
        path = path / BIN / PYTHON
    prefix = path.parent.parent
    reader = Reader()
    found = reader.read(prefix) if path.parent.name == BIN else None
    if found is not None and found.problem and os.path.exists(prefix / "pyvenv.cfg"):
        raise InvalidRequest(
            f"The environment {prefix} cannot be used: {found.problem}.", hint="Make it anew, or give another."
        )
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        names = ", ".join(spec.name for spec in listing(root))
        raise NotFound(f"There is no Python interpreter {name!r}.", hint=f"Kernels there are: {names}.")
    has_ipykernel = found is not None and reader.holds(found, "ipykernel")
    if not has_ipykernel and (path.is_relative_to(root) or not _imports_ipykernel(path)):
        adding = f"{path} -m pip install ipykernel" if found is None else reader.told(found, root).adding_ipykernel
        raise InvalidRequest(f"The Python interpreter {name!r} has no ipykernel.", hint=f"Run: {adding}")
    return Recipe(_environment_spec(path, root), prefix=str(prefix) if found is not None else "")


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
