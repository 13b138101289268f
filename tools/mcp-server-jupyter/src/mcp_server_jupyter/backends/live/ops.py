"""Pure: edits of a notebook as ops (docs/editor-protocol.md, `edit`), from two notebooks and back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ... import notebooks
from ...errors import InvalidRequest, Stale

if TYPE_CHECKING:
    from nbformat import NotebookNode

Op = dict[str, Any]
_OUTPUTS = ("outputs", "execution_count")


def edit_ops(before: NotebookNode, after: NotebookNode) -> list[Op]:
    """The ops that lead from one notebook to another, one after the other; none when they are the same.

    Identical cells count as unchanged without a look inside.
    """
    ops = _structure(before, after)
    old = {cell["id"]: cell for cell in before.cells}
    for cell in after.cells:
        earlier = old.get(cell["id"])
        if earlier is not None and earlier is not cell:
            ops += _cell_ops(earlier, cell)
    if before.metadata is not after.metadata and before.metadata != after.metadata:
        ops.append({"op": "metadata", "id": None, "metadata": after.metadata})
    return ops


def _structure(before: NotebookNode, after: NotebookNode) -> list[Op]:
    """Deletes, then inserts and moves, each to its place behind the cell before it."""
    wanted = [cell["id"] for cell in after.cells]
    kept, known = set(wanted), {cell["id"] for cell in before.cells}
    ops: list[Op] = [
        {"op": "delete", "id": cell["id"], "hash": notebooks.source_hash(cell)}
        for cell in before.cells
        if cell["id"] not in kept
    ]
    order = [cell["id"] for cell in before.cells if cell["id"] in kept]
    if order == wanted:
        return ops
    stay = _longest_in_order([wanted.index(cell_id) for cell_id in order] if known & kept else [])
    at_rest = {wanted[position] for position in stay}
    for number, cell in enumerate(after.cells):
        cell_id = cell["id"]
        if cell_id in at_rest:
            continue
        if cell_id in known:
            order.remove(cell_id)
        index = order.index(wanted[number - 1]) + 1 if number else 0
        order.insert(index, cell_id)
        move: Op = {"op": "move", "id": cell_id, "index": index}
        ops.append(move if cell_id in known else {"op": "insert", "index": index, "cell": cell})
    return ops


def _longest_in_order(positions: Sequence[int]) -> list[int]:
    """A longest rising part of a list (patience sorting): what need not move."""
    tails: list[int] = []
    last: list[int] = []
    before: dict[int, int | None] = {}
    for position in positions:
        at = bisect_left(tails, position)
        before[position] = last[at - 1] if at else None
        tails[at:] = [position, *tails[at + 1 :]]
        last[at:] = [position, *last[at + 1 :]]
    found: list[int] = []
    current: int | None = last[-1] if last else None
    while current is not None:
        found.append(current)
        current = before[current]
    return found


def _cell_ops(before: NotebookNode, after: NotebookNode) -> list[Op]:
    ops: list[Op] = []
    cell_id = before["id"]
    if before.cell_type != after.cell_type:
        hashed = notebooks.source_hash(before)
        ops.append({"op": "type", "id": cell_id, "hash": hashed, "cell_type": after.cell_type})
        before = _retyped(before, after.cell_type)
    if before.source != after.source:
        hashed = notebooks.source_hash(before)
        ops.append({"op": "source", "id": cell_id, "hash": hashed, "source": after.source})
    if before.metadata is not after.metadata and before.metadata != after.metadata:
        ops.append({"op": "metadata", "id": cell_id, "metadata": after.metadata})
    if after.cell_type == "code" and any(before.get(key) != after.get(key) for key in _OUTPUTS):
        ops.append({"op": "outputs", "id": cell_id, **{key: after.get(key) for key in _OUTPUTS}})
    return ops


def _retyped(cell: NotebookNode, cell_type: str) -> NotebookNode:
    kept = {key: value for key, value in cell.items() if key not in _OUTPUTS}
    if cell_type == "code":
        kept |= {"outputs": [], "execution_count": None}
    return notebooks.shallow(kept, cell_type=cell_type)


# --------------------------------------------------------------------------- back


def apply_ops(notebook: NotebookNode, ops: Sequence[Op]) -> NotebookNode:
    """The notebook after the ops; the given one stays as it is.

    Raises:
        Stale: an op does not fit the notebook as it is at its turn.
        InvalidRequest: that is no op.
    """
    changed = notebooks.shallow(notebook, cells=list(notebook.cells))
    for op in ops:
        try:
            _apply(changed, op)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest("That is no op of the editor's protocol.", hint=str(op)[:300]) from error
    return notebooks.settle(changed, notebook.cells)


def _apply(notebook: NotebookNode, op: Op) -> None:
    kind = op["op"]
    if kind == "insert":
        _insert(notebook, op)
        return
    if kind == "metadata" and op.get("id") is None:
        notebook["metadata"] = _object(op["metadata"])
        return
    index = _find(notebook, op)
    cell = notebook.cells[index]
    if kind == "delete":
        del notebook.cells[index]
    elif kind == "move":
        to = _index(op, len(notebook.cells) - 1)
        notebook.cells.insert(to, notebook.cells.pop(index))
    elif kind == "source":
        notebook.cells[index] = notebooks.shallow(cell, source=_text(op, "source"))
    elif kind == "type":
        notebook.cells[index] = _retyped(cell, _text(op, "cell_type"))
    elif kind == "metadata":
        notebook.cells[index] = notebooks.shallow(cell, metadata=_object(op["metadata"]))
    elif kind == "outputs":
        outputs = [notebooks.node(output) for output in op["outputs"]]
        if cell.cell_type == "code":
            shown = notebooks.shallow(cell, outputs=outputs, execution_count=op.get("execution_count"))
            notebook.cells[index] = shown
    else:
        raise KeyError(kind)


def _insert(notebook: NotebookNode, op: Op) -> None:
    cell = _object(op["cell"])
    if not notebooks.valid_id(cell.get("id")):
        raise InvalidRequest("A new cell needs an id.", hint="1 to 64 letters, digits, - and _.")
    if any(other["id"] == cell["id"] for other in notebook.cells):
        raise Stale(f"There is a cell {cell['id']!r} already.")
    notebook.cells.insert(_index(op, len(notebook.cells)), cell)


def _find(notebook: NotebookNode, op: Op) -> int:
    for index, cell in enumerate(notebook.cells):
        if cell["id"] == op["id"]:
            if op.get("hash") not in (None, notebooks.source_hash(cell)):
                raise Stale(f"Cell {cell['id']!r} is another one.")
            return index
    raise Stale(f"There is no cell {str(op['id'])[:80]!r}.")


def _index(op: Op, most: int) -> int:
    index = op["index"]
    if not isinstance(index, int):
        raise TypeError(index)
    if not 0 <= index <= most:
        raise Stale(f"There is no place {index}.")
    return index


def _text(op: Op, name: str) -> str:
    value = op[name]
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _object(value: Any) -> NotebookNode:
    if not isinstance(value, Mapping):
        raise TypeError(value)
    return notebooks.node(value)
