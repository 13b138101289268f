"""Which kernels may be forked. What is not known to be safe is spawned."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from ..kernelspecs import Recipe

# python, options, and what ipykernel's own kernelspec says after them.
_MODULE = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
_OPTIONS = ("-Xfrozen_modules=off",)
# Read when an interpreter starts, and meant for each alone: forks would share what they make of it.
_OF_EACH_START = (
    "COVERAGE_PROCESS_START",
    "COVERAGE_PROCESS_CONFIG",
    "LD_PRELOAD",
    "PYTHONHASHSEED",
    "PYTHONINSPECT",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONTRACEMALLOC",
)


def is_possible_here() -> bool:
    """Whether this system can fork kernels: Linux, with file descriptors of processes."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def why_spawned(recipe: Recipe, environ: Mapping[str, str]) -> str:
    """Why kernels of a kernelspec are spawned; "" if they may be forked."""
    if not is_possible_here():
        return "kernels are forked on Linux only"
    command = recipe.spec.argv
    if recipe.spec.language != "python" or command[-4:] != _MODULE:
        return "its command is no plain `python -m ipykernel_launcher -f {connection_file}`"
    if any(option not in _OPTIONS for option in command[1:-4]):
        return f"its command gives options to Python ({' '.join(command[1:-4])})"
    if recipe.env:
        return f"it sets its own environment ({', '.join(sorted(recipe.env))})"
    if given := [name for name in _OF_EACH_START if environ.get(name)]:
        return f"the environment sets {', '.join(given)}"
    if not os.path.isabs(interpreter(recipe)[0]):
        return f"its Python ({interpreter(recipe)[0]}) is not given by its path"
    return ""


def interpreter(recipe: Recipe) -> Sequence[str]:
    """The command of a plain ipykernel up to what is run: Python and its options."""
    return recipe.command("")[:-4]
