"""Notebooks of known shape, and the code that is run in them."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

LINES = 'for i in range(100_000): print("line", i)'

PICTURE = """
import random, struct, zlib
from IPython.display import Image, display

def chunk(tag, data):
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

noise, width = random.Random(1), 512
rows = b"".join(b"\\0" + noise.randbytes(width) for _ in range(200_000 // (width + 1)))
header = struct.pack(">IIBBBBB", width, 200_000 // (width + 1), 8, 0, 0, 0, 0)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
display(Image(data=png))
""".strip()

Json = dict[str, Any]


def small(cells: int = 10) -> Json:
    """Ten short cells with a line of output each."""
    return _notebook([_code(f"x{i} = {i}\nprint(x{i})", [_stream(f"{i}\n")], i) for i in range(cells)])


def large(cells: int = 500, bytes_per_cell: int = 10_000) -> Json:
    """500 cells with 10 kB of printed numbers each: about 5 MB."""
    noise = random.Random(7)
    line = 9 * 8
    return _notebook(
        [
            _code(
                f"frame{i} = load({i})\nprint(frame{i})",
                [_stream("".join(_numbers(noise) for _ in range(bytes_per_cell // line)))],
                i,
            )
            for i in range(cells)
        ]
    )


def realistic() -> Json:
    """50 cells as people write them: prose, logs, tables as text and HTML, pictures of 40 kB."""
    noise = random.Random(3)
    cells = []
    for i in range(50):
        match i % 10:
            case 0 | 4 | 7:
                cells.append(_markdown(f"## Section {i}\n\n" + "Some text that explains the next step. " * 7, i))
                continue
            case 9:
                data = {"image/png": base64.b64encode(noise.randbytes(40_000)).decode(), "text/plain": "<Figure>"}
                outputs: list[Json] = [{"output_type": "display_data", "metadata": {}, "data": data}]
            case 3 | 6:
                rows = [_numbers(noise) for _ in range(20)]
                data = {"text/plain": "".join(rows), "text/html": f"<table><tr><td>{'</td><td>'.join(rows)}</table>"}
                outputs = [{"output_type": "execute_result", "execution_count": i, "metadata": {}, "data": data}]
            case _:
                outputs = [_stream("".join(f"epoch {n} loss {noise.random():.5f}\n" for n in range(40)))]
        source = "\n".join(f"value_{k} = compute(step={k}, alpha=0.{k})  # tune this" for k in range(5))
        cells.append(_code(source, outputs, i))
    return _notebook(cells)


def write(path: Path, notebook: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return path


def _numbers(noise: random.Random) -> str:
    return " ".join(f"{noise.random():.6f}" for _ in range(8)) + "\n"


def _code(source: str, outputs: list[Json], number: int) -> Json:
    cell: Json = {"cell_type": "code", "id": f"code-{number}", "metadata": {}, "source": source}
    return {**cell, "outputs": outputs, "execution_count": number}


def _markdown(source: str, number: int) -> Json:
    return {"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": source}


def _stream(text: str) -> Json:
    return {"output_type": "stream", "name": "stdout", "text": text}


def _notebook(cells: list[Json]) -> Json:
    kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
