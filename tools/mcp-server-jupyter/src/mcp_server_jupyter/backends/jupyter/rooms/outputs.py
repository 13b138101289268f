"""The outputs of a cell in a live document: while it runs as much as those can take who look at it, then all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .... import notebooks
from ....ports import Unless
from ...shared.edited_outputs import OutputList

if TYPE_CHECKING:
    from nbformat import NotebookNode

STREAM_CHARACTERS = 256 * 1024
PICTURE_SECONDS = 1.0


class Cells(Protocol):
    """What a notebook offers to outputs."""

    @property
    def is_live(self) -> bool:
        """Others see each change at once, and keep it."""

    async def put(
        self,
        cell_id: str,
        outputs: list[NotebookNode],
        execution_count: int | None,
        unless: Unless | None,
        *,
        is_running: bool,
    ) -> NotebookNode | None:
        """Give a cell these outputs; the cell, None if it is not to have them."""


class Shown(OutputList):
    """One run's outputs, and what of them is shown while it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._has_ended = False
        self._was_cleared = False
        self._has_next_picture = False
        self._next_picture_at = 0.0

    def clear(self) -> None:
        """See `ports.OutputSink.clear`."""
        super().clear()
        self._was_cleared = True

    def append(self, output: NotebookNode) -> None:
        """See `ports.OutputSink.append`. After `clear` it stands for what was there before."""
        super().append(output)
        self._has_next_picture |= self._was_cleared and has_picture(output)

    def replace(self, index: int, output: NotebookNode) -> None:
        """See `ports.OutputSink.replace`."""
        super().replace(index, output)
        self._has_next_picture |= has_picture(output)

    async def put_into(
        self, cells: Cells, cell_id: str, execution_count: int | None, unless: Unless | None, *, is_running: bool
    ) -> NotebookNode | None:
        """Show them in a cell. While it runs, a picture in the place of another waits for its second."""
        self._has_ended |= not is_running
        if not self._has_ended and cells.is_live:
            await self._paced()
        # It may have ended meanwhile; then there is nothing more to come.
        runs = not self._has_ended
        outputs = while_running(self.outputs) if runs and cells.is_live else self.outputs
        return await cells.put(cell_id, list(outputs), execution_count, unless, is_running=runs)

    async def _paced(self) -> None:
        if not self._has_next_picture:
            return
        left = self._next_picture_at - anyio.current_time()
        if left > 0:
            await anyio.sleep(left)
        self._has_next_picture = False
        self._next_picture_at = anyio.current_time() + PICTURE_SECONDS


def has_picture(output: Mapping[str, Any]) -> bool:
    """Whether an output shows an image."""
    return any(str(kind).startswith("image/") for kind in output.get("data", ()))


def while_running(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs of a cell that runs: the beginning of its streams, a line that counts what is left out, all else."""
    left, held = STREAM_CHARACTERS, 0
    shown: list[NotebookNode] = []
    for output in outputs:
        text = output.get("text", "") if output.get("output_type") == "stream" else ""
        if len(text) <= left:
            shown.append(output)
            left -= len(text)
            continue
        held += len(text) - left
        if left:
            shown.append(notebooks.shallow(output, text=text[:left]))
        left = 0
    if held:
        line = f"\n… and {held:,} characters more, which are shown when the cell has ended.\n"
        shown.append(notebooks.node({"output_type": "stream", "name": "stdout", "text": line}))
    return shown
