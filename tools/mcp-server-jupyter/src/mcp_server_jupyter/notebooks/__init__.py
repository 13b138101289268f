"""Pure functions on `NotebookNode`s. Imports errors only; anybody may import it."""

from .cells import (
    CELL_TYPES,
    check_hash,
    clear_outputs,
    delete_cell,
    edit_source,
    find_cell,
    insert_cell,
    move_cell,
    new_cell,
    new_notebook,
    replace_source,
    set_outputs,
    source_hash,
)
from .merge import align, merge
from .metadata import kernelspec_name, language
from .nodes import diff, new_id, node, node_type, shallow
from .outline import CellLine, outline, output_kinds

__all__ = [
    "CELL_TYPES",
    "CellLine",
    "align",
    "check_hash",
    "clear_outputs",
    "delete_cell",
    "diff",
    "edit_source",
    "find_cell",
    "insert_cell",
    "kernelspec_name",
    "language",
    "merge",
    "move_cell",
    "new_cell",
    "new_id",
    "new_notebook",
    "node",
    "node_type",
    "outline",
    "output_kinds",
    "replace_source",
    "set_outputs",
    "shallow",
    "source_hash",
]
