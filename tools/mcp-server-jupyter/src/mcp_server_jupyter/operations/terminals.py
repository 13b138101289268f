"""Operations on the terminals of a Jupyter."""

from __future__ import annotations

from typing import Annotated

import anyio

from ..errors import NotFound, Unsupported
from ..outputs import collapse_carriage_returns, strip_ansi
from ..terminals import Terminals
from .call import Answer, Call, Param

_QUIET_SECONDS, _LOOK_SECONDS = 0.6, 0.15
_LINES = 200


async def list_terminals(call: Call) -> Answer:
    """The terminals that run in this Jupyter, people's and agents'.

    Raises:
        Unsupported: it has none.
    """
    found = await _of(call).list()
    lines = [f"{each.name}  last used {each.last_activity or '?'}" for each in found]
    rows = [{"name": each.name, "last_activity": each.last_activity} for each in found]
    return Answer("\n".join(lines) or "No terminals.", {"terminals": rows})


async def read_terminal(call: Call, name: str, lines: Annotated[int, Param(ge=1, le=10_000)] = _LINES) -> Answer:
    """The last lines of a terminal, as text without control codes.

    Args:
        name: as list_terminals has it.
        lines: how many, counted from the end.

    Raises:
        NotFound: there is no such terminal.
        Unsupported: this Jupyter has none.
    """
    return await _shown(_of(call), name, lines)


async def run_in_terminal(
    call: Call, command: str, name: str = "", wait_seconds: Annotated[float, Param(ge=0, le=600)] = 10.0
) -> Answer:
    """Type a command into a terminal, and show its last lines once it is quiet or the wait is over.

    People see it there, too. A command that still runs is not stopped; read_terminal shows more later.

    Args:
        name: a terminal of list_terminals; absent, a new one.
        wait_seconds: at most.

    Raises:
        NotFound: there is no such terminal.
        Unsupported: this Jupyter has none, or nobody may type into them here.
    """
    terminals = _of(call)
    until = anyio.current_time() + wait_seconds
    if not name:
        name = (await terminals.create()).name
        # What is typed before the shell asks for it is shown twice.
        await _quiet(terminals, name, "", until)
    before = await terminals.read(name)
    await terminals.write(name, command.rstrip("\r\n") + "\r")
    await _quiet(terminals, name, before, until)
    return await _shown(terminals, name, _LINES)


async def _quiet(terminals: Terminals, name: str, before: str, until: float) -> None:
    """Wait until something was written, and then nothing for a moment; at most until a time of the event loop's."""
    last, since = before, anyio.current_time()
    while anyio.current_time() < until:
        await anyio.sleep(_LOOK_SECONDS)
        now = await terminals.read(name)
        if now != last:
            last, since = now, anyio.current_time()
        elif now != before and anyio.current_time() - since >= _QUIET_SECONDS:
            return


async def _shown(terminals: Terminals, name: str, lines: int) -> Answer:
    try:
        written = await terminals.read(name)
    except NotFound as error:
        error.hint = "list_terminals names those there are."
        raise
    shown = plain_lines(written)[-lines:]
    text = "\n".join(shown)
    return Answer(f"Terminal {name}:\n{text}" if text else f"Terminal {name} shows nothing yet.", {"terminal": name})


def plain_lines(written: str) -> list[str]:
    """What a terminal shows, line by line, without colours, titles and what was overwritten."""
    text = collapse_carriage_returns(strip_ansi(written).replace("\r\n", "\n"))
    kept: list[str] = []
    for character in text:
        if character == "\b":
            if kept and kept[-1] != "\n":
                kept.pop()
        elif character in "\n\t" or character.isprintable():
            kept.append(character)
    lines = [line.rstrip() for line in "".join(kept).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _of(call: Call) -> Terminals:
    terminals = call.services.terminals
    if terminals is None:
        raise Unsupported("There are no terminals here.", hint="Terminals are a Jupyter's: work in one.")
    return terminals
