"""Nodes of a notebook as values: made, copied with a change, compared."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode


def node_type() -> type[NotebookNode]:
    """The class NotebookNode."""
    from nbformat import NotebookNode  # noqa: PLC0415 - nbformat takes 60 ms to import

    return NotebookNode


def node(value: Mapping[str, Any]) -> NotebookNode:
    """A mapping, with all mappings below it, as NotebookNode."""
    return node_type()({key: _node_below(below) for key, below in value.items()})


def _node_below(value: Any) -> Any:
    if isinstance(value, Mapping):
        return node(value)
    return [_node_below(below) for below in value] if isinstance(value, list | tuple) else value


def shallow(value: Mapping[str, Any], **changed: Any) -> NotebookNode:
    """A new node with the same values, but for `changed`: how a cell is changed without touching it."""
    made = node_type()(value)
    for key, changed_value in changed.items():
        made[key] = changed_value
    return made


def new_id() -> str:
    """A cell id (nbformat 4.5: 1 to 64 characters of letters, digits, - and _)."""
    return uuid.uuid4().hex[:8]


def diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """A unified diff of two sources."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="")
    return "\n".join(lines)
