"""`doctor forks`: which kernels are forked, what is preloaded, and what could be."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from ....errors import JupyterMcpError
from ....ports import Finding
from ....settings import Settings
from .. import kernelspecs
from ..interpreters import LocalInterpreters
from ..system import environment
from .fitness import interpreter, why_spawned
from .forks import Line

_READY_SECONDS = 120.0
_MOST_NOTEBOOKS = 200
_MOST_BYTES = 4 << 20
_MOST_MODULES = 5
_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([A-Za-z_][\w.]*)", re.MULTILINE)


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Try a fork server of each interpreter; nothing else runs, no kernel is started."""
    if not settings.fork_kernels:
        yield Finding(
            True, "No kernel is forked: it is switched off", "Start the server with --fork-kernels to have it."
        )
        return
    environments = await LocalInterpreters(settings.root).environments()
    specs = await anyio.to_thread.run_sync(kernelspecs.listing, settings.root, environments)
    tried: set[Sequence[str]] = set()
    for spec in specs:
        try:
            recipe = await anyio.to_thread.run_sync(kernelspecs.find, spec.name, settings.root)
        except JupyterMcpError as error:
            yield Finding(False, f"Kernelspec {spec.name}: {error.message}", error.hint or "")
            continue
        environ = recipe.environment(environment())
        if why := why_spawned(recipe, environ):
            yield Finding(True, f"Kernels of {spec.name} are spawned: {why}")
        elif (command := tuple(interpreter(recipe))) not in tried:
            tried.add(command)
            async for finding in _try(spec.name, command, environ, settings.preload):
                yield finding
    found = await anyio.to_thread.run_sync(often_imported, settings.root)
    if more := [name for name in found if name not in settings.preload]:
        yield Finding(True, f"Most notebooks here import {', '.join(more)}", f"Try --preload {','.join(found)}")


async def _try(
    name: str, command: Sequence[str], environ: Mapping[str, str], preload: Sequence[str]
) -> AsyncIterator[Finding]:
    line = Line(command, environ, preload)
    try:
        with anyio.move_on_after(_READY_SECONDS):
            await line.come_up()
        server = line.server
        if server is not None and server.ready.done() and server.ready.result():
            kept = ", ".join(each for each in preload if each not in line.refused)
            beside = f", with {kept}" if kept else ""
            yield Finding(True, f"Kernels of {name} are forked from Python {server.version} at {command[0]}{beside}")
        else:
            yield Finding(True, f"Kernels of {name} are spawned: {line.unfit or 'its fork server does not come up'}")
        for module, why in line.refused.items():
            yield Finding(False, f"{module} cannot be preloaded: {why}", "Leave it out of --preload.")
    finally:
        with anyio.CancelScope(shield=True):
            await line.close()


def often_imported(root: Path) -> list[str]:
    """Modules of no standard library and not beside the notebooks that at least half of a root's notebooks import."""
    notebooks = list(_notebooks(root))
    counts = Counter(name for each in notebooks for name in _imported(each))
    return [
        name
        for name, count in counts.most_common()
        if 2 * count >= len(notebooks) > 1 and not _is_own(root, name.partition(".")[0])
    ][:_MOST_MODULES]


def _notebooks(root: Path) -> Iterator[Path]:
    met = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__", "node_modules")))
        for name in sorted(names):
            if name.endswith(".ipynb"):
                yield Path(folder, name)
                met += 1
                if met == _MOST_NOTEBOOKS:
                    return


def _imported(notebook: Path) -> set[str]:
    try:
        if notebook.stat().st_size > _MOST_BYTES:
            return set()
        cells = json.loads(notebook.read_bytes())["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError):
        # What is no notebook imports nothing.
        return set()
    texts = ["".join(source) for source in sources]
    return {name for text in texts for name in _IMPORT.findall(text)}


def _is_own(root: Path, name: str) -> bool:
    beside = (root / name).exists() or (root / f"{name}.py").exists()
    return beside or name in sys.stdlib_module_names or not name.isidentifier()
