"""Values that a notebook gives back, as scrapbook writes them: MIME types that any reader of notebooks can find.

Source: scrapbook's models, "Scrap payloads". Runs in the kernel; imports what is there, and nothing of the server.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any


def show(name: str, value: Any) -> None:
    """Display a value as a scrap.

    Raises:
        TypeError: it is no DataFrame, no text, and JSON has no form for it.
    """
    from IPython.display import display  # noqa: PLC0415

    encoder, data = encoded(value)
    scrap = {"name": name, "data": data, "encoder": encoder, "version": 1}
    metadata = {"scrapbook": {"name": name, "data": True, "display": False}}
    display({f"application/scrapbook.scrap.{encoder}+json": scrap}, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


def encoded(value: Any) -> tuple[str, Any]:
    """The encoder's name, and what it makes of a value."""
    if isinstance(value, str):
        return "text", value
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "to_parquet"):
        return _frame(value)
    json.dumps(value)
    return "json", value


def _frame(value: Any) -> tuple[str, Any]:
    buffer = io.BytesIO()
    try:
        value.to_parquet(buffer)
    except (ImportError, ValueError, TypeError):
        # No engine for parquet here, or columns it cannot hold: JSON holds the same values.
        return "json", json.loads(value.to_json(orient="split", date_format="iso"))
    return "pandas", base64.b64encode(buffer.getvalue()).decode()
