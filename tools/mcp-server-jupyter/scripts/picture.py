"""A session as a picture: on the left what the client sent and was answered, on the right what the notebook shows.

Drawn from the exchange itself and from the executed file; only cut to fit.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, GAP, MARGIN = 1240, 24, 20
LINE, CHARACTER = 16.0, 7.23
LEFT_CHARACTERS, RIGHT_CHARACTERS = 84, 72
_STYLE = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #24292f; }
.call { fill: #0550ae; font-weight: 600; } .error { fill: #cf222e; } .faint { fill: #6e7781; }
.title { font: 600 14px system-ui, 'DejaVu Sans', sans-serif; } .heading { font: 700 14px system-ui, sans-serif; }
"""


@dataclass(frozen=True)
class Exchange:
    """One call and its answer, as text."""

    call: str
    answer: str
    pictures: int = 0


class _Panel:
    """Lines and pictures below each other."""

    def __init__(self, x: float, characters: int) -> None:
        self.x, self.characters, self.y = x, characters, 58.0
        self.width = characters * CHARACTER
        self.parts: list[str] = []

    def line(self, text: str, kind: str = "", indent: float = 0) -> None:
        shown = text if len(text) <= self.characters else text[: self.characters - 1] + "…"
        attribute = f' class="{kind}"' if kind else ""
        place = f'x="{self.x + indent:.0f}" y="{self.y:.0f}"'
        self.parts.append(f'<text {place} xml:space="preserve"{attribute}>{escape(shown)}</text>')
        self.y += LINE

    def picture(self, png: str, size: tuple[float, float]) -> None:
        width, height = size
        place = f'x="{self.x:.0f}" y="{self.y - 8:.0f}" width="{width:.0f}" height="{height:.0f}"'
        self.parts.append(f'<image {place} href="data:image/png;base64,{png}"/>')
        self.y += height + 10

    def box(self, top: float) -> None:
        """A frame around what was added since `top`."""
        place = f'x="{self.x - 8:.0f}" y="{top - 14:.0f}" width="{self.width + 14:.0f}" height="{self.y - top + 4:.0f}"'
        self.parts.append(f'<rect {place} rx="4" fill="none" stroke="#d0d7de"/>')


def draw(exchanges: Iterable[Exchange], cells: Iterable[dict[str, Any]]) -> str:
    """The picture as SVG."""
    left = _Panel(MARGIN + 8, LEFT_CHARACTERS)
    for exchange in exchanges:
        _exchange(left, exchange)
    right = _Panel(MARGIN + left.width + GAP + 24, RIGHT_CHARACTERS)
    for cell in cells:
        if right.y > left.y - 60:
            break
        _cell(right, cell)
    height = max(left.y, right.y) + MARGIN
    split = right.x - GAP
    titles = (
        f'<text class="title" x="{left.x:.0f}" y="30">What the agent sends and reads</text>'
        f'<text class="title" x="{right.x - 8:.0f}" y="30">The notebook you see</text>'
        f'<line x1="{split:.0f}" y1="14" x2="{split:.0f}" y2="{height - 14:.0f}" stroke="#d0d7de"/>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff" stroke="#d0d7de"/>'
        f"{titles}{''.join(left.parts)}{''.join(right.parts)}</svg>\n"
    )


def _exchange(panel: _Panel, exchange: Exchange) -> None:
    for number, line in enumerate(textwrap.wrap(exchange.call, panel.characters - 2)[:3]):
        panel.line(f"{'›' if not number else ' '} {line}", "call")
    lines = exchange.answer.splitlines()
    for line in lines[:7]:
        panel.line(f"  {line}", "error" if "Error" in line else "")
    if len(lines) > 7:
        panel.line(f"  … {len(lines) - 7} more lines", "faint")
    if exchange.pictures:
        panel.line(f"  [{exchange.pictures} picture(s)]", "faint")
    panel.y += LINE / 2


def _cell(panel: _Panel, cell: dict[str, Any]) -> None:
    top = panel.y
    source = "".join(cell["source"]).splitlines()
    if cell["cell_type"] == "markdown":
        panel.line(source[0].lstrip("# "), "heading")
        panel.y += LINE / 2
        return
    for line in source:
        panel.line(line)
    panel.box(top)
    panel.y += LINE / 3
    for output in cell["outputs"]:
        _output(panel, output)
    panel.y += LINE / 2


def _output(panel: _Panel, output: dict[str, Any]) -> None:
    data = output.get("data", {})
    if "image/png" in data:
        panel.picture("".join(data["image/png"]).replace("\n", ""), (330, 215))
        return
    text = "".join(data.get("text/plain", output.get("text", [])))
    for line in text.splitlines()[:7]:
        panel.line(line, "faint")
