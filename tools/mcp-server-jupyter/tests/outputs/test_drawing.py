"""SVG is drawn where a library is there, in a process that ends in time, and never by reading anything else."""

from __future__ import annotations

import base64
import subprocess
from typing import Any

import pytest

from mcp_server_jupyter.outputs import drawing, images
from mcp_server_jupyter.outputs.images import Image, NoImage, dimensions, load_image, may_need_scaling, pictures

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
SQUARE = f'{HEAD} width="40" height="20"><rect id="r" width="40" height="20" fill="red"/><use xlink:href="#r"/></svg>'


def test_an_svg_is_shown_as_a_bitmap_of_its_size() -> None:
    [(mime, value)] = pictures({"image/svg+xml": [SQUARE[:50], SQUARE[50:]], "text/plain": "<SVG>"})
    assert may_need_scaling(mime, value, max_bytes=1_000_000)
    image = load_image(mime, value, max_bytes=1_000_000)
    assert isinstance(image, Image)
    assert (image.mime, dimensions(base64.b64decode(image.data_b64))) == ("image/png", (40, 20))
    assert image.note.startswith("image/svg+xml drawn as image/png, 40×20 px")


def test_a_bitmap_of_the_same_picture_comes_first() -> None:
    assert pictures({"image/svg+xml": SQUARE, "image/png": "aGk="}) == [("image/png", "aGk=")]


def test_without_the_library_an_svg_is_left_to_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "can_draw", lambda: False)
    assert pictures({"image/svg+xml": SQUARE}) == []


@pytest.mark.parametrize(
    "inside",
    [
        '<image href="/etc/hostname"/>',
        '<image xlink:href = "file:///etc/hostname"/>',
        '<image href="http://127.0.0.1/"/>',
        "<image href=/etc/hostname />",
        '<rect style="fill: url(other.svg#a)"/>',
        '<style>@import "other.css";</style>',
        "<rect/>not closed",
    ],
)
def test_what_is_broken_or_needs_something_else_is_not_drawn(inside: str) -> None:
    image = load_image("image/svg+xml", f"{HEAD}>{inside}</svg>".replace("<rect/>not", "<rect>not"), max_bytes=10**6)
    assert image == NoImage("[image/svg+xml that cannot be drawn]")


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(options["timeout"])
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    assert drawing.drawn(SQUARE) is None
    assert asked == [2 * drawing.SECONDS]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('width="72pt" height="36pt"', (96, 48)),
        ('viewBox="0 0 10 30"', (10, 30)),
        ('width="100" viewBox="0 0 10 30"', (100, 300)),
        ('height="60" viewBox="0,0,10,30"', (20, 60)),
        ('width="100%" viewBox="0 0 200 100"', (200, 100)),
        ('width="1e9" height="15680"', (1568, 784)),
        ('width="99999" height="1"', (1568, 1)),
        ('viewBox="0 0 0 0"', (300, 150)),
        ("", (300, 150)),
    ],
)
def test_the_size_is_what_the_picture_says_within_bounds(attributes: str, expected: tuple[int, int]) -> None:
    assert drawing.size(f"{HEAD} {attributes}></svg>") == expected
