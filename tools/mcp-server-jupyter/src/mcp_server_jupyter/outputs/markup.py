"""Pure: the words of HTML and SVG, tables as aligned columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

MOST_CHARS = 500_000
_WIDEST = 60
_SILENT = frozenset({"script", "style", "head", "template", "title"})
_BREAKS = frozenset(
    ["p", "div", "li", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "pre", "br", "hr", "section", "tr"]
)
_SHOWN = {"img": ("image", "alt"), "iframe": ("frame", "src"), "video": ("video", "src"), "audio": ("audio", "src")}
_LONGEST_NAME = 200
_SHAPE = re.compile(r"[\d,]+ rows × [\d,]+ columns")
_FEWEST = 5
_GAP_ROOM = 30


def html_text(source: str) -> str:
    """What a page says: scripts and styles left out, one line a paragraph, tables with their columns aligned."""
    reader = _Reader()
    reader.feed(source[:MOST_CHARS])
    reader.close()
    return reader.text()


def fit_table(source: str, budget: int, more: str) -> str | None:
    """The first and the last rows of a page's one table that fit, under its head, with its shape, and `more`.

    Of a table that is too wide the columns between are left out. None where there is no such table, or no room.
    """
    if "<table" not in source or len(source) > MOST_CHARS:
        return None
    reader = _Reader()
    reader.feed(source)
    reader.close()
    said = [line for line in reader.text().splitlines() if _SHAPE.fullmatch(line.strip())]
    if len(reader.tables) != 1 or len(reader.tables[0].rows) < _FEWEST:
        return None
    table = reader.tables[0]
    heads = max(1, table.heads)
    shape = said[0] if said else f"{len(table.rows) - heads} rows × {len(table.rows[-1]) - table.index} columns"
    last = f"[{shape}; {more} shows all]"
    lines = aligned(_narrowed(table.rows, (budget - len(last)) // (heads + _FEWEST)))
    room = budget - len(last) - sum(len(line) + 1 for line in lines[:heads]) - _GAP_ROOM
    body = lines[heads:]
    count = min(len(body), max(0, room) // (1 + max(map(len, body), default=0)))
    if count < 2:
        return None
    rows = _ends(body, count)
    gap = [] if count == len(body) else [f"… {len(body) - count:,} rows …"]
    middle = (count + 1) // 2
    return "\n".join([*lines[:heads], *rows[:middle], *gap, *rows[middle:], last])


def _ends(lines: list[str], count: int) -> list[str]:
    """The first and the last lines, `count` in all."""
    return lines if count >= len(lines) else [*lines[: (count + 1) // 2], *lines[len(lines) - count // 2 :]]


def _narrowed(rows: list[list[str]], width: int) -> list[list[str]]:
    """Rows without the columns between for which there is no room."""
    columns = max(map(len, rows))
    widths = [max(min(_WIDEST, len(row[at])) if at < len(row) else 0 for row in rows) + 2 for at in range(columns)]
    if sum(widths) <= width:
        return rows
    left, right, used = 1, columns, widths[0] + 3
    while left < right:
        at = left if left <= columns - right + 1 else right - 1
        used += widths[at]
        if used > width and left > 1:
            break
        left, right = (left + 1, right) if at == left else (left, right - 1)
    return [[*row[:left], *(["…"] if left < right else []), *row[right:]] for row in rows]


@dataclass(slots=True)
class _Table:
    """A table's rows, how many of them are its head, and how many columns of a row name it."""

    rows: list[list[str]]
    heads: int
    index: int


class _Reader(HTMLParser):
    """Collects lines; the rows of a table are set out when it ends. A table in a cell is the cell's text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._words: list[str] = []
        self._rows: list[list[str]] = []
        self._cells: list[str] | None = None
        self._spans: list[int] = []
        self.tables: list[_Table] = []
        self._heads = self._index = 0
        self._in_head = False
        self._tables = 0
        self._silent = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag == "table":
            self._break()
            self._tables += 1
        elif tag == "tr" and self._tables == 1:
            self._end_row()
            self._cells, self._index = [], 0
        elif tag == "thead":
            self._in_head = True
        elif tag in ("td", "th") and self._tables == 1:
            self._end_cell()
            self._cells = [] if self._cells is None else self._cells
            self._index += tag == "th"
            self._spans.append(_span(dict(attrs).get("colspan")))
        elif tag in _BREAKS:
            self._break()
            self._pre += tag == "pre"
        elif tag in _SHOWN:
            kind, attribute = _SHOWN[tag]
            name = dict(attrs).get(attribute) or ""
            named = name and len(name) <= _LONGEST_NAME and not name.startswith("data:")
            self._words.append(f"[{kind}: {name}]" if named else f"[{kind}]")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "table" and self._tables:
            self._tables -= 1
            if not self._tables:
                self._end_row()
                self._lines += aligned(self._rows)
                self.tables.append(_Table(self._rows, self._heads, self._index))
                self._rows, self._heads = [], 0
        elif tag == "thead":
            self._end_row()
            self._in_head = False
        elif tag == "tr" and self._tables == 1:
            self._end_row()
        elif tag in ("td", "th") and self._tables == 1:
            self._end_cell()
        elif tag in _BREAKS:
            self._break()
            self._pre = max(0, self._pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._pre and not self._tables:
            *whole, rest = data.split("\n")
            for line in whole:
                self._lines.append("".join(self._words) + line)
                self._words = []
            self._words.append(rest)
        else:
            self._words.append(data)

    def text(self) -> str:
        """All lines; those that are blank are left out."""
        self._end_row()
        self._lines += aligned(self._rows)
        self._rows = []
        self._break()
        return "\n".join(line for line in self._lines if line.strip())

    def _break(self) -> None:
        if self._tables:
            self._words.append(" ")
        else:
            text = "".join(self._words)
            self._lines.append(text.rstrip() if self._pre else " ".join(text.split()))
            self._words = []

    def _end_cell(self) -> None:
        if not self._spans or self._cells is None:
            return
        self._cells.append(" ".join("".join(self._words).split()))
        self._cells += [""] * (self._spans.pop() - 1)
        self._words = []

    def _end_row(self) -> None:
        self._end_cell()
        outside = " ".join("".join(self._words).split())
        if self._tables and outside:
            # A caption.
            self._lines.append(outside)
            self._words = []
        if self._cells:
            self._rows.append(self._cells)
            self._heads += self._in_head
        self._cells = None


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines, its columns aligned as pandas prints them: to the right, the first to the left."""
    columns = max(map(len, rows), default=0)
    whole = [[_clipped(cell) for cell in row] + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[column]) for row in whole) for column in range(columns)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in whole
    ]


def _clipped(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else cell[: _WIDEST - 1] + "…"


def _span(value: str | None) -> int:
    return min(100, int(value)) if value is not None and value.isascii() and value.isdigit() and int(value) else 1
