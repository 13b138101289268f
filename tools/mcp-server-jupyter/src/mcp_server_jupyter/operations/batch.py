"""Running cells of an editor as one batch: what runs is what the editor shows, whatever was saved of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from ..execution.execution import Batch
from ..execution.session import require_alive
from ..notebooks import find_cell, shallow
from ..services import Services
from .call import Answers, Call, Caller
from .run import notebook_session

if TYPE_CHECKING:
    from nbformat import NotebookNode


async def run_cells(services: Services, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
    """Queue cells, all or none: `{"notebook_path" or "kernel_id", "cells": [{"cell_id", "source"}], "stop_on_error"}`.

    With `kernel_id` the cells are in no notebook: their outputs are the executions' alone. `wait_seconds`, from 0 to
    the setting of that name (its default), is how long a kernel that starts is waited for: whoever may think better of
    it meanwhile asks again and again with 0.

    Raises:
        InvalidRequest, NotFound, KernelDead, KernelStartFailed
        KernelStarting: the kernel is not up in that time; its start goes on.
    """
    cells = _cells(body)
    answers = caller.answers or Answers.of(services.settings)
    answers = replace(answers, wait_seconds=_seconds(body, "wait_seconds", answers.wait_seconds))
    call = Call(services, replace(caller, answers=answers))
    kernel_id = _text(body, "kernel_id")
    batch = Batch(_flag(body, "stop_on_error", True))
    if kernel_id:
        session = call.kernel(kernel_id)
        require_alive(session)
        executions = [
            services.executions.submit(session, source, author=caller.author, batch=batch) for _, source in cells
        ]
    else:
        path = call.path(_text(body, "notebook_path"))
        found = _find(await services.contents.read(path), cells)
        session = await notebook_session(call, path)
        # Read again: starting a kernel takes long enough for somebody to change a cell.
        found = _find(await services.contents.read(path), cells)
        require_alive(session)
        executions = [
            services.executions.submit(
                session, cell.source, author=caller.author, notebook=path, cell=cell, batch=batch
            )
            for cell in found
        ]
    return {
        "batch": batch.id,
        "kernel_id": session.id,
        "kernel_epoch": session.kernel.epoch,
        "executions": [
            {"cell_id": cell_id, "execution_id": execution.id}
            for (cell_id, _), execution in zip(cells, executions, strict=True)
        ],
    }


def _find(notebook: NotebookNode, cells: Sequence[tuple[str, str]]) -> list[NotebookNode]:
    """The cells with the sources that are to run."""
    found = []
    for cell_id, source in cells:
        cell = notebook.cells[find_cell(notebook, cell_id=cell_id)]
        if cell.cell_type != "code":
            raise InvalidRequest(f"Cell {cell_id!r} is a {cell.cell_type} cell; only code cells run.")
        found.append(cell if cell.source == source else shallow(cell, source=source))
    return found


def _cells(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    cells = body.get("cells")
    if not isinstance(cells, list) or not cells:
        raise InvalidRequest("cells must be a list with at least one cell.", hint='[{"cell_id": …, "source": …}]')
    found = []
    for cell in cells:
        if not isinstance(cell, dict):
            raise InvalidRequest("A cell must be an object.", hint='{"cell_id": …, "source": …}')
        found.append((_required(cell, "cell_id"), _required(cell, "source")))
    return found


def _required(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.")
    return value


def _text(values: Mapping[str, Any], name: str) -> str:
    return "" if values.get(name) is None else _required(values, name)


def _seconds(values: Mapping[str, Any], name: str, most: float) -> float:
    value = values.get(name, most)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise InvalidRequest(f"{name} must be a number of seconds from 0.")
    return min(value, most)


def _flag(values: Mapping[str, Any], name: str, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.")
    return value
