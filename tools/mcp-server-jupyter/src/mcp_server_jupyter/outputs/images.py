"""Images of outputs, made fit for a model to look at."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .drawing import SVG, can_draw, drawn

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# In order of preference; models are sure to take PNG and JPEG, the others are converted where Pillow is installed.
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
LONGEST_SIDE = 1568
_MOST_PIXELS = 64_000_000
_MOST_BASE64 = 128 * 2**20
# On one line, or in lines as MIME (RFC 2045, 6.8) has them.
_DATA_URI = re.compile(
    r"data:(image/[\w.+-]+);base64,(?=[A-Za-z0-9+/]{64})((?:[A-Za-z0-9+/]{76}\n)*[A-Za-z0-9+/]+={0,2}\n?)"
)
_LEAST_EMBEDDED = 400
_MOST_EMBEDDED = 20


@dataclass(frozen=True, slots=True)
class Image:
    """An image for an answer: base64 without newlines, its MIME type, and a note for people and models."""

    data_b64: str
    mime: str
    note: str


@dataclass(frozen=True, slots=True)
class NoImage:
    """Why an image is not shown, as one line."""

    note: str


def pick_image(data: Mapping[Any, Any]) -> str | None:
    """The MIME type of the best bitmap of a bundle."""
    return next((mime for mime in IMAGE_TYPES if data.get(mime)), None)


def pictures(data: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The pictures of a bundle, as MIME type and base64: its best bitmap, or else those its Markdown or HTML embeds.

    SVG, where it can be drawn, is its text.

    Of embedded ones icons are left out, and of very many the later ones.
    """
    mime = pick_image(data)
    if mime is not None:
        return [(mime, data[mime])]
    if data.get(SVG) and can_draw():
        return [(SVG, data[SVG])]
    for kind in ("text/markdown", "text/html"):
        text = data.get(kind)
        text = "".join(map(str, text)) if isinstance(text, list) else text
        if isinstance(text, str) and "data:image/" in text:
            found = [(mime, value) for mime, value in _DATA_URI.findall(text) if mime in IMAGE_TYPES]
            return [each for each in found if len(each[1]) >= _LEAST_EMBEDDED][:_MOST_EMBEDDED]
    return []


def without_data_uris(text: str) -> str:
    """Images that stand in a text as data URIs are named in their place."""
    if "data:image/" not in text:
        return text
    return _DATA_URI.sub(lambda found: f"[{found[1]}, {_bytes(len(found[2]) * 3 // 4)}]", text)


def load_image(mime: str, value: Any, *, max_bytes: int) -> Image | NoImage:
    """Check an image and, where it is over `max_bytes` or 1568 px on its longer side, scale it down with Pillow.

    SVG is drawn first, which takes a process of its own.
    """
    drawing = mime == SVG
    raw = drawn("".join(map(str, value)) if isinstance(value, list) else str(value)) if drawing else _decode(value)
    if raw is None:
        return NoImage(f"[{mime} that cannot be {'drawn' if drawing else 'decoded'}]")
    size = dimensions(raw)
    shown = f"{mime} drawn as image/png" if drawing else mime
    mime = "image/png" if drawing else mime
    what = f"{shown}, {size[0]}×{size[1]} px, {_bytes(len(raw))}" if size else f"{shown}, {_bytes(len(raw))}"
    plain = (mime == "image/png" and raw[:8] == b"\x89PNG\r\n\x1a\n") or (
        mime == "image/jpeg" and raw[:2] == b"\xff\xd8"
    )
    if plain and size and len(raw) <= max_bytes and max(size) <= LONGEST_SIDE:
        return Image(base64.b64encode(raw).decode(), mime, what)
    return _scaled(raw, what, max_bytes)


def may_need_scaling(mime: str, value: Any, *, max_bytes: int) -> bool:
    """True when `load_image` would have to decode pixels; told from its header and its length."""
    if mime == SVG:
        return True
    if isinstance(value, list):
        value = "".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str) or len(value) > max_bytes:
        return True
    raw = _decode(value)
    size = dimensions(raw) if raw else None
    return mime not in ("image/png", "image/jpeg") or (size is not None and max(size) > LONGEST_SIDE)


def dimensions(raw: bytes) -> tuple[int, int] | None:
    """Width and height in px of PNG or JPEG bytes (PNG specification 11.2.2; JPEG: ITU-T T.81 B.2.2)."""
    if raw[:8] == b"\x89PNG\r\n\x1a\n" and len(raw) >= 24:
        width, height = struct.unpack(">II", raw[16:24])
        return (width, height) if width and height else None
    if raw[:2] == b"\xff\xd8":
        return _jpeg_dimensions(raw)
    return None


def _jpeg_dimensions(raw: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(raw):
        if raw[place] != 0xFF:
            return None
        marker = raw[place + 1]
        if marker == 0xFF:
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", raw[place + 5 : place + 9])
            return (width, height) if width and height else None
        else:
            place += 2 + int(struct.unpack(">H", raw[place + 2 : place + 4])[0])
    return None


def _decode(value: Any) -> bytes | None:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "".join(value)
    if not isinstance(value, str) or len(value) > _MOST_BASE64:
        return None
    try:
        return base64.b64decode("".join(value.split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _bytes(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def _scaled(raw: bytes, what: str, max_bytes: int) -> Image | NoImage:
    try:
        # Pillow is an extra, and costs more than most servers ever use it.
        import PIL.Image  # noqa: PLC0415
    except ImportError:
        return NoImage(f"[{what}: not shown; install the extra `images` to have it scaled or converted]")
    try:
        with PIL.Image.open(io.BytesIO(raw)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return NoImage(f"[{what}: not shown; it has too many pixels]")
            result = _encode_within(opened, max_bytes)
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        EOFError,
        struct.error,
        zlib.error,
        PIL.Image.DecompressionBombError,
    ):
        return NoImage(f"[{what} that cannot be decoded]")
    except PIL.Image.DecompressionBombWarning:
        return NoImage(f"[{what}: not shown; it has too many pixels]")
    if result is None:
        return NoImage(f"[{what}: not shown; it does not fit {_bytes(max_bytes)}]")
    encoded, mime, width, height = result
    return Image(base64.b64encode(encoded).decode(), mime, f"{what}; shown as {mime}, {width}×{height} px")


def _encode_within(opened: PillowImage, max_bytes: int) -> tuple[bytes, str, int, int] | None:
    picture = opened.convert("RGBA" if opened.mode in ("RGBA", "LA", "PA", "P") else "RGB")
    side = min(LONGEST_SIDE, max(picture.size))
    while True:
        picture.thumbnail((side, side))
        for mime in ("image/jpeg",) if opened.format == "JPEG" else ("image/png", "image/jpeg"):
            encoded = _encode(picture, mime)
            if len(encoded) <= max_bytes:
                return encoded, mime, picture.width, picture.height
        side = int(max(picture.size) * 0.7)
        if side < 64:
            return None


def _encode(picture: PillowImage, mime: str) -> bytes:
    out = io.BytesIO()
    if mime == "image/png":
        picture.save(out, "PNG", compress_level=3)
        return out.getvalue()
    if picture.mode == "RGBA":
        flat = picture.convert("RGB")
        flat.paste((255, 255, 255), (0, 0, *picture.size))
        flat.paste(picture, mask=picture.getchannel("A"))
        picture = flat
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
