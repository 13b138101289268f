"""Which Python or kernelspec a kernel is started with, and what a cell's missing module calls for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..errors import JupyterMcpError, NotFound, Unsupported
from ..notebooks import kernelspec_name, language
from ..ports import Choice, Environment, Interpreters
from .call import Answer, Call

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..execution.session import Session

_GENERAL = re.compile(r"python(3(\.\d+)?)?")
_MISSING = re.compile(r"No module named '([\w.]+)'")
_MOST = 3


def folder_of(path: str) -> str:
    """The folder of a notebook, relative to the root; "" is the root."""
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent


async def choose(call: Call, folder: str, notebook: NotebookNode | None = None) -> Choice:
    """What a kernel of a notebook, or of a folder, is started with where nobody names it.

    Raises:
        NotFound: the notebook's kernelspec is not there, and nothing may stand in for it.
        Unsupported: it is written in Python 2.
    """
    settings, kernels = call.services.settings, call.services.kernels
    name = (None if notebook is None else kernelspec_name(notebook)) or settings.kernel_name
    spoken = "" if notebook is None else language(notebook) or ""
    is_general = _GENERAL.fullmatch(name) is not None
    fixed = None if settings.python is None else Choice(settings.python, settings.python, "set by --python")
    if fixed is not None and (is_general or name == settings.kernel_name):
        return fixed
    if isinstance(kernels, Interpreters):
        spoken = spoken or ("python" if name.startswith("python") else "")
        if _is_python_2(name, notebook):
            spoken = "python 2"
        try:
            choice = await kernels.choose(name, folder=folder, language=spoken, environ=call.caller.environment)
        except NotFound as error:
            raise _not_there(name, spoken, error.hint or "") from error
        return fixed if fixed is not None and choice.name != name else choice
    names = [spec.name for spec in await kernels.specs()]
    if name in names:
        return Choice(name, "", "")
    if is_general and settings.kernel_name in names:
        return Choice(settings.kernel_name, "", "")
    spoken = "python 2" if _is_python_2(name, notebook) else spoken
    raise _not_there(name, spoken, f"There are: {', '.join(names) or 'none'}.")


def _is_python_2(name: str, notebook: NotebookNode | None) -> bool:
    if re.fullmatch(r"python2(\.\d+)?", name):
        return True
    info = None if notebook is None else notebook.get("metadata", {}).get("language_info")
    if not isinstance(info, dict) or info.get("name") != "python" or name == "python3":
        return False
    return str(info.get("version", "")).startswith("2.")


def _not_there(name: str, spoken: str, known: str) -> JupyterMcpError:
    if spoken == "python 2":
        return Unsupported(
            f"The notebook is written for Python 2 (kernelspec {name!r}), and no such kernelspec is installed.",
            hint='start_kernel(kernel_name="python3", notebook_path=...) runs it on Python 3 all the same; its code '
            f"may have to be changed for that. {known}",
        )
    return NotFound(
        f"The notebook asks for the kernelspec {name!r}, which is not installed. {known}",
        hint="Install it, or start_kernel(kernel_name=..., notebook_path=...) with another one.",
    )


async def interpreter_line(call: Call, path: str, notebook: NotebookNode, session: Session | None) -> str:
    """What a notebook's kernel runs on and why, or would if it were started now; "" where that is not ours to say."""
    try:
        choice = await choose(call, folder_of(path), notebook)
    except JupyterMcpError as error:
        return "" if session is not None else f"runs on: nothing yet. {error}"
    if not choice.where:
        return ""
    if session is None:
        return f"would run on {choice}"
    if session.kernel.name == choice.name:
        return f"runs on {choice}"
    return f"runs on {session.kernel.name}; started anew without naming one, on {choice}"


async def add_missing_modules(call: Call, answer: Answer) -> None:
    """Where cells of this answer could not import a module: the environments that have it."""
    kernels, executions = call.services.kernels, call.services.executions
    if not isinstance(kernels, Interpreters):
        return
    told = [answer.data.get("execution_id"), *(each.get("execution_id") for each in _runs(answer))]
    for execution in filter(None, (executions.get(each) for each in told if isinstance(each, str))):
        reducer = execution.reducer
        missing = _MISSING.search(reducer.evalue or "") if reducer.ename == "ModuleNotFoundError" else None
        if missing is None or execution.kernel.language != "python":
            continue
        path = execution.notebook or execution.home
        folder = folder_of(path) if path else ""
        found = await kernels.having(missing[1], folder=folder, environ=call.caller.environment)
        if text := _offer(missing[1], path, execution.kernel.name, found):
            answer.text += f"\n{text}"
        return


def _runs(answer: Answer) -> list[dict[str, str]]:
    runs = answer.data.get("executions")
    return runs if isinstance(runs, list) else []


def _offer(module: str, path: str | None, present: str, found: Sequence[Environment]) -> str:
    others = [each for each in found if each.name != present]
    ready = [each for each in others if each.has_ipykernel]
    where = "" if path is None else f"notebook_path={_quoted(path)}"
    if ready:
        names = ", ".join(f"{each.name} (Python {each.version or '?'})" for each in ready[:_MOST])
        first = f"shutdown_kernel({where}), then " if where else ""
        more = f", {where}" if where else ""
        return f"{module} is in {names}: {first}start_kernel(python={_quoted(ready[0].name)}{more}) runs there."
    if others:
        return f"{module} is in {others[0].prefix}, which has no ipykernel; list_kernels says how to add it."
    return ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
