"""Handles: the URIs under which an answer says that there is more, and how to read one.

`notebook://{path}` is a notebook, with `?cell=` the outputs of one of its cells; `output://{execution}` is an
execution's output. Both go on with a cursor: `&cursor=` and `/{cursor}`. Paths and ids are percent-encoded (RFC 3986),
so every name a file can have makes a URI, and a URI one name.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from ..errors import InvalidRequest

NOTEBOOK = "notebook://"
OUTPUT = "output://"
# Names may hold what is no text (undecodable bytes of a file's name, lone surrogates): it survives the way and back.
_ERRORS = "surrogatepass"
_MAX_CURSOR_DIGITS = 18


@dataclass(frozen=True, slots=True)
class NotebookHandle:
    """A notebook (`cell` is None), or what a cell has put out, from a character on."""

    path: str
    cell: str | None = None
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class OutputHandle:
    """What an execution has put out, from a character on."""

    execution_id: str
    cursor: int = 0


def notebook_uri(path: str) -> str:
    return NOTEBOOK + quote_path(path)


def cell_uri(path: str, cell_id: str, cursor: int | None = None) -> str:
    page = "" if cursor is None else f"&cursor={cursor}"
    return f"{notebook_uri(path)}?cell={quote(cell_id, safe='', errors=_ERRORS)}{page}"


def output_uri(execution_id: str, cursor: int | None = None) -> str:
    page = "" if cursor is None else f"/{cursor}"
    return f"{OUTPUT}{quote(execution_id, safe='', errors=_ERRORS)}{page}"


def quote_path(path: str) -> str:
    """A path as it stands in a URI."""
    return quote(path, safe="/", errors=_ERRORS)


def parse_handle(uri: str) -> NotebookHandle | OutputHandle | None:
    """What a URI names; None for one of another scheme.

    Raises:
        InvalidRequest: it is one of ours and wrong.
    """
    try:
        if uri.startswith(NOTEBOOK):
            return _notebook(uri.removeprefix(NOTEBOOK))
        if uri.startswith(OUTPUT):
            return _output(uri.removeprefix(OUTPUT))
    except UnicodeError as error:
        raise InvalidRequest(
            "The URI's percent-encoding is not UTF-8.", hint="Use the handle as it was given."
        ) from error
    return None


def _notebook(rest: str) -> NotebookHandle:
    if "#" in rest:
        raise InvalidRequest("A notebook's URI has no fragment.", hint="Write # in a name as %23; a cell is ?cell=ID.")
    path, _, query = rest.partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True, errors=_ERRORS))
    if unknown := asked.keys() - {"cell", "cursor"}:
        raise InvalidRequest(f"A notebook's URI has no {min(unknown)!r}.", hint="It takes cell and cursor.")
    return NotebookHandle(unquote(path, errors=_ERRORS), asked.get("cell"), _cursor(asked.get("cursor", "0")))


def _output(rest: str) -> OutputHandle:
    execution_id, _, cursor = rest.partition("/")
    return OutputHandle(unquote(execution_id, errors=_ERRORS), _cursor(cursor or "0"))


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_CURSOR_DIGITS):
        raise InvalidRequest("A cursor is a number from 0 on.", hint="Use the one the last page named; 0 is the start.")
    return int(text)
