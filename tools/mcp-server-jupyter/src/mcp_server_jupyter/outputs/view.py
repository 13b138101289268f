"""Pure: what an agent sees of a cell's outputs. Never more than its budget, never without the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from .images import Image, NoImage, load_image, may_need_scaling, pick_image, pictures, without_data_uris
from .markup import fit_table
from .text import Where, error_text, fit, output_text, rich_text, slice_text, strip_ansi, text_of
from .traceback import fit_error

_TRACEBACK_ROOM = 2_500
_LEAST = 160
_LONG = 10_000_000
_MANY = 20_000
_MUCH_HTML = 50_000
MOST_BASE64 = 2_000_000
"""Characters of all images of one answer together."""


@dataclass(frozen=True, slots=True)
class View:
    """Text and images of some outputs within a budget; `truncated` when anything was left out."""

    text: str
    images: list[Image] = field(default_factory=list)
    truncated: bool = False


@dataclass(slots=True)
class _Block:
    """Neighbouring outputs that are shown as one text."""

    kind: str
    text: str
    index: int
    table: str = ""
    """HTML of a table that says the same."""
    shown: str = ""
    cut: bool = False

    def fit(self, room: int, where: Where) -> None:
        """Show as much of it as there is room for."""
        rows = None
        if self.table and len(self.text) > room:
            rows = fit_table(self.table, room, where.call(where.offset()))
        self.shown, self.cut = fit(self.text, room, where) if rows is None else (rows, True)


@dataclass(slots=True)
class _Album:
    """The images of a view, numbered over the whole answer, and what keeps further ones out."""

    most: int
    max_bytes: int
    numbered: int
    room: int
    images: list[Image] = field(default_factory=list)

    def add(self, mime: str, value: Any, call: Callable[[], str]) -> tuple[str, Literal["in", "out", "no image"]]:
        """The line that stands for an image, and whether that is in the album, left out of it, or cannot be shown."""
        if len(self.images) >= self.most:
            return f"[{mime}: not shown; {call()} shows it]", "out"
        image = load_image(mime, value, max_bytes=self.max_bytes)
        if isinstance(image, NoImage):
            return image.note, "no image"
        if len(image.data_b64) > self.room:
            return f"[{mime}: not shown; {call()} shows it]", "out"
        self.room -= len(image.data_b64)
        self.images.append(image)
        return f"[image {self.numbered + len(self.images)}: {image.note}]", "in"


def view(
    outputs: Sequence[Any],
    *,
    max_chars: int,
    max_images: int,
    max_image_bytes: int,
    more: Callable[[int], str],
    numbered: int = 0,
    max_base64: int = MOST_BASE64,
) -> View:
    """What an agent sees of outputs.

    Control sequences are gone, progress bars are in their last state, repeats are folded. Over the budget each
    output keeps its head and its tail, and says how to read on. Errors keep their name, message and
    last frames before anything else gets room.

    Args:
        outputs: nbformat 4 outputs; whatever is malformed in them is shown as well as can be.
        max_chars: most characters of `text`.
        max_images: most images; further ones are named in the text.
        max_image_bytes: most bytes of an image before base64; a larger one, or one over 1568 px, is scaled down.
        more: the call that shows text and images from an offset of `plain_text` on, as the reader writes it.
        numbered: how many images of the answer come before these.
        max_base64: most characters of all images together.
    """
    album = _Album(max_images, max_image_bytes, numbered, max_base64)
    offsets = _Offsets(outputs, more)
    blocks, cut = _blocks(outputs, album, offsets)
    blocks = [block for block in blocks if block.text and not block.text.isspace()]
    blocks, note = _few_enough(blocks, max_chars, offsets)
    _share(blocks, max_chars - (len(note) + 1 if note else 0), offsets)
    texts = [block.shown for block in blocks]
    if note:
        texts.insert(len(texts) // 2, note)
    text = "\n".join(part for part in texts if part)
    cut = cut or bool(note) or any(block.cut for block in blocks)
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    return View(text[: max(0, max_chars)], album.images, cut)


def page(
    outputs: Sequence[Any], cursor: int, *, max_chars: int, max_images: int, max_image_bytes: int
) -> tuple[str, list[Image], int | None]:
    """A page of `plain_text` with the images that stand on it, and the next page's cursor or None at the end.

    It ends with a line, unless that is a very long one, and before an image that it has no room for.
    """
    text, following = slice_text(outputs, cursor, max_chars)
    if following is not None and (end := text.rfind("\n", len(text) // 2) + 1):
        text, following = text[:end], cursor + end
    starts = _Offsets(outputs, str)
    album = _Album(max_images, max_image_bytes, 0, MOST_BASE64)
    for index, output in enumerate(outputs):
        data = output.get("data") if isinstance(output, Mapping) else None
        found = pictures(data) if isinstance(data, Mapping) else []
        if not found or (place := starts.where(index).offset()) < cursor:
            continue
        if place >= cursor + len(text):
            break
        for at, (mime, value) in enumerate(found):
            _, state = album.add(mime, value, str)
            if state == "out" and album.images and place > cursor and not at:
                return text[: place - cursor], album.images, place
    return text, album.images, following


def is_heavy(outputs: Sequence[Any], *, max_image_bytes: int) -> bool:
    """True when `view` may take longer than an event loop should be held up: call it in a thread then."""
    size = 0
    for output in outputs:
        if isinstance(output, Mapping):
            data = output.get("data")
            bundle: Mapping[Any, Any] = data if isinstance(data, Mapping) else {}
            if any(may_need_scaling(mime, value, max_bytes=max_image_bytes) for mime, value in pictures(bundle)):
                return True
            if len(text_of(bundle.get("text/html"))) > _MUCH_HTML:
                return True
            text = output.get("text")
            size += len(text) if isinstance(text, str) else 0
    return size > _LONG or len(outputs) > _MANY


class _Offsets:
    """Where each output begins in the plain text; counted only as far as somebody asks."""

    def __init__(self, outputs: Sequence[Any], call: Callable[[int], str]) -> None:
        self._outputs = outputs
        self._call = call
        self._starts = [0]
        self._ended = True

    def where(self, index: int) -> Where:
        return Where(self._call, lambda: self._start(index))

    def _start(self, index: int) -> int:
        for output in self._outputs[len(self._starts) - 1 : index]:
            text = output_text(output)
            self._starts.append(self._starts[-1] + len(text) + (1 if text and not self._ended else 0))
            self._ended = text.endswith("\n") if text else self._ended
        return self._starts[index] + (0 if self._ended or index + 1 < len(self._starts) else 1)


def _blocks(outputs: Sequence[Any], album: _Album, offsets: _Offsets) -> tuple[list[_Block], bool]:
    blocks: list[_Block] = []
    cut = False
    for is_stream, group in groupby(enumerate(outputs), lambda each: _kind(each[1]) == "stream"):
        if is_stream:
            blocks.append(_stream_block(list(group)))
            continue
        for index, output in group:
            if isinstance(output, Mapping):
                block, left_out = _block(index, output, album, offsets)
                blocks.append(block)
                cut = cut or left_out
    return blocks, cut


def _kind(output: Any) -> Any:
    return output.get("output_type") if isinstance(output, Mapping) else None


def _stream_block(streams: list[tuple[int, Any]]) -> _Block:
    parts: list[str] = []
    for _, stream in streams:
        text = text_of(stream.get("text"))
        if parts and text and not parts[-1].endswith(("\n", "\r")):
            parts.append("\n")
        if text:
            parts.append(text)
    errors_only = all(text_of(stream.get("name")) == "stderr" for _, stream in streams)
    return _Block("stderr" if errors_only else "stream", without_data_uris("".join(parts)), streams[0][0])


def _block(index: int, output: Mapping[Any, Any], album: _Album, offsets: _Offsets) -> tuple[_Block, bool]:
    if _kind(output) == "error":
        return _Block("error", strip_ansi(error_text(output)), index), False
    data = output.get("data")
    if not isinstance(data, Mapping):
        return _Block("rich", "", index), False
    where = offsets.where(index)
    found = [album.add(mime, value, lambda: where.call(where.offset())) for mime, value in pictures(data)]
    lines = [line for line, _ in found]
    states = {state for _, state in found}
    text = rich_text(data) if pick_image(data) is None or "no image" in states else None
    if text is not None:
        lines.insert(0, text)
    elif not lines:
        return _Block("rich", "\n".join(f"[{name}: not shown]" for name in data if isinstance(name, str)), index), True
    table = text_of(data.get("text/html")) if text is not None and not found else ""
    return _Block("rich", "\n".join(lines), index, table), bool(states - {"in"})


# --------------------------------------------------------------------------- sharing the budget


def _few_enough(blocks: list[_Block], budget: int, offsets: _Offsets) -> tuple[list[_Block], str]:
    """When there are more outputs than room for a line each, the first and the last ones, and every error that fits."""
    most = max(2, budget // _LEAST)
    if len(blocks) <= most:
        return blocks, ""
    if sum(len(block.text) + 1 for block in blocks) <= budget:
        return blocks, ""
    errors = [index for index, block in enumerate(blocks) if block.kind == "error"][-most:]
    rest = max(0, most - len(errors))
    keep = {*errors, *range(rest // 2), *range(len(blocks) - (rest - rest // 2), len(blocks))}
    kept = [block for index, block in enumerate(blocks) if index in keep]
    first_gap = next(index for index in range(len(blocks)) if index not in keep)
    where = offsets.where(blocks[first_gap].index)
    note = f"… {len(blocks) - len(kept):,} outputs omitted; {where.call(where.offset())} …"
    return kept, note if len(note) < budget // 2 else ""


def _share(blocks: list[_Block], budget: int, offsets: _Offsets) -> None:
    """Errors first, then the others from the smallest need up, each getting at most an equal part of what is left."""
    budget -= max(0, len(blocks) - 1)
    errors = [block for block in blocks if block.kind == "error"]
    others = sorted((block for block in blocks if block.kind != "error"), key=lambda block: len(block.text))
    for left, block in zip(range(len(errors), 0, -1), reversed(errors), strict=True):
        room = max(0, budget) // left if left > 1 or not others else max(budget // 2, min(budget, _TRACEBACK_ROOM))
        block.shown, block.cut = fit_error(block.text, min(room, _TRACEBACK_ROOM), offsets.where(block.index))
        budget -= len(block.shown)
    for left, block in zip(range(len(others), 0, -1), others, strict=True):
        prefix = "[stderr]\n" if block.kind == "stderr" else ""
        room = max(0, budget) // left - len(prefix)
        if room <= 0:
            block.cut = True
            continue
        block.fit(room, offsets.where(block.index))
        block.shown = prefix + block.shown if block.shown else ""
        budget -= len(block.shown)
