"""What a caller hears once, whichever operation it calls next: of a kernel that is gone or new, of its cells that
somebody else removed or changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import JupyterMcpError
from ..execution import outside
from .call import Answer, Call

if TYPE_CHECKING:
    from ..execution.session import News, Session
    from ..journal import EditHead, Journal

SHOWN = 20
CELLS = 5
FIRST_LINE = 40


async def add_notice(call: Call, answer: Answer) -> None:
    """Put it behind the answer's first line, where it is seen: once for each caller it concerns."""
    session, news = call.services.sessions.news(call.notebook, call.kernel_id)
    if session is not None:
        session.used_by(call.author)
        if session.chosen:
            _insert(answer, f"Its kernel runs on {session.chosen}.")
            session.chosen = ""
    if news is not None and news.tell(call.author):
        _insert(answer, _sentence(news, session, await _to_rerun(call, session)))
    if session is not None and session.ends_at is not None:
        left = max(0.0, session.ends_at - time.time())
        _insert(answer, f"The kernel is idle and will be shut down in {left:.0f} s, unless something runs in it.")
    if text := await from_outside(call):
        _insert(answer, text)
        answer.data["notice"] = text


async def from_outside(call: Call) -> str:
    """What a person or another program did to cells that the caller wrote, since its last call; "" where nothing.

    What cannot be found out now is told with a later call.
    """
    path, journal = call.notebook, call.services.journal
    if path is None:
        return ""
    try:
        await outside.look(call.services.contents, journal, path)
        done = journal.unheard(path, call.author)
        removed = {head.cell_id: head for head in done if head.kind == "delete"}
        changed = {head.cell_id: head for head in done if head.cell_id not in removed}
        said = [await _removed(journal, list(removed.values()))] if removed else []
    except JupyterMcpError:
        return ""
    if changed:
        said.append(f"changed {_cells([str(each) for each in changed])}: read before you edit")
    return f"Since your last call a person, or another program, {'; '.join(said)}." if said else ""


async def _removed(journal: Journal, heads: list[EditHead]) -> str:
    shown = []
    for head in heads[:CELLS]:
        before, _ = await journal.cells_of_edit(head.id)
        shown.append(f"{head.cell_id} ({_first_line(before)})")
    more = [str(head.cell_id) for head in heads[CELLS:]]
    handles = list(dict.fromkeys(f'undo(turn="{head.call}")' for head in reversed(heads)))[:CELLS]
    back = f"{' and '.join(handles)} brings {'it' if len(heads) == 1 else 'them'} back, if that is wanted"
    return f"removed {_cells([*shown, *more])}: {back}"


def _cells(ids: list[str]) -> str:
    more = f" and {len(ids) - CELLS} more" if len(ids) > CELLS else ""
    return f"{len(ids)} {'cell' if len(ids) == 1 else 'cells'} of yours, {', '.join(ids[:CELLS])}{more}"


def _first_line(cell: Mapping[str, Any] | None) -> str:
    first = str((cell or {}).get("source", "")).lstrip().partition("\n")[0]
    return first if len(first) <= FIRST_LINE else f"{first[: FIRST_LINE - 1]}…"


def _insert(answer: Answer, text: str) -> None:
    if text:
        first, line_break, rest = answer.text.partition("\n")
        answer.text = f"{first}\n! {text}{line_break}{rest}"


def heard(call: Call) -> None:
    """The caller has been told of the kernel's death by an error."""
    _, news = call.services.sessions.news(call.notebook, call.kernel_id)
    if news is not None:
        news.tell(call.author)


def _sentence(news: News, session: Session | None, cells: list[int]) -> str:
    shown = ", ".join(map(str, cells[:SHOWN])) + (", …" if len(cells) > SHOWN else "")
    if not news.cause:
        if session is None or not cells:
            return ""
        return f"A new {session.kernel.name} kernel was started: nothing of cells {shown} is in it until they run."
    if session is None:
        now = "The next run starts a new one."
    elif session.death is not None:
        now = "restart_kernel starts a new one."
    else:
        now = f"This is epoch {session.kernel.epoch}."
    rerun = f" Run again those of cells {shown} whose results you need." if cells else ""
    return f"The kernel of epoch {news.epoch} {news.cause}: its variables are gone. {now}{rerun}"


async def _to_rerun(call: Call, session: Session | None) -> list[int]:
    """Cells that show a result which the kernel of now does not hold; none if the notebook cannot be read."""
    if call.notebook is None:
        return []
    try:
        notebook = await call.services.contents.read(call.notebook)
        runs = call.services.journal.last_runs(call.notebook)
    except JupyterMcpError:
        return []
    held = None if session is None or session.death is not None else (session.id, session.kernel.epoch)
    cells = []
    for index, cell in enumerate(notebook.cells):
        run = runs.get(cell.get("id", ""))
        is_held = run is not None and (run.kernel_id, run.epoch) == held
        if cell.cell_type == "code" and cell.get("execution_count") is not None and not is_held:
            cells.append(index)
    return cells
