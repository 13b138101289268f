"""The JSON object a request carries."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from ...errors import InvalidRequest
from .json_text import read_json
from .security import read_body


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The object; an empty body is an empty one.

    Raises:
        InvalidRequest: it is no JSON object.
        TooLarge: it is over `limit` bytes.
    """
    body = await read_body(request.receive, limit)
    try:
        value = read_json(body or b"{}")
    except ValueError as error:
        raise InvalidRequest("The body is not JSON, or nested too deep.", hint="Send a JSON object.") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The body is not a JSON object.", hint="Send the arguments by name.")
    return value
