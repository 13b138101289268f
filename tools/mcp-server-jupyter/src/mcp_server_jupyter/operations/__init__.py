"""What every door offers, over `services`; for doors and commands.

A new operation is one function in this package and one line here.
"""

from __future__ import annotations

from ..settings import Settings
from ..terminals import has_terminals
from . import cells, files, history, kernels, notebooks, run, terminals, variables
from .call import Answer, Answers, Call, Caller, Link, Operation, Param, Picture

_ALL = (
    Operation(notebooks.list_notebooks, "Notebooks", "Notebooks below a folder.", read_only=True),
    Operation(notebooks.create_notebook, "New notebook", "New empty notebook."),
    Operation(
        notebooks.get_notebook_info,
        "Outline",
        "One line per cell, and the kernel. Start here.",
        read_only=True,
    ),
    Operation(notebooks.read_all_cells, "Read cells", "Sources and outputs, paged.", read_only=True),
    Operation(notebooks.read_cell, "Read cell", "Source, hash, outputs, images.", read_only=True),
    Operation(cells.insert_cell, "Insert cell", "Before cell_index; -1 appends. Not run."),
    Operation(cells.append_markdown_cell, "Append markdown", "At the end."),
    Operation(run.append_execute_code_cell, "Append and run", "New code cell at the end, run.", open_world=True),
    Operation(
        run.insert_execute_code_cell,
        "Insert and run",
        "New code cell before cell_index (-1: end), run.",
        open_world=True,
    ),
    Operation(
        run.execute_cell_with_progress,
        "Run cell",
        "After timeout_seconds answers an execution_id; the cell runs on.",
        open_world=True,
    ),
    Operation(cells.overwrite_cell_source, "Overwrite", "expected_hash guards others' edits.", destructive=True),
    Operation(cells.edit_cell_source, "Edit cell", "Replace a unique string.", destructive=True),
    Operation(cells.move_cell, "Move cell", "To to_index."),
    Operation(cells.delete_cell, "Delete cell", "undo restores it.", destructive=True),
    Operation(cells.clear_outputs, "Clear outputs", "Of one cell, or all.", destructive=True, idempotent=True),
    Operation(run.execute_code, "Run code", "Without a cell.", open_world=True),
    Operation(run.run_all_cells, "Run all", "Code cells from start on.", open_world=True),
    Operation(run.get_execution, "Get execution", "Wait for it, or page it (cursor=0).", read_only=True),
    Operation(run.send_input, "Send input", "Answer a cell's input().", open_world=True),
    Operation(kernels.interrupt_kernel, "Interrupt", "Stops the cell; keeps variables.", idempotent=True),
    Operation(kernels.restart_kernel, "Restart kernel", "Loses variables; names cells to rerun.", destructive=True),
    Operation(kernels.list_kernels, "Kernels", "Running, and kernelspecs.", read_only=True),
    Operation(kernels.start_kernel, "Start kernel", "By kernelspec or python path."),
    Operation(kernels.shutdown_kernel, "Shut down", "Loses variables.", destructive=True),
    Operation(variables.list_variables, "Variables", "Names, types, sizes.", read_only=True),
    Operation(variables.inspect_variable, "Inspect", "Shape, dtypes, head.", read_only=True),
    Operation(files.list_files, "Files", "In a folder.", read_only=True),
    Operation(history.undo, "Undo", "Your last edit, or what is named.", destructive=True),
)

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}


def _types_in_terminals(settings: Settings) -> bool:
    return settings.allow_terminal and has_terminals(settings)


_SOMEWHERE = (
    Operation(terminals.list_terminals, "Terminals", "Running.", read_only=True, is_offered=has_terminals),
    Operation(
        terminals.read_terminal, "Read terminal", "Its last lines, as text.", read_only=True, is_offered=has_terminals
    ),
    Operation(
        terminals.run_in_terminal,
        "Run in terminal",
        "Types a command; people see it.",
        destructive=True,
        open_world=True,
        is_offered=_types_in_terminals,
    ),
)
OF_SOME_PLACES: dict[str, Operation] = {operation.name: operation for operation in _SOMEWHERE}
"""Listed where they are offered."""


def offered(settings: Settings) -> list[Operation]:
    """Every operation that a place with these settings offers."""
    return [*_ALL, *(operation for operation in _SOMEWHERE if operation.is_offered(settings))]


ALIASES: dict[str, str] = {
    "execute_cell": "execute_cell_with_progress",
    "execute_cell_simple_timeout": "execute_cell_with_progress",
    "execute_cell_streaming": "execute_cell_with_progress",
    "run_cell": "execute_cell_with_progress",
    "execute_in_kernel": "execute_code",
    "execute_ipython": "execute_code",
    "run_code": "execute_code",
    "list_cells": "get_notebook_info",
    "get_notebook_outline": "get_notebook_info",
    "read_notebook": "read_all_cells",
    "get_cell": "read_cell",
    "add_cell": "insert_cell",
    "append_code_cell": "append_execute_code_cell",
    "add_markdown_cell": "append_markdown_cell",
    "modify_cell": "overwrite_cell_source",
    "clear_cell_output": "clear_outputs",
    "clear_all_outputs": "clear_outputs",
    "run_all": "run_all_cells",
    "restart_notebook": "restart_kernel",
    "interrupt": "interrupt_kernel",
    "stop_kernel": "shutdown_kernel",
    "list_kernelspecs": "list_kernels",
    "get_variables": "list_variables",
}
"""Names of other servers' tools. Accepted, not listed."""

ARGUMENT_ALIASES: dict[str, tuple[str, ...]] = {
    "index": ("cell_index",),
    "path": ("notebook_path",),
    "notebook": ("notebook_path",),
    "notebook_name": ("notebook_path",),
    "code": ("cell_source",),
    "source": ("cell_source", "code"),
    "content": ("cell_source",),
    "cell_content": ("cell_source",),
    "cell_source": ("code",),
    "timeout": ("timeout_seconds",),
    "max_wait_seconds": ("timeout_seconds",),
    "target_index": ("to_index",),
    "source_index": ("cell_index",),
    "start_index": ("start",),
    "variable_name": ("name",),
}
"""Names of other servers' arguments and ours for them, taken where the operation does not know the name itself."""

__all__ = [
    "ALIASES",
    "ARGUMENT_ALIASES",
    "OF_SOME_PLACES",
    "OPERATIONS",
    "Answer",
    "Answers",
    "Call",
    "Caller",
    "Link",
    "Operation",
    "Param",
    "Picture",
    "offered",
]
