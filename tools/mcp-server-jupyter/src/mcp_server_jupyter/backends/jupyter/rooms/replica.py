"""Our copy of one room's document: snapshots of it as notebooks, and notebooks' changes as transactions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .... import notebooks
from ....errors import Conflict, InvalidNotebook
from .cells import change_cell, change_map, make_cell, plain, read_cell
from .texts import merged, splices

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from pycrdt import Array, Map

ORIGIN = "mcp-server-jupyter"
_EMPTY = {"kernelspec": "name", "language_info": "name"}


class Replica:
    """One Y document. It is never used again once its connection was lost: see the design.

    Args:
        send: called with each update of ours.
        changed: called when others have changed it.

    Attributes:
        sent: bytes of our updates so far.
        was_overwritten: Jupyter has put the file's content into the room since this was set to False.
    """

    def __init__(self, send: Callable[[bytes], None], changed: Callable[[], None]) -> None:
        from pycrdt import Array, Doc, Map  # noqa: PLC0415  (an extra)

        self.doc: Doc[Any] = Doc()
        self.state: Map[Any] = self.doc.get("state", type=Map)
        self._meta: Map[Any] = self.doc.get("meta", type=Map)
        self._cells: Array[Any] = self.doc.get("cells", type=Array)
        self._send = send
        self._changed = changed
        self.was_overwritten = False
        self.sent = 0
        self._is_remote = self._has_news = False
        self._touched: set[int] = set()
        self._known: dict[str, NotebookNode] = {}
        self._stale: set[str] = set()
        self._snapshot: NotebookNode | None = None
        self._beginning: dict[int, int] = {}
        self._subscriptions = [
            self.doc.observe(self._updated),
            self.state.observe(self._state_changed),
            self._meta.observe_deep(lambda _: self._forget()),
            self._cells.observe_deep(self._cells_changed),
        ]

    # ------------------------------------------------------------------ what comes

    def receive(self, message: bytes) -> bytes | None:
        """One message of the sync protocol, without its first byte; the answer to it, if it wants one."""
        from pycrdt import handle_sync_message  # noqa: PLC0415

        self._is_remote, self._has_news = True, False
        try:
            return handle_sync_message(message, self.doc)
        finally:
            self._is_remote = False
            self._find_touched()
            if self._has_news:
                self._changed()

    # Observers are called within the transaction: nothing can be read there.

    def _updated(self, event: Any) -> None:
        if self._is_remote:
            self._has_news = True
        else:
            self.sent += len(event.update)
            self._send(event.update)

    def _cells_changed(self, events: list[Any]) -> None:
        self._touched.update(event.path[0] for event in events if event.path)
        self._forget()

    def _find_touched(self) -> None:
        """Which cells are not as they were."""
        touched, self._touched = self._touched, set()
        self._stale.update(str(self._cells[index].get("id")) for index in touched if index < len(self._cells))

    def _state_changed(self, event: Any) -> None:
        change = event.keys.get("hash")
        if change is not None and change.get("action") == "delete":
            self.was_overwritten = True

    def _forget(self) -> None:
        self._snapshot = None

    # ------------------------------------------------------------------ as a notebook

    def snapshot(self) -> NotebookNode:
        """The notebook as it is now. Cells that have not changed are the same objects.

        Raises:
            InvalidNotebook
        """
        if self._snapshot is not None:
            return self._snapshot
        with self.doc.transaction():
            cells: list[NotebookNode] = []
            known: dict[str, NotebookNode] = {}
            for ycell in self._cells:
                cell = self._read(ycell)
                if cell["id"] in known:
                    # Jupyter writes one of two that are the same, and gives the other one a new id else.
                    if cell == known[cell["id"]]:
                        continue
                    cell = notebooks.shallow(cell, id=notebooks.new_id())
                known[cell["id"]] = cell
                cells.append(cell)
            notebook = notebooks.node(_meta(self._meta))
        notebook["cells"] = cells
        notebooks.check_root(notebook)
        self._known, self._stale = known, set()
        self._snapshot = notebook
        return notebook

    def _read(self, ycell: Map[Any]) -> NotebookNode:
        cell_id = ycell.get("id")
        known = self._known.get(cell_id) if isinstance(cell_id, str) else None
        if known is not None and cell_id not in self._stale:
            return known
        cell = read_cell(ycell)
        if not notebooks.valid_id(cell.get("id")):
            raise InvalidNotebook("A cell of the live document has no id.", hint="Save it, close it and open it again.")
        return known if known is not None and known == cell else cell

    def apply(self, before: NotebookNode, after: NotebookNode) -> None:
        """Make an edit that led from one notebook to another, on the notebook as it is now; one transaction.

        Raises:
            Conflict: somebody else has changed the same meanwhile. Nothing has changed.
        """
        now = self.snapshot()
        self._become(now, combined(before, after, now))

    def begin(self) -> None:
        """What is here now is what the room had when it was entered."""
        self._beginning = self._clocks()

    def catch_up(self, former: Replica) -> None:
        """Give a room that lacks its last updates those that a former replica of it has.

        They are the very updates that others may have as well, and bring along: made anew, an edit would be there
        twice. Nothing happens where the room was made anew, from its file: it has nothing in common with that replica.
        """
        here = self._clocks()
        if all(here.get(client, 0) >= clock for client, clock in former._beginning.items()):
            with self._editing():
                self.doc.apply_update(former.doc.get_update(self.doc.get_state()))

    def _clocks(self) -> dict[int, int]:
        """How many changes of each client are here: a state vector (Yjs docs, "Document Updates")."""
        from pycrdt import Decoder  # noqa: PLC0415

        decoder = Decoder(self.doc.get_state())
        return {decoder.read_var_uint(): decoder.read_var_uint() for _ in range(decoder.read_var_uint())}

    def apply_again(self, before: NotebookNode, after: NotebookNode) -> list[Conflict]:
        """The same of an edit that the room may have, or may have lost; what clashes with it there stays there."""
        now, clashes = self.snapshot(), list[Conflict]()
        try:
            wanted = combined(before, after, now)
        except Conflict:
            wanted = notebooks.merge(before, after, now, on_conflict=clashes.append)
        self._become(now, wanted)
        return clashes

    # ------------------------------------------------------------------ what is no part of the notebook

    def mark(self, cell_id: str, *, is_running: bool) -> None:
        """Let those who look at a code cell see whether it runs."""
        state = "running" if is_running else "idle"
        for ycell in self._cells:
            if ycell.get("id") == cell_id and ycell.get("execution_state", "idle") != state:
                with self._editing():
                    ycell["execution_state"] = state

    def cursors(self, cell_id: str, at: int) -> list[dict[str, Any]]:
        """A cursor in a cell's source as awareness tells it (Yjs docs, "Relative Positions"); none in no cell.

        Args:
            at: characters before it. In a text that is not ASCII alone it is at the end: pycrdt panics at some places.
        """
        from pycrdt import Assoc  # noqa: PLC0415

        for ycell in self._cells:
            if ycell.get("id") != cell_id:
                continue
            text = ycell["source"]
            is_exact = at > 0 and str(text).isascii()
            place = text.sticky_index(min(at, len(text)) if is_exact else 0, Assoc.BEFORE).to_json()
            if not is_exact and at > 0:
                # Of a text as a whole, this side of it is its end.
                place["assoc"] = Assoc.AFTER.value
            return [{"anchor": place, "head": place, "primary": True, "empty": True}]
        return []

    def _become(self, now: NotebookNode, wanted: NotebookNode) -> None:
        if wanted is now:
            return
        with self._editing():
            self._change_order(now, wanted)
            self._change_cells(now, wanted)
            self._change_meta(now, wanted)

    @contextmanager
    def _editing(self) -> Iterator[None]:
        # Without an origin every undo manager would take it for its own, and keep what it deletes.
        with self.doc.transaction(origin=ORIGIN):
            yield
        self._find_touched()

    def _change_order(self, now: NotebookNode, wanted: NotebookNode) -> None:
        """Delete and insert; a cell that moves is one that is deleted and inserted."""
        there = [str(ycell.get("id")) for ycell in self._cells]
        old_types = {cell["id"]: cell.cell_type for cell in now.cells}
        # A cell of another type is another cell.
        keys = [(each, old_types.get(each)) for each in there]
        target = [(cell["id"], cell.cell_type) for cell in wanted.cells]
        cells = {cell["id"]: cell for cell in wanted.cells}
        matcher = difflib.SequenceMatcher(None, keys, target, autojunk=False)
        for tag, i1, i2, j1, j2 in reversed(matcher.get_opcodes()):
            if tag == "equal":
                continue
            if i2 > i1:
                del self._cells[i1:i2]
            for number, (cell_id, _) in enumerate(target[j1:j2]):
                self._cells.insert(i1 + number, make_cell(cells[cell_id]))
                self._stale.add(cell_id)

    def _change_cells(self, now: NotebookNode, wanted: NotebookNode) -> None:
        old = {cell["id"]: cell for cell in now.cells}
        changed = {
            cell["id"]: cell
            for cell in wanted.cells
            if cell["id"] in old and old[cell["id"]] is not cell and old[cell["id"]].cell_type == cell.cell_type
        }
        if not changed:
            return
        for ycell in self._cells:
            cell = changed.pop(str(ycell.get("id")), None)
            if cell is not None and str(ycell.get("id")) not in self._stale:
                change_cell(ycell, old[cell["id"]], cell)

    def _change_meta(self, now: NotebookNode, wanted: NotebookNode) -> None:
        from pycrdt import Map  # noqa: PLC0415

        if now.metadata == wanted.metadata:
            return
        there = self._meta.get("metadata")
        if isinstance(there, Map):
            change_map(there, now.metadata, wanted.metadata)
        else:
            self._meta["metadata"] = Map(dict(wanted.metadata))


def changed_place(before: NotebookNode, after: NotebookNode) -> tuple[str, int] | None:
    """The cell whose source an edit has changed last, by its id, and the character after the change."""
    old = {cell["id"]: cell for cell in before.cells}
    for cell in reversed(after.cells):
        was = old.get(cell["id"])
        if was is None:
            return cell["id"], len(cell.source)
        if was.source != cell.source:
            grown = len(cell.source) - len(was.source)
            return cell["id"], splices(was.source, cell.source)[-1].end + grown
    return None


def combined(before: NotebookNode, after: NotebookNode, now: NotebookNode) -> NotebookNode:
    """The notebook as it is now with an edit that began earlier.

    Raises:
        Conflict
    """
    if now is before:
        return after
    base = {cell["id"]: cell for cell in before.cells}
    theirs = {cell["id"]: cell for cell in now.cells}
    bases, cells = list(before.cells), list(after.cells)
    positions = {cell["id"]: index for index, cell in enumerate(bases)}
    for index, cell in enumerate(cells):
        old, other = base.get(cell["id"]), theirs.get(cell["id"])
        if old is None or other is None or cell.source == old.source or other.source == old.source:
            continue
        # Elsewhere in the same cell both sides' changes stay.
        cells[index] = notebooks.shallow(cell, source=merged(cell["id"], old.source, cell.source, other.source))
        bases[positions[cell["id"]]] = notebooks.shallow(old, source=other.source)
    return notebooks.merge(notebooks.shallow(before, cells=bases), notebooks.shallow(after, cells=cells), now)


def _meta(meta: Map[Any]) -> dict[str, Any]:
    value = plain(meta.to_py() or {})
    metadata = dict(value.get("metadata") or {})
    for key, name in _EMPTY.items():
        # Jupyter fills in what is not there.
        below = metadata.get(key)
        if isinstance(below, dict) and below.get(name) == "":
            del metadata[key]
    return {"nbformat": value.get("nbformat"), "nbformat_minor": value.get("nbformat_minor", 0), "metadata": metadata}
