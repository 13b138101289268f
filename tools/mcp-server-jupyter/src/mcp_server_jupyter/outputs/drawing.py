"""SVG pictures as bitmaps, where a library for that is there (the extra `images`).

Drawn in a process of their own: what a notebook holds may take any time and memory to draw, and the library lets nobody
else work meanwhile.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

SVG = "image/svg+xml"
SECONDS = 10
_MOST_CHARACTERS = 4_000_000
_MOST_BYTES = 2 * 2**30
_LONGEST_SIDE = 1568
# What would be fetched or read from the disk to draw it.
_OUTSIDE = re.compile(
    r"""(?:href|src)\s*=\s*(?:["']\s*)?(?!["'\s#]|data:)|url\(\s*(?:["']\s*)?(?!["'\s#]|data:)|@import|<!ENTITY""", re.I
)
_ROOT = re.compile(r"<svg\b[^>]*>", re.I)
_SIZE = re.compile(r"""\s(width|height)\s*=\s*["']\s*([\d.]+)\s*(px|pt|in|cm|mm)?\s*["']""")
_VIEW_BOX = re.compile(r"""\sviewBox\s*=\s*["']\s*[-+\d.e]+[\s,]+[-+\d.e]+[\s,]+([\d.e]+)[\s,]+([\d.e]+)\s*["']""")
# CSS Values and Units 3, "Absolute Lengths".
_PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
_DRAW = """
import resource, sys
import resvg_py
seconds, most = int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (most, most))
svg = sys.stdin.buffer.read().decode()
png = resvg_py.svg_to_bytes(svg_string=svg, width=int(sys.argv[1]), height=int(sys.argv[2]), background="#ffffff")
sys.stdout.buffer.write(bytes(png))
"""


def can_draw() -> bool:
    """Whether there is a library for it."""
    return sys.platform != "win32" and importlib.util.find_spec("resvg_py") is not None


def drawn(svg: str) -> bytes | None:
    """A PNG of it, on white, at most 1568 px on its longer side; None where it cannot be had. Blocking, for threads.

    What would need files or the network, or takes more than ten seconds, is not drawn.
    """
    if len(svg) > _MOST_CHARACTERS or _OUTSIDE.search(svg):
        return None
    width, height = size(svg)
    limits = (str(SECONDS), str(_MOST_BYTES))
    command = [sys.executable, "-I", "-c", _DRAW, str(width), str(height), *limits]
    try:
        done = subprocess.run(
            command, input=svg.encode(errors="replace"), capture_output=True, timeout=2 * SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout[:8] == b"\x89PNG\r\n\x1a\n" else None


def size(svg: str) -> tuple[int, int]:
    """Width and height in px to draw it at: as it says, else by its view box, else 300 × 150 (CSS 2.1, 10.3.2)."""
    root = _ROOT.search(svg)
    text = root[0] if root else ""
    box = _VIEW_BOX.search(text)
    wide, high = (_number(box[1], 300.0), _number(box[2], 150.0)) if box else (300.0, 150.0)
    said = {name: _number(number, 0.0) * _PIXELS[unit or ""] for name, number, unit in _SIZE.findall(text)}
    width = said.get("width") or said.get("height", 0.0) * wide / high or wide
    height = said.get("height") or width * high / wide
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _number(text: str, otherwise: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if 0 < number < 1e9 else otherwise
