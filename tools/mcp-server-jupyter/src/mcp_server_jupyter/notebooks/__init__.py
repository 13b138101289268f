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
    text_hash,
)
from .marks import outputs_mark
from .merge import align, merge
from .metadata import is_skipped, kernelspec_name, language, may_raise
from .nodes import diff, new_id, node, node_type, shallow
from .outline import CellLine, outline, output_kinds
from .shape import MAX_LEVELS, check_cell, check_levels, check_root, join_cell, settle, valid_id
from .size import exceeds

__all__ = [
    "CELL_TYPES",
    "MAX_LEVELS",
    "CellLine",
    "align",
    "check_cell",
    "check_hash",
    "check_levels",
    "check_root",
    "clear_outputs",
    "delete_cell",
    "diff",
    "edit_source",
    "exceeds",
    "find_cell",
    "insert_cell",
    "is_skipped",
    "join_cell",
    "kernelspec_name",
    "language",
    "may_raise",
    "merge",
    "move_cell",
    "new_cell",
    "new_id",
    "new_notebook",
    "node",
    "node_type",
    "outline",
    "output_kinds",
    "outputs_mark",
    "replace_source",
    "set_outputs",
    "settle",
    "shallow",
    "source_hash",
    "text_hash",
    "valid_id",
]
