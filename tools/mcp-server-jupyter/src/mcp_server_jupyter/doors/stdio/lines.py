"""JSON-RPC messages, one a line: what is one, and answers to what is none. The standard library only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..protocol import VERSION_KEY

PARSE_ERROR, INVALID_REQUEST, SERVER_ERROR = -32700, -32600, -32000
PRIVATE = b'{"jupyter":'
"""How a line between relay and server begins that is not the client's."""
_ANSWERED = re.compile(rb'\{"jsonrpc":"2\.0","id":(-?\d+|"(?:[^"\\]|\\.)*"),')


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a client. `key` is the id of a request as JSON, None for what wants no answer or is one."""

    text: bytes
    method: str | None
    key: str | None
    params: dict[str, Any]

    @property
    def is_modern(self) -> bool:
        """Whether it carries the envelope of the 2026-07-28 era."""
        meta = self.params.get("_meta")
        return isinstance(meta, dict) and VERSION_KEY in meta


class Malformed(Exception):
    """A line that is no message. `answer` is what its sender is told."""

    def __init__(self, code: int, text: str, key: str = "null") -> None:
        super().__init__(text)
        self.answer = error_line(key, code, text)


def parse(text: bytes) -> Line:
    """A client's line, checked as JSON-RPC 2.0 and no further.

    Raises:
        Malformed: it is no message.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed(PARSE_ERROR, "The line is not JSON in UTF-8, or nested too deep.") from None
    if not isinstance(message, dict):
        raise Malformed(INVALID_REQUEST, "A line is one JSON-RPC message: a JSON object.")
    identity, method, params = message.get("id"), message.get("method"), message.get("params")
    right = (isinstance(identity, int) and not isinstance(identity, bool)) or isinstance(identity, str)
    key = json.dumps(identity) if right else "null"
    if message.get("jsonrpc") != "2.0":
        raise Malformed(INVALID_REQUEST, 'A message has "jsonrpc": "2.0".', key)
    if "id" in message and not right:
        raise Malformed(INVALID_REQUEST, "The id of a request is a string or an integer.")
    if "method" not in message and right and ("result" in message or "error" in message):
        return Line(text, None, None, {})
    if not isinstance(method, str):
        raise Malformed(INVALID_REQUEST, "A message has a method, or is an answer.", key)
    if params is not None and not isinstance(params, dict):
        raise Malformed(INVALID_REQUEST, "The params of a message are an object.", key)
    return Line(text, method, key if right else None, params or {})


def answered(text: bytes) -> str | None:
    """The key of the request that a line of the server answers, None for a line that answers none."""
    found = _ANSWERED.match(text)
    if found is None:
        return None
    key = found[1]
    return json.dumps(json.loads(key)) if key.startswith(b'"') else key.decode()


def error_line(key: str, code: int, text: str) -> bytes:
    """A JSON-RPC error, for the request of this key."""
    error = json.dumps({"code": code, "message": text}, separators=(",", ":"))
    return f'{{"jsonrpc":"2.0","id":{key},"error":{error}}}'.encode()


def result_line(key: str, result: dict[str, Any]) -> bytes:
    """A JSON-RPC result."""
    return f'{{"jsonrpc":"2.0","id":{key},"result":{json.dumps(result, separators=(",", ":"))}}}'.encode()


def private_line(**facts: Any) -> bytes:
    """What relay and server tell each other beside the client's messages."""
    return PRIVATE + b"1," + json.dumps(facts, separators=(",", ":")).encode()[1:]
