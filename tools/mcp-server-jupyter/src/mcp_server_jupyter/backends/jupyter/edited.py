"""What a notebook does alike for outputs, whether it is a file or a live document."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ...ports import Unless
from ..shared.edited_outputs import put_outputs

if TYPE_CHECKING:
    from nbformat import NotebookNode


class EditedNotebook(ABC):
    """One notebook whose every change is an edit."""

    @abstractmethod
    def edit(self, *, durable: bool, author: str) -> AbstractAsyncContextManager[NotebookNode]:
        """See `ports.Contents.edit`."""

    async def put(
        self,
        cell_id: str,
        outputs: list[NotebookNode],
        execution_count: int | None,
        unless: Unless | None,
        *,
        is_running: bool,
    ) -> NotebookNode | None:
        """See `rooms.outputs.Cells.put`."""
        async with self.edit(durable=False, author="") as notebook:
            cell = put_outputs(notebook, cell_id, outputs, execution_count, unless)
        if cell is not None:
            self._mark(cell_id, is_running=is_running)
        return cell

    @abstractmethod
    def _mark(self, cell_id: str, *, is_running: bool) -> None:
        """Tell others that a cell runs, or has ended."""
