"""The output sink of backends that have nothing better: each `show` is one edit that is not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import notebooks
from ...ports import Contents, Unless

if TYPE_CHECKING:
    from nbformat import NotebookNode


class OutputList:
    """The outputs of one cell as the steps of `ports.OutputSink` have made them."""

    def __init__(self) -> None:
        self.outputs: list[NotebookNode] = []

    def clear(self) -> None:
        self.outputs.clear()

    def append(self, output: NotebookNode) -> None:
        self.outputs.append(output)

    def text(self, index: int, text: str, output: NotebookNode) -> None:
        self.outputs[index] = output

    def replace(self, index: int, output: NotebookNode) -> None:
        self.outputs[index] = output


class EditedOutputs(OutputList):
    """See `ports.OutputSink`; over `Contents.edit`, which writes what comes in a row together."""

    def __init__(self, contents: Contents, path: str, cell_id: str) -> None:
        super().__init__()
        self._contents = contents
        self._path = path
        self._cell_id = cell_id

    async def show(
        self, execution_count: int | None, *, unless: Unless | None = None, is_running: bool = False
    ) -> NotebookNode | None:
        """See `ports.OutputSink.show`."""
        async with self._contents.edit(self._path, durable=False) as notebook:
            return put_outputs(notebook, self._cell_id, self.outputs, execution_count, unless)


def put_outputs(
    notebook: NotebookNode,
    cell_id: str,
    outputs: list[NotebookNode],
    execution_count: int | None,
    unless: Unless | None = None,
) -> NotebookNode | None:
    """Give a cell of a notebook that may be changed these outputs; the cell, None if it is not to have them.

    Raises:
        NotFound: there is no such cell.
    """
    index = notebooks.find_cell(notebook, cell_id=cell_id)
    cell = notebook.cells[index]
    if cell.cell_type != "code" or (unless is not None and unless(cell)):
        return None
    return notebooks.set_outputs(notebook, index, outputs, execution_count)
