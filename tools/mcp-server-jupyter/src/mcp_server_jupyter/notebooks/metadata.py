"""What the metadata of a notebook say, whatever stands in them: files of other programs keep no schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kernelspec_name(notebook: Mapping[str, Any]) -> str | None:
    """The kernelspec a notebook asks for; None where it names none."""
    return _text(notebook, "kernelspec", "name")


def language(notebook: Mapping[str, Any]) -> str | None:
    """The language of a notebook's code, as "python"; None where it is not said."""
    return _text(notebook, "kernelspec", "language") or _text(notebook, "language_info", "name")


def tags(cell: Mapping[str, Any]) -> frozenset[str]:
    """A cell's tags (nbformat 4, "Cell metadata")."""
    metadata = cell.get("metadata")
    found = metadata.get("tags") if isinstance(metadata, Mapping) else None
    return frozenset(tag for tag in found if isinstance(tag, str)) if isinstance(found, list) else frozenset()


def may_raise(cell: Mapping[str, Any]) -> bool:
    """Whether a run goes on after an exception of this cell (nbclient's tag `raises-exception`)."""
    return "raises-exception" in tags(cell)


def is_skipped(cell: Mapping[str, Any]) -> bool:
    """Whether a run leaves this cell out (nbclient's tag `skip-execution`)."""
    return "skip-execution" in tags(cell)


def _text(notebook: Mapping[str, Any], part: str, key: str) -> str | None:
    metadata = notebook.get("metadata")
    below = metadata.get(part) if isinstance(metadata, Mapping) else None
    value = below.get(key) if isinstance(below, Mapping) else None
    return value if isinstance(value, str) and value else None
