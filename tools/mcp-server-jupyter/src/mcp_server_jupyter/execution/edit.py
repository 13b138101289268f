"""A change of a notebook and its lines in the journal: both or neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..journal import CALL, EditRow, Journal, new_turn
from ..ports import Contents
from . import outside

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(eq=False, slots=True)
class Edit:
    """One operation's change of a notebook: the copy that may be changed, and what the journal is to say of it."""

    notebook: NotebookNode
    rows: list[EditRow] = field(default_factory=list)
    handle: str = field(default_factory=partial(new_turn, CALL))
    """What takes it back."""


@asynccontextmanager
async def journaled_edit(
    contents: Contents, journal: Journal, path: str, author: str, *, durable: bool = True
) -> AsyncIterator[Edit]:
    """Change a notebook and journal the change: `async with journaled_edit(...) as edit: ...`

    The rows left in `edit.rows` are written down before the notebook is, and taken back if it cannot be. Those that
    name no turn are one, and join the author's last one if that is less than two minutes old. What was done to the
    notebook from outside meanwhile is written down first: the edit may be made over it.

    Args:
        durable: as for `Contents.edit`.

    Raises:
        Unavailable: the journal cannot be written; the notebook is as it was.
        Conflict, NotFound, OutsideRoot, InvalidNotebook: of `Contents.edit`; the journal is as it was.
    """
    edit: Edit | None = None
    written = False
    try:
        async with contents.edit(path, durable=durable, author=author) as notebook:
            await outside.note(journal, path, notebook)
            edit = Edit(notebook)
            yield edit
            for row in edit.rows:
                row.call = edit.handle
            if any(row.turn is None for row in edit.rows):
                turn = journal.turn_of(path, author)
                for row in edit.rows:
                    row.turn = row.turn or turn
            await journal.add_edits(edit.rows)
            written = True
    except BaseException:
        if edit is not None and written:
            journal.withdraw_edits(edit.rows)
        raise
    outside.remember_order(journal, path, edit.notebook)
    with suppress(Unavailable):
        journal.confirm(path)
