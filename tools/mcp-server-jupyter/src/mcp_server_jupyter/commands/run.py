"""`run NOTEBOOK`: execute a notebook from top to bottom through the same services, with parameters, once or for many.

Parameters work as papermill's do: a cell tagged `injected-parameters` is put after the cell tagged `parameters`, or
at the top when there is none, and takes the place of an earlier one.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import keyword
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from ..errors import InvalidRequest, NotFound
from ..notebooks import is_skipped
from ..operations import Call, Caller
from ..operations.bind import invoke
from ..operations.interpreter import choose, folder_of
from ..runs import open_runs
from ..runs.fan_out import WORK, FanOut
from ..runs.folders import Folders
from ..runs.parameters import inject
from ..runs.payload import whole
from ..runs.sets import ParameterSet, read_sets
from ..services import Services
from ..settings import Settings

_NAMES = {"true": True, "false": False, "null": None}
_DAY = 86_400.0
_FOR_EVER = 10**9
_ORPHAN_HOURS = 0.01
"""Of a kernel whose `run` was killed: nobody will come for it."""


@contextmanager
def private_state(settings: Settings) -> Iterator[Settings]:
    """The settings with state and installation of its own, shared with no server: a notebook can be run beside one.

    Raises:
        InvalidRequest: the state directory cannot be written.
    """
    folder = settings.state_dir / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.iterdir():
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
        own = tempfile.mkdtemp(dir=folder)
    except OSError as error:
        raise InvalidRequest(
            f"{folder} cannot be written: {error.strerror}.", hint="Give another --state-dir."
        ) from error
    try:
        yield dataclasses.replace(
            settings,
            state_dir=Path(own),
            instance=f"run-{secrets.token_hex(5)}",
            keep_kernels=False,
            orphan_hours=_ORPHAN_HOURS,
            notebook=None,
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)


def parse_parameters(texts: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is a Python or JSON literal where it reads as one, else the text itself.

    Raises:
        InvalidRequest: no `=`, or a name that is no Python name.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidRequest(f"{text!r} is not a parameter.", hint="Write -p name=value with a Python name.")
        parameters[name] = _literal(value)
    return parameters


def _literal(text: str) -> Any:
    if text in _NAMES:
        return _NAMES[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError):
        return text


def prepare(root: Path, notebook: Path, output: Path | None) -> str:
    """The path, relative to the root, of the notebook to execute: a fresh copy when `output` is given.

    Raises:
        NotFound, InvalidRequest
    """
    if not notebook.is_file():
        raise NotFound(f"No notebook {notebook}.")
    target = notebook if output is None else output
    for path in (notebook, target):
        if not path.is_relative_to(root):
            raise InvalidRequest(f"{path} is outside the root {root}.", hint="Give a --root that holds both.")
    if target != notebook:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(notebook, target)
    return target.relative_to(root).as_posix()


async def run_notebook(
    services: Services, path: str, source: str, parameters: Mapping[str, Any], say: Callable[[str], object]
) -> bool:
    """Execute every code cell of `path`; True when all went well.

    Args:
        source: the notebook that `path` was copied from; its folder is the kernel's.
    """
    if parameters:
        async with services.contents.edit(path) as notebook:
            inject(notebook, parameters)
    notebook = await services.contents.read(path)
    cwd = folder_of(source)
    choice = await choose(Call(services, Caller("run", answers_input=False)), cwd, notebook)
    if choice.where:
        say(f"on {choice}")
    await services.sessions.start(choice.name, cwd=cwd, notebook=path).wait()
    indexes = {cell["id"]: index for index, cell in enumerate(notebook.cells)}
    total = sum(
        cell.cell_type == "code" and bool(cell.source.strip()) and not is_skipped(cell) for cell in notebook.cells
    )
    caller = Caller("run", answers_input=False)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_report, services, indexes, total, say)
        answer = await invoke(
            services, "run_all_cells", {"notebook_path": path, "timeout_seconds": _DAY}, caller=caller
        )
        tasks.cancel_scope.cancel()
    await services.contents.flush(path)
    executions = answer.data["executions"]
    bad = next((e for e in executions if e["status"] != "ok" and not (e["status"] == "error" and e["may_raise"])), None)
    if bad is not None:
        detail = await invoke(services, "get_execution", {"execution_id": bad["execution_id"]}, caller=Caller("run"))
        say(detail.text)
    return bad is None


def prepare_sets(root: Path, notebook: Path, file: Path, folder: Path, common: Mapping[str, Any]) -> list[ParameterSet]:
    """The sets of parameters in `file` for a notebook.

    Raises:
        NotFound, InvalidRequest: a file is not there, is not what it should be, or lies outside the root.
    """
    for path in (notebook, folder):
        if not path.is_relative_to(root):
            raise InvalidRequest(f"{path} is outside the root {root}.", hint="Give a --root that holds both.")
    try:
        found = json.loads(notebook.read_bytes())
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"No file {error.filename}.") from error
    except OSError as error:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{notebook} is no notebook, or {file} no UTF-8 text: {error}.") from error
    return read_sets(text, whole(found), common)


def batch_settings(settings: Settings, *, has_limit: bool) -> Settings:
    """Settings for many runs that one call waits for: nothing is kept, and none is refused for want of room.

    Args:
        has_limit: whether somebody gave the seconds that a run may take; a day otherwise, as for a single one.
    """
    workers = settings.workers or os.cpu_count() or 1
    return dataclasses.replace(
        settings,
        workers=workers,
        queue=workers + 1,
        max_kernels=max(settings.max_kernels, workers + 1),
        execution_timeout=settings.execution_timeout if has_limit else _DAY,
        keep_failed_seconds=0.0,
        run_keep_hours=_FOR_EVER,
        run_keep_megabytes=_FOR_EVER,
        grace_seconds=0.0,
    )


async def run_sets(
    services: Services, notebook: str, sets: Sequence[ParameterSet], folder: Path, say: Callable[[str], object]
) -> bool:
    """Execute a notebook once for each set into `folder`, which is this call's alone; True when all went well."""
    cwd = folder_of(notebook)
    choice = await choose(Call(services, Caller("run", answers_input=False)), cwd, sets[0].sent.notebook)
    if choice.where:
        say(f"on {choice}")
    root = services.settings.root
    folders = Folders(root, below=(folder / WORK).relative_to(root).as_posix(), kernels_in=cwd)
    async with open_runs(services, folders) as runs:
        return await FanOut(runs, sets, folder, choice.name, say).run()


async def _report(
    services: Services,
    indexes: Mapping[str, int],
    total: int,
    say: Callable[[str], object],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    done = 0
    with services.events.subscribe() as subscription:
        task_status.started()
        async for event in subscription:
            index = indexes.get(event.data.get("cell_id") or "")
            if index is None:
                continue
            if event.kind == "execution.finished" and event.data["status"] != "aborted":
                done += 1
                say(f"[{done}/{total}] cell {index}: {event.data['status']} {event.data['seconds']:.2f} s")
