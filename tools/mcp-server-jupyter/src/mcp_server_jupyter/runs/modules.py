"""Which modules a notebook imports that its interpreter does not have: told before a kernel starts.

Only what is certain counts: imports at a cell's top level, not those that may fail or may not be reached (in `try`,
`if`, functions), and nothing at all where the notebook installs packages or changes where modules are found.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import anyio.to_thread

from ..notebooks.metadata import is_skipped

PROBE_SECONDS = 30.0
_CHANGES_MODULES = re.compile(
    r"(?m)^\s*[%!]{1,2}\s*(?:\w+\s+-m\s+)?(?:pip|conda|mamba|uv|pixi|writefile)\b|sys\.path|site\.addsitedir"
)
_PYTHON = re.compile(r"python(3(\.\d+)?)?(\.exe)?\Z")
_PROBE = """
import importlib.util, json, sys
def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return True
print(json.dumps([name for name in sys.argv[1:] if not there(name)]))
"""


def imported(cells: Iterable[dict[str, object]]) -> list[str]:
    """The top-level names of the modules that the cells import, in order; none where that cannot be told."""
    sources = [str(cell["source"]) for cell in cells if cell["cell_type"] == "code" and not is_skipped(cell)]
    if any(_CHANGES_MODULES.search(source) for source in sources):
        return []
    names = (name.partition(".")[0] for source in sources for name in _imports(source))
    return [name for name in dict.fromkeys(names) if name not in sys.stdlib_module_names]


def _imports(source: str) -> Iterator[str]:
    if "import" not in source:
        return
    # IPython costs a fifth of a second: only who runs notebooks that import something pays.
    from IPython.core.inputtransformer2 import TransformerManager  # noqa: PLC0415

    try:
        tree = ast.parse(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for statement in _surely_run(tree.body):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module


def _surely_run(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in statements:
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from () if _may_suppress(statement) else _surely_run(statement.body)
        else:
            yield statement


def _may_suppress(statement: ast.With | ast.AsyncWith) -> bool:
    return any(
        "suppress" in ast.dump(item.context_expr) or "raises" in ast.dump(item.context_expr) for item in statement.items
    )


async def missing(names: list[str], argv: tuple[str, ...], folder: Path) -> list[str]:
    """Those of the names that the kernel's interpreter does not find; none where it cannot be asked.

    Args:
        argv: the kernelspec's command.
        folder: where the kernel will run.
    """
    python = _interpreter(argv)
    if not names or python is None:
        return []
    if python == sys.executable:
        return await anyio.to_thread.run_sync(_missing_here, names)
    with suppress(OSError), anyio.move_on_after(PROBE_SECONDS):
        command = [python, "-c", _PROBE, *names]
        done = await anyio.run_process(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, check=False, cwd=folder)
        with suppress(ValueError):
            return list(json.loads(done.stdout))
    return []


def _interpreter(argv: tuple[str, ...]) -> str | None:
    if not argv or not _PYTHON.match(Path(argv[0]).name):
        return None
    # As jupyter_client has it: a bare name is the interpreter that starts the kernel.
    return argv[0] if Path(argv[0]).is_absolute() else sys.executable


def _missing_here(names: list[str]) -> list[str]:
    importlib.invalidate_caches()
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return True
