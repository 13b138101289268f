"""What tells the outputs a cell shows from others, for little: public through `notebooks`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_END = 128


def outputs_mark(cell: Mapping[str, Any]) -> str:
    """10 hex digits of a cell's outputs and execution count.

    Of a long text only its length, its beginning and its end are looked at: it is asked for while a cell prints.
    """
    parts = [cell.get("execution_count"), [_mark(output) for output in cell.get("outputs") or ()]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _mark(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= 2 * _END else [len(value), value[:_END], value[-_END:]]
    if isinstance(value, Mapping):
        # A front end may write the keys an output does not need, or leave them out.
        return {str(key): _mark(item) for key, item in value.items() if key != "metadata" or item}
    if isinstance(value, list | tuple):
        return [len(value), *(_mark(item) for item in (*value[:_END], *value[_END:][-_END:]))]
    return value
