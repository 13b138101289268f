"""JSON in and out of the HTTP doors: strict in what is read, and never failing on what is written."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from starlette.responses import JSONResponse

MAX_DEPTH = 200


def read_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it, of bounded depth. Escapes of lone surrogates are kept.

    Raises:
        ValueError: it is not UTF-8 or not JSON (NaN is not), holds a number of thousands of digits or is too deep.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _parts(outer) if isinstance(inner, dict | list)]
        if not level:
            return value
    raise ValueError("nested too deep")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def write_json(value: Any) -> bytes:
    """UTF-8; a lone surrogate is escaped, a number JSON does not know is null, and any other object is its text."""
    try:
        return _text(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _text(value, ensure_ascii=True).encode()
    except ValueError:
        return _text(_finite(value), ensure_ascii=True).encode()


def _text(value: Any, *, ensure_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


class Json(JSONResponse):
    """A response of `write_json`."""

    def render(self, content: Any) -> bytes:
        return write_json(content)
