"""The magics themselves. Everything they do is a request of their own: nothing is kept between cells.

A cell blocks the kernel's loop, so there is none to wait in: the requests are plain blocking ones, which an interrupt
ends. What the server runs for them goes on then.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipykernel.connect import get_connection_file
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import display

from ..errors import JupyterMcpError
from .model import KEY, ask_model
from .phrases import EXAMPLES, understand
from .server import Answer, Server, find, folder_in

_USAGE = "%mcp tools | notebooks | call NAME [argument=value …]; %%mcp above a sentence."


@magics_class
class McpMagics(Magics):
    """`%mcp`, `%%mcp` and `%%tk`. Registered by `%load_ext mcp_server_jupyter`."""

    @no_var_expand
    @line_cell_magic
    def mcp(self, line: str, cell: str | None = None) -> None:
        """Ask the server that this kernel lives on.

        %mcp tools                                      what it can do
        %mcp notebooks                                  the notebooks it has
        %mcp call read_cell cell_index=0                one operation; this notebook, where none is named

        %%mcp
        List all notebooks in the current directory     a sentence: docs/magics.md has those that are known
        """
        with _told():
            if cell is not None:
                _answer(f"{line}\n{cell}")
            else:
                _command(line)

    @no_var_expand
    @line_cell_magic
    def tk(self, line: str, cell: str | None = None) -> None:
        """A sentence for the server that this kernel lives on; the same as %%mcp."""
        with _told():
            _answer(f"{line}\n{cell or ''}")


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is said in a line: a traceback through these modules helps nobody."""
    try:
        yield
    except JupyterMcpError as error:
        raise UsageError(f"{error.message}{f' {error.hint}' if error.hint else ''}") from None


def _server() -> Server:
    return find(Path(get_connection_file()), os.environ)


def _command(line: str) -> None:
    name, _, rest = line.strip().partition(" ")
    commands: dict[str, Callable[[], None]] = {
        "tools": _tools,
        "notebooks": lambda: _show(_server().call("list_notebooks", {})),
        "call": lambda: _call(rest),
    }
    if name not in commands:
        raise UsageError(_USAGE)
    commands[name]()


def _tools() -> None:
    for each in _server().operations():
        _say(f"{each['name']}({', '.join(each['inputSchema'].get('properties', ()))})\n    {each['description']}")


def _call(line: str) -> None:
    name, _, rest = line.strip().partition(" ")
    if not name:
        raise UsageError(_USAGE)
    server = _server()
    known: Mapping[str, Any] = next((each["inputSchema"] for each in server.operations() if each["name"] == name), {})
    _show(server.call(name, _arguments(rest, known.get("properties", {}))))


def _arguments(text: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`name=value …`, each value a text where one is wanted, else JSON; or all of them as one JSON object."""
    if text.strip().startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise UsageError(f"The arguments are no JSON: {error}.") from None
        return found
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"The arguments cannot be read: {error}.") from None
    if wrong := [word for word in words if "=" not in word]:
        raise UsageError(f"{wrong[0]!r} is no argument: write name=value, in quotes where it has spaces.")
    given = (word.partition("=") for word in words)
    return {name: _value(value, known.get(name, {}).get("type")) for name, _, value in given}


def _value(text: str, kind: str | None) -> Any:
    try:
        return text if kind == "string" else json.loads(text)
    except ValueError:
        return text


def _answer(text: str) -> None:
    if not text.strip():
        raise UsageError(_USAGE)
    if meant := understand(text):
        server = _server()
        arguments = {**meant.arguments, "path": folder_in(server.root)} if meant.is_here else meant.arguments
        _say(f"[a known phrase, no model: {meant.operation} {json.dumps(arguments, ensure_ascii=False)}]")
        _show(server.call(meant.operation, arguments))
    elif os.environ.get(KEY):
        ask_model(text.strip(), _server(), os.environ, _say)
    else:
        examples = "\n".join(f"  {example}" for example in EXAMPLES)
        raise UsageError(f"No phrase that is known here, and no model: {KEY} is not set. Known are:\n{examples}")


def _show(answer: Answer) -> None:
    _say(answer.text)
    for kind, data in answer.images:
        display({kind: data}, raw=True)  # type: ignore[no-untyped-call]


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - into the cell
