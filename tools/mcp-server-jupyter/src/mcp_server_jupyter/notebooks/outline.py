"""Pure: one line a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .cells import source_hash

if TYPE_CHECKING:
    from nbformat import NotebookNode

_OUTLINE_CHARS = 80


@dataclass(frozen=True, slots=True)
class CellLine:
    """One cell in an outline. `first_line` has at most 80 characters; `lines` counts the source's."""

    index: int
    id: str
    cell_type: str
    execution_count: int | None
    first_line: str
    lines: int
    output_kinds: tuple[str, ...]
    hash: str


def outline(nb: NotebookNode) -> list[CellLine]:
    """One line for each cell."""
    return [
        CellLine(
            index=index,
            id=cell.id,
            cell_type=cell.cell_type,
            execution_count=cell.get("execution_count"),
            first_line=_first_line(cell.source),
            lines=len(cell.source.splitlines()),
            output_kinds=output_kinds(cell),
            hash=source_hash(cell),
        )
        for index, cell in enumerate(nb.cells)
    ]


def _first_line(source: str) -> str:
    text = source.lstrip()
    line = text[: text.find("\n")] if "\n" in text else text
    line = line.rstrip()
    return line if len(line) <= _OUTLINE_CHARS else line[: _OUTLINE_CHARS - 1] + "…"


_KINDS = (
    ("image/", "image"),
    ("text/html", "html"),
    ("text/markdown", "markdown"),
    ("text/latex", "latex"),
    ("application/vnd.jupyter.widget", "widget"),
    ("application/vnd.plotly", "plot"),
    ("application/vnd.vega", "plot"),
    ("application/javascript", "javascript"),
    ("application/json", "json"),
    ("text/", "text"),
)


def output_kinds(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Short names of what a cell put out, each once, in order: text, stream, image, html, error, ..."""
    outputs = cell.get("outputs")
    kinds = [_kind(output) for output in outputs if isinstance(output, Mapping)] if isinstance(outputs, list) else []
    return tuple(dict.fromkeys(kinds))


def _kind(output: Mapping[str, Any]) -> str:
    kind = output.get("output_type", "")
    if kind not in ("display_data", "execute_result"):
        return str(kind)
    data = output.get("data")
    return _kind_of_data(data) if isinstance(data, Mapping) else "empty"


def _kind_of_data(data: Mapping[str, Any]) -> str:
    for prefix, name in _KINDS:
        if any(mime.startswith(prefix) for mime in data):
            return name
    return next(iter(data), "empty")
