"""A notebook that failed goes on: its cells before the failure stay, the others may come mended."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import anyio.to_thread

from ..services import Services
from .failures import refuse
from .folders import Folders
from .payload import is_run, kind_and_source

if TYPE_CHECKING:
    from nbformat import NotebookNode


async def mend(
    services: Services, folders: Folders, run_id: str, failed: str, sent: NotebookNode | None
) -> tuple[int, int]:
    """Put the cells of `sent` from the failed one on in the place of those that are there.

    Returns:
        where the failed cell is in the executed notebook, and how many cells are to be run from there on.

    Raises:
        Refused: changed_before_failure; nothing has changed then.
    """
    before = await anyio.to_thread.run_sync(folders.sent, run_id)
    at = next((index for index, cell in enumerate(before.cells) if cell["id"] == failed), 0)
    after = before if sent is None else sent
    if [kind_and_source(cell) for cell in after.cells[:at]] != [kind_and_source(cell) for cell in before.cells[:at]]:
        raise refuse(
            "changed_before_failure",
            f"A cell before cell {at}, the failed one, is not as it was: its results would be another notebook's.",
            run_id=run_id,
        )
    path = folders.path(run_id)
    fresh = [deepcopy(cell) for cell in after.cells[at:]]
    async with services.contents.edit(path) as notebook:
        place = next((index for index, cell in enumerate(notebook.cells) if cell["id"] == failed), 0)
        notebook.cells[place:] = fresh
    for cell, known in zip(after.cells[:at], before.cells[:at], strict=True):
        cell["id"] = known["id"]
    await anyio.to_thread.run_sync(folders.replace_sent, run_id, after)
    return place, sum(is_run(cell) for cell in fresh)
