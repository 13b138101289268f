"""What a run gives back: the scraps its cells have glued, or what the cell tagged as the result shows.

Source: scrapbook's models, "Scrap payloads": `application/scrapbook.scrap.<encoder>+json`.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from ..notebooks.metadata import tags

if TYPE_CHECKING:
    from nbformat import NotebookNode

_PREFIX, _SUFFIX = "application/scrapbook.scrap.", "+json"


async def results_of(notebook: NotebookNode, tag: str, *, scraps: bool) -> tuple[dict[str, Any], list[str]]:
    """The results by name, and what could not be read."""
    if scraps:
        found, warnings = await anyio.to_thread.run_sync(_scraps, notebook)
        if found or warnings:
            return found, warnings
    return _tagged(notebook, tag), []


# ---------------------------------------------------------------------- scraps


def _scraps(notebook: NotebookNode) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    warnings: list[str] = []
    for encoder, payload in _payloads(notebook):
        name = payload.get("name") if isinstance(payload, Mapping) else None
        if not isinstance(name, str) or "data" not in payload:
            warnings.append(f"A scrap of encoder {encoder!r} has no name or no data.")
            continue
        try:
            found[name] = _decoded(encoder, payload["data"])
        except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
            warnings.append(f"The scrap {name!r} could not be read: {type(error).__name__}: {error}")
    return found, warnings


def _payloads(notebook: NotebookNode) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            for mime, payload in (output.get("data") or {}).items():
                if mime.startswith(_PREFIX) and mime.endswith(_SUFFIX):
                    yield mime[len(_PREFIX) : -len(_SUFFIX)], payload


def _decoded(encoder: str, data: Any) -> Any:
    if encoder == "json":
        return json.loads(data) if isinstance(data, str) else data
    if encoder == "text":
        return str(data)
    if encoder == "pandas":
        return _frame(data)
    raise ValueError(f"no encoder {encoder!r} is known")


def _frame(data: Any) -> dict[str, Any]:
    # Only who gets frames pays for pandas, which need not be here at all.
    import pandas  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    split = json.loads(pandas.read_parquet(io.BytesIO(raw)).to_json(orient="split", date_format="iso"))
    return {name: split[name] for name in ("columns", "index", "data")}


# ---------------------------------------------------------------------- a tagged cell


def _tagged(notebook: NotebookNode, tag: str) -> dict[str, Any]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and tag in tags(cell)]
    if not cells:
        return {}
    shown, value = _shown(cells[-1].get("outputs", []))
    if not shown:
        return {}
    return dict(value) if isinstance(value, dict) else {"result": value}


def _shown(outputs: Sequence[Mapping[str, Any]]) -> tuple[bool, Any]:
    bundles = [output.get("data") or {} for output in outputs if output["output_type"] != "stream"]
    for bundle in reversed(bundles):
        if "application/json" in bundle:
            return True, bundle["application/json"]
    for bundle in reversed(bundles):
        if "text/plain" in bundle:
            return True, _literal(bundle["text/plain"])
    printed = "".join(
        output["text"] for output in outputs if output["output_type"] == "stream" and output.get("name") != "stderr"
    ).strip()
    return bool(printed), _value(printed)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _literal(text)


def _literal(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
        # What JSON has no form for (a set, bytes, a complex number) stays text.
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value
