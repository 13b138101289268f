"""How a room's file comes to hold what the room has, and how that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import Unavailable
from ..contents_format import parse
from .intents import same_content

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..contents_api import ContentsApi
    from .connection import Connection


async def have_saved(api: ContentsApi, name: str, connection: Connection) -> None:
    """Return once the file holds what the room has.

    Raises:
        Unavailable: it does not yet, or nobody can say.
        NotFound
    """
    await connection.confirmed()
    if connection.address.can_save:
        await _ask_for_save(api, name, connection)
    else:
        await _look_for(api, name, connection.replica.snapshot())


async def _ask_for_save(api: ContentsApi, name: str, connection: Connection) -> None:
    status = await connection.save()
    if status != "success":
        raise Unavailable(f"Jupyter has not saved {name!r}: {status}.", hint="Look at its log.")
    # What the room tells of its file comes before this answer.
    await connection.confirmed()
    state = await api.state(name)
    if connection.replica.state.get("hash") != state.version:
        raise Unavailable(
            f"The file of {name!r} is not what its live document has saved.", hint="It is saved again soon."
        )


async def _look_for(api: ContentsApi, name: str, wanted: NotebookNode) -> None:
    """Read the file of a room that saves in its own time."""
    content, state = await api.load(name)
    file = parse(content, wanted, state.version, state.size).notebook
    if not same_content(file, wanted):
        raise Unavailable(f"Jupyter has not saved {name!r} yet.", hint="It does so in its own time.")
