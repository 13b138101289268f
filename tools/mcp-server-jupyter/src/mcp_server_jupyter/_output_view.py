"""Pure: what an agent sees of a cell's outputs. Never more than its budget, never without the error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ._output_images import Image, NoImage, load_image, pick_image
from ._output_text import Where, clip, error_text, fit, output_text, rich_text, strip_ansi, text_of

_FRAME = re.compile(r"^(?:Cell In ?\[|Input In ?\[|File |  File \")")
_OWN_FRAME = re.compile(r"^(?:Cell In ?\[|Input In ?\[|  File \"<)")
_ARROW = re.compile(r"^-+> ?\d+")
_TRACEBACK_ROOM = 3_000
_LEAST = 160


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
    offset: int
    shown: str = ""
    cut: bool = False


def view(outputs: Sequence[Any], *, max_chars: int, max_images: int, max_image_bytes: int, handle: str) -> View:
    """What an agent sees of outputs.

    Control sequences are gone, progress bars are in their last state, repeats are folded. Over the budget each
    output keeps its head and its tail, and says how to read on from `handle`. Errors keep their name, message and
    last frames before anything else gets room.

    Args:
        outputs: nbformat 4 outputs; whatever is malformed in them is shown as well as can be.
        max_chars: most characters of `text`.
        max_images: most images; further ones are named in the text.
        max_image_bytes: most bytes of an image before base64; a larger one, or one over 1568 px, is scaled down.
        handle: what to read for the rest, as the reader calls it.
    """
    images: list[Image] = []
    blocks, cut = _blocks(outputs, images, max_images, max_image_bytes)
    blocks = [block for block in blocks if block.text.strip()]
    blocks, note = _few_enough(blocks, max_chars, handle)
    _share(blocks, max_chars - (len(note) + 1 if note else 0), handle)
    texts = [block.shown for block in blocks]
    if note:
        texts.insert(len(texts) // 2, note)
    text = "\n".join(part for part in texts if part)
    cut = cut or bool(note) or any(block.cut for block in blocks)
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    return View(text[: max(0, max_chars)], images, cut)


def _blocks(outputs: Sequence[Any], images: list[Image], max_images: int, max_bytes: int) -> tuple[list[_Block], bool]:
    blocks: list[_Block] = []
    cut = False
    streams: list[str] = []
    names: set[str] = set()
    offset, start, ended = 0, 0, True

    def flush() -> None:
        if streams:
            text = "".join(streams)
            blocks.append(_Block("stderr" if names == {"stderr"} else "stream", text, start))
            streams.clear()
            names.clear()

    for output in outputs:
        if not isinstance(output, Mapping):
            continue
        kind = output.get("output_type")
        plain = text_of(output.get("text")) if kind == "stream" else output_text(output)
        length = len(strip_ansi(plain))
        if length and not ended:
            offset += 1
            if kind == "stream" and streams:
                streams.append("\n")
        if kind == "stream":
            start = start if streams else offset
            streams.append(plain)
            names.add(text_of(output.get("name")))
        else:
            flush()
            block, left_out = _block(kind, output, plain, offset, images, max_images, max_bytes)
            blocks.append(block)
            cut = cut or left_out
        if length:
            offset += length
            ended = plain.endswith("\n")
    flush()
    return blocks, cut


def _block(
    kind: Any, output: Mapping[Any, Any], plain: str, offset: int, images: list[Image], max_images: int, max_bytes: int
) -> tuple[_Block, bool]:
    if kind == "error":
        return _Block("error", strip_ansi(error_text(output)), offset), False
    data = output.get("data")
    if not isinstance(data, Mapping):
        return _Block("rich", plain, offset), False
    mime = pick_image(data)
    if mime is None:
        text = rich_text(data)
        notes = [f"[{name}: not shown]" for name in data if text is None and isinstance(name, str)]
        return _Block("rich", "\n".join(notes) if text is None else text, offset), text is None
    if len(images) >= max_images:
        return _Block("rich", f"[{mime}: not shown, more than {max_images} images]", offset), True
    image = load_image(mime, data[mime], max_bytes=max_bytes)
    if isinstance(image, NoImage):
        text = rich_text(data)
        return _Block("rich", f"{text}\n{image.note}" if text else image.note, offset), True
    images.append(image)
    return _Block("rich", f"[image {len(images)}: {image.note}]", offset), False


# --------------------------------------------------------------------------- sharing the budget


def _few_enough(blocks: list[_Block], budget: int, handle: str) -> tuple[list[_Block], str]:
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
    note = f"… {len(blocks) - len(kept):,} outputs omitted; read {handle} with cursor {blocks[first_gap].offset} …"
    return kept, note if len(note) < budget // 2 else ""


def _share(blocks: list[_Block], budget: int, handle: str) -> None:
    """Errors first, then the others from the smallest need up, each getting at most an equal part of what is left."""
    budget -= max(0, len(blocks) - 1)
    errors = [block for block in blocks if block.kind == "error"]
    others = sorted((block for block in blocks if block.kind != "error"), key=lambda block: len(block.text))
    for left, block in zip(range(len(errors), 0, -1), reversed(errors), strict=True):
        room = max(0, budget) // left if left > 1 or not others else max(budget // 2, min(budget, _TRACEBACK_ROOM))
        block.shown = fit_error(block.text, min(room, _TRACEBACK_ROOM), Where(handle, block.offset))
        block.cut = len(block.shown) < len(block.text.rstrip())
        budget -= len(block.shown)
    for left, block in zip(range(len(others), 0, -1), others, strict=True):
        prefix = "[stderr]\n" if block.kind == "stderr" else ""
        room = max(0, budget) // left - len(prefix)
        if room <= 0:
            block.cut = True
            continue
        shown, block.cut = fit(block.text, room, Where(handle, block.offset))
        block.shown = prefix + shown if shown else ""
        budget -= len(block.shown)


# --------------------------------------------------------------------------- tracebacks


def fit_error(text: str, budget: int, where: Where) -> str:
    """A traceback within `budget` characters: the cell's own frames and the last ones, then fewer lines of each."""
    text = text.rstrip()
    if len(text) <= budget:
        return text
    before, frames, message = _frames(text)
    if not frames:
        return _with_message(before, message, budget, where)
    message = clip(message, max(budget // 2, budget - 400))
    for chosen, short in (
        (_useful(frames, 3), False),
        (_useful(frames, 3), True),
        (_useful(frames, 1), True),
        (frames[-1:], True),
    ):
        body = _joined(chosen, len(frames), short)
        candidate = f"{body}\n{message}"
        if len(candidate) <= budget:
            return candidate
    return clip(message, budget)


def _frames(text: str) -> tuple[str, list[str], str]:
    """What comes before the first frame, the frames, and the message (everything after the last frame's code)."""
    lines = text.split("\n")
    starts = [index for index, line in enumerate(lines) if _FRAME.match(line)]
    if not starts:
        return "\n".join(lines[:-1]), [], lines[-1]
    end = len(lines)
    blank = [index for index in range(starts[-1], len(lines)) if not lines[index].strip()]
    end = blank[0] if blank else len(lines) - 1
    bounds = [*starts, end]
    frames = ["\n".join(lines[a:b]).rstrip() for a, b in pairwise(bounds)]
    return "\n".join(lines[: starts[0]]), frames, "\n".join(lines[end:]).strip("\n")


def _useful(frames: list[str], last: int) -> list[str]:
    own = [index for index, frame in enumerate(frames) if _OWN_FRAME.match(frame)]
    keep = {*own[:1], *own[-last:], *range(max(0, len(frames) - last), len(frames))}
    return [frame for index, frame in enumerate(frames) if index in keep]


def _joined(frames: list[str], total: int, short: bool) -> str:
    parts = [_shortened(frame) if short else frame for frame in frames]
    if total > len(frames):
        parts.insert(1 if len(parts) > 1 else 0, f"… {total - len(frames)} frames omitted")
    return "\n".join(parts)


def _shortened(frame: str) -> str:
    lines = frame.split("\n")
    arrows = [line for line in lines[1:] if _ARROW.match(line)]
    return "\n".join(clip(line, 200) for line in [lines[0], *(arrows or lines[1:2])[:2]])


def _with_message(body: str, message: str, budget: int, where: Where) -> str:
    message = clip(message, budget if budget < 200 else max(budget // 2, budget - 400))
    room = budget - len(message) - 1
    shown, _ = fit(body, room, where) if room > 40 else ("", True)
    return f"{shown}\n{message}" if shown else message
