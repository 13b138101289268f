"""Undo: an author's edits alone, everybody else's kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import anyio.lowlevel

from ..errors import InvalidRequest
from ..journal import CALL, REDO, UNDO, EditHead, EditKind, EditRow, new_turn
from ..notebooks import output_kinds
from ..notebooks.undoing import Change, Changed, Undoing
from .call import Answer, Call
from .permit import editing

NAMED = 10
"""How many edits an answer names; the others are counted."""

FIRST_LINE = 60
"""Characters of a removed cell's first line that are told."""

SLICE_SECONDS = 0.01
"""How long an undo works before others have their turn."""


async def undo(
    call: Call,
    notebook_path: str = "",
    author: str = "",
    execution_id: str = "",
    turn: str = "",
    scope: Literal["edit", "turn"] = "edit",
) -> Answer:
    """Take back your last edit, or what is named; others' edits stay.

    Without arguments it is the last edit that you made since the server started. A cell that somebody changed since is
    left alone and named. An undo is undone by its own handle.

    Args:
        author: whose last edit: a client's name with its id (`agent#3f2a`), or the name alone where only one client
            has it.
        execution_id: the edits of this execution.
        turn: the handle of an edit, a turn or an undo, as answers name it.
        scope: "turn" takes back the whole turn of the last edit: edits less than two minutes apart.
    """
    path = call.path(notebook_path)
    done = _Undone()
    async with editing(call, path) as edit:
        heads = _chosen(call, path, author, execution_id, turn, scope)
        undoing = Undoing(edit.notebook)
        await _take_back(call, heads, undoing, done)
        redo = new_turn(REDO if (heads[0].turn or "").startswith(UNDO) else UNDO)
        changes = undoing.finish()
        edit.rows += [_row(call, path, redo, change) for change in changes]
    answer = _answer(heads[0].author, done, redo)
    answer.text += _gone(changes)
    return answer


def _gone(changes: Sequence[Change]) -> str:
    """The cells that an undo removed, as far as something stood in them."""
    cells = [change.before for change in changes if change.kind == "delete" and change.before]
    lines = [_what_was(cell) for cell in cells if cell.get("source") or cell.get("outputs")]
    return f"\nGone from the notebook: {_some(lines)}." if lines else ""


def _what_was(cell: Mapping[str, Any]) -> str:
    source = str(cell.get("source", ""))
    kinds = ",".join(output_kinds(cell))
    first = source.lstrip().partition("\n")[0][:FIRST_LINE]
    count = source.count("\n") + 1
    lines = f"{count} {'line' if count == 1 else 'lines'}"
    return f"{cell['id']} ({cell['cell_type']}, {lines}{f', outputs: {kinds}' if kinds else ''}): {first}"


@dataclass(slots=True)
class _Undone:
    """What an undo did: the kinds and cells of the edits taken back, and of those left alone with the reason."""

    reverted: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str, str]] = field(default_factory=list)


async def _take_back(call: Call, heads: Iterable[EditHead], undoing: Undoing, done: _Undone) -> None:
    """Take edits back one by one, in slices, so that thousands of them do not stop the server."""
    since = time.perf_counter()
    for head in heads:
        cell_id = head.cell_id or ""
        before, after = await call.services.journal.cells_of_edit(head.id)
        try:
            undoing.take_back(head.id, head.kind, cell_id, before, after, head.before_index, head.after_index)
            done.reverted.append((head.kind, cell_id))
        except Changed as why:
            done.kept.append((head.kind, cell_id, str(why)))
        if time.perf_counter() - since > SLICE_SECONDS:
            await anyio.lowlevel.checkpoint()
            since = time.perf_counter()


def _row(call: Call, path: str, turn: str, change: Change) -> EditRow:
    return EditRow(
        notebook=path,
        author=call.author,
        kind=cast(EditKind, change.kind),
        cell_id=change.cell_id,
        before=change.before,
        after=change.after,
        before_index=change.before_index,
        after_index=change.after_index,
        turn=turn,
        undoes=change.undoes,
    )


def _chosen(call: Call, path: str, author: str, execution_id: str, turn: str, scope: str) -> list[EditHead]:
    """The edits to take back, the newest first.

    Raises:
        InvalidRequest: there are none, or several clients have the author's name; names those who have edits.
    """
    journal = call.services.journal
    if execution_id or turn:
        is_call = turn.startswith(CALL)
        heads = journal.undoable(
            path,
            turn=turn if turn and not is_call else None,
            call=turn if is_call else None,
            execution_id=execution_id or None,
        )
        whose = "that execution" if execution_id else "that edit" if is_call else "that turn"
        if not heads:
            raise InvalidRequest(f"No edits of {whose} in {path} to undo.", hint=_editors(call, path))
        return heads
    if author:
        return _last(call, path, _full_name(call, path, author), scope, after=0)
    return _last(call, path, call.author, scope, after=journal.earlier_edits)


def _last(call: Call, path: str, author: str, scope: str, after: int) -> list[EditHead]:
    """The author's last edit, or its turn, as far as they come after an edit."""
    journal = call.services.journal
    last = journal.last_edit(path, author, after=after)
    if last is None:
        earlier = journal.last_edit(path, author)
        if earlier is None or earlier.call is None:
            raise InvalidRequest(f"No edits of {author!r} in {path} to undo.", hint=_editors(call, path))
        raise InvalidRequest(
            f"No edits of {author!r} in {path} to undo since the server started.",
            hint=f'undo(turn="{earlier.call}") takes back the last before that: {earlier.kind} of {earlier.cell_id}.',
        )
    if scope == "turn":
        return [head for head in journal.undoable(path, author=author, turn=last.turn) if head.id > after]
    if last.call is not None:
        return journal.undoable(path, call=last.call)
    return [last]


def _full_name(call: Call, path: str, author: str) -> str:
    """The author meant by a full name, or by a name without the client's id when only one such client has edits."""
    editors = call.services.journal.editors(path)
    if author in editors:
        return author
    same = [name for name in editors if name.rpartition("#")[0] == author]
    if len(same) > 1:
        raise InvalidRequest(f"{len(same)} clients are called {author!r}.", hint=_editors(call, path))
    return same[0] if same else author


def _editors(call: Call, path: str) -> str:
    """Who can be named, the latest first."""
    editors = call.services.journal.editors(path)
    shown = [f"{name} ({count})" for name, count in list(editors.items())[:NAMED]]
    more = f" and {len(editors) - NAMED} more" if len(editors) > NAMED else ""
    return f"Authors with edits here: {', '.join(shown) or 'none'}{more}."


def _answer(author: str, done: _Undone, redo: str) -> Answer:
    reverted = [f"{kind} of {cell_id}" for kind, cell_id in done.reverted]
    kept = [f"{kind} of {cell_id}: {why}" for kind, cell_id, why in done.kept]
    text = f"Undid {len(reverted):,} edit(s) of {author}{_by_kind(done)}: {_some(reverted) or 'none'}."
    if reverted:
        text += f' undo(turn="{redo}") brings {"it" if len(reverted) == 1 else "them"} back.'
    if kept:
        text += f"\nLeft alone, {len(kept):,} changed since: {_some(kept)}."
    data = {
        "undone": reverted[:NAMED],
        "undone_count": len(reverted),
        "left": kept[:NAMED],
        "left_count": len(kept),
        "turn": redo if reverted else None,
    }
    return Answer(text, data, is_error=not reverted)


def _by_kind(done: _Undone) -> str:
    if len(done.reverted) <= NAMED:
        return ""
    counts: dict[str, int] = {}
    for kind, _ in done.reverted:
        counts[kind] = counts.get(kind, 0) + 1
    return f" ({', '.join(f'{count:,} {kind}' for kind, count in counts.items())})"


def _some(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - NAMED:,} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more
