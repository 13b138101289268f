"""Text on its way out: the protocol is UTF-8, but a cell, a file's name or a kernel's output may hold half a character.

A lone surrogate is shown as its escape (`\\ud83d`); the document keeps it.
"""

from __future__ import annotations

from typing import Any

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext


def printable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


async def escape_surrogates(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """The middleware: every answer, result or error, can be encoded."""
    try:
        result = await call_next(ctx)
    except MCPError as error:
        found = error.error
        raise MCPError(found.code, printable(found.message), _escaped(found.data)) from error
    escaped: HandlerResult = _escaped(result)
    return escaped


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value
