"""Outputs on their way into the notebook: streamed while the cell runs, confirmed when they are on disk."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from ..errors import Conflict, JupyterMcpError, NotFound
from ..events import Events
from ..outputs import feed_sink, whole
from ..ports import Contents
from ..tasks import Tasks
from .execution import Execution
from .feed import OutputFeed
from .recent import Recent
from .record import Record

if TYPE_CHECKING:
    from nbformat import NotebookNode

FIRST_FLUSH_SECONDS = 0.02
FLUSH_SECONDS = 0.1
PLACE_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_PLACE_MOST_SECONDS = 2.0
_RETRY_MOST_SECONDS = 30.0
_MOST_HOMELESS = 100
NO_CODE_CELL = "The cell is no code cell any more; its outputs are kept with the execution."


class Delivery:
    """Writes executions' outputs into their cells, and tells the journal what has reached the file.

    Attributes:
        failing: notebooks whose outputs could not be written when that was tried last.
        feed: tells what cells put out.
    """

    def __init__(self, contents: Contents, record: Record, events: Events, tasks: Tasks, recent: Recent) -> None:
        self.failing: set[str] = set()
        self.feed = OutputFeed()
        self._contents = contents
        self._record = record
        self._events = events
        self._tasks = tasks
        self._recent = recent
        self._unplaced: dict[str, Execution] = {}
        self._unshown: set[str] = set()
        # Those whose cell was not there when their outputs were to be shown, and what they say of it.
        self._homeless: dict[str, str] = {}
        self._unconfirmed: dict[str, dict[str, Execution]] = {}

    async def stream(self, execution: Execution, scope: anyio.CancelScope) -> None:
        """Bring a running cell's outputs into the notebook: soon, then at most ten times a second."""
        with scope:
            # Not at once: most cells are done by then, and are written once.
            await anyio.sleep(FIRST_FLUSH_SECONDS)
            while not execution.finished:
                written = execution.version
                self._events.publish("execution.output", **execution.event())
                with anyio.CancelScope(shield=True):
                    if execution.cell_id is not None:
                        self._record.streamed(execution, execution.outputs(), execution.reducer.execution_count)
                    await self.write(execution)
                await anyio.sleep(FLUSH_SECONDS)
                await execution.news(written)

    async def write(self, execution: Execution, *, late: bool = False) -> bool:
        """Put the outputs into the cell; `late` ones only if what the cell shows is still this run's.

        True if they are there. A cell or notebook that is gone or another one meanwhile is said, not brought back.
        """
        self._unshown.discard(execution.id)
        shown = False
        try:
            shown = await self._show(execution, late=late)
            await self._update_displays(execution)
        except NotFound:
            if execution.cell_id is not None:
                self._homeless[execution.id] = note = _deleted(execution, late=late)
                while len(self._homeless) > _MOST_HOMELESS:
                    del self._homeless[next(iter(self._homeless))]
                execution.add_note(note)
        except JupyterMcpError as error:
            # Whatever it is, the execution itself is done and must be told.
            if execution.notebook is not None:
                self._unshown.add(execution.id)
            _warn(execution, error)
        return shown

    async def make_good(self, notebook: str) -> None:
        """Show what found no cell before, in a notebook that has been found again."""
        for identity, note in list(self._homeless.items()):
            execution = self._recent.get(identity)
            if execution is None or execution.notebook != notebook or execution.superseded:
                continue
            if self._homeless.pop(identity, None) is None:
                # Found a cell by somebody else, while another one was written.
                continue
            execution.note = execution.note.replace(note, "").strip()
            if await self.write(execution):
                self._tasks.start_soon(self.confirm, execution)

    async def _show(self, execution: Execution, *, late: bool) -> bool:
        """Tell listeners the outputs, and put them into the execution's own cell. True if they are there."""
        if execution.notebook is None or execution.cell_id is None:
            self.feed.advance(execution)
            return False
        if execution.sink is None:
            execution.sink = self._contents.outputs(execution.notebook, execution.cell_id)
            feed_sink(execution.sink, whole(execution.shown))
        self.feed.advance(execution)

        def is_anothers(cell: NotebookNode) -> bool:
            return late and not execution.owns(cell)

        is_running = not execution.finished
        count = execution.reducer.execution_count
        cell = await execution.sink.show(count, unless=is_anothers, is_running=is_running)
        if cell is None:
            if not late:
                execution.add_note(NO_CODE_CELL)
            return False
        execution.written = cell.outputs, cell.execution_count
        if is_running and cell.outputs != execution.outputs():
            # The place shows less while it runs: the next server is to know that for this run's as well.
            self._record.streamed(execution, *execution.written)
        return True

    async def _update_displays(self, execution: Execution) -> None:
        """`update_display_data` for displays that earlier cells made and still show."""
        path = execution.notebook or execution.home
        updates = list(execution.reducer.foreign_updates)
        if path is None or not updates:
            return
        for cell in (await self._contents.read(path)).cells:
            owner = self._recent.of_cell(path, cell.get("id", ""))
            if owner is None or owner is execution or not owner.owns(cell):
                continue
            if owner.reducer.apply_updates(updates):
                with suppress(NotFound):
                    await self._show(owner, late=True)
        del execution.reducer.foreign_updates[: len(updates)]

    # ------------------------------------------------------------------ what has reached the file

    async def finish(self, execution: Execution) -> None:
        """Put the last outputs into the cell, say so if they cannot get to the disk, and see to it that they do."""
        await self.write(execution)
        if execution.notebook is None:
            return
        if execution.id not in self._unshown:
            try:
                await self._contents.check(execution.notebook)
            except NotFound:
                pass
            except JupyterMcpError as error:
                self.failing.add(execution.notebook)
                _warn(execution, error)
        self._tasks.start_soon(self.confirm, execution)

    async def confirm(self, execution: Execution) -> None:
        """Note in the journal that the outputs have reached the disk, however long it takes. One a notebook."""
        notebook = execution.notebook or ""
        waiting = self._unconfirmed.setdefault(notebook, {})
        waiting[execution.id] = execution
        if len(waiting) > 1:
            return
        pause = _RETRY_SECONDS
        while waiting:
            if await self._deliver(notebook):
                pause = _RETRY_SECONDS
            else:
                await anyio.sleep(pause)
                pause = min(2 * pause, _RETRY_MOST_SECONDS)
        self._unconfirmed.pop(notebook, None)

    async def _deliver(self, notebook: str, *, urgent: bool = False) -> bool:
        """Wait until a notebook is on disk, and write that down of what was waiting for it; False if it is not."""
        waiting = self._unconfirmed.get(notebook, {})
        batch = list(waiting.values())
        for execution in batch:
            if execution.id in self._unshown:
                await self.write(execution, late=True)
                if execution.id in self._unshown:
                    return False
        try:
            await self._flush(notebook, urgent=urgent)
        except JupyterMcpError as error:
            self.failing.add(notebook)
            for execution in batch:
                _warn(execution, error)
            return False
        self.failing.discard(notebook)
        if not self._record.delivered(batch):
            return False
        for execution in batch:
            waiting.pop(execution.id, None)
            execution.warnings.pop("notebook", None)
        return True

    async def _flush(self, notebook: str, *, urgent: bool = False) -> None:
        """Wait until a notebook is on disk. What `flush` tells of earlier changes is told once, and is over then."""
        try:
            await self._contents.flush(notebook, urgent=urgent)
        except (Conflict, NotFound) as error:
            self._events.publish("notebook.unwritten", notebook=notebook, error=str(error))
            await self._contents.flush(notebook, urgent=urgent)

    def place_soon(self, execution: Execution) -> None:
        """Note in the journal that the cell made for an execution is in the file, unless it is done before that."""
        self._unplaced[execution.id] = execution
        if len(self._unplaced) == 1:
            self._tasks.start_soon(self._place)

    async def _place(self) -> None:
        pause = PLACE_SECONDS
        while self._unplaced:
            await anyio.sleep(pause)
            pause = PLACE_SECONDS
            running = [execution for execution in self._unplaced.values() if not execution.finished]
            self._unplaced = {execution.id: execution for execution in running}
            for notebook in {execution.notebook for execution in running if execution.notebook is not None}:
                there = [execution for execution in running if execution.notebook == notebook]
                written = False
                # One that an editor has not saved yet is not to hold up the others.
                with suppress(JupyterMcpError), anyio.move_on_after(_PLACE_MOST_SECONDS):
                    await self._flush(notebook)
                    written = True
                if not written:
                    pause = _RETRY_SECONDS
                    continue
                if self._record.placed(there):
                    for execution in there:
                        self._unplaced.pop(execution.id, None)

    async def settle(self) -> None:
        """Bring what is under way to the disk now, once, before the server ends."""
        for notebook in list(self._unconfirmed):
            await self._deliver(notebook, urgent=True)


def _deleted(execution: Execution, *, late: bool) -> str:
    # Of what ended unseen, or long before, nobody knows whether the cell was deleted before its end or after.
    when = "" if late or execution.resumed else " while it ran"
    return f"The cell was deleted{when}; its outputs are kept with the execution only."


def _warn(execution: Execution, error: JupyterMcpError) -> None:
    execution.warnings["notebook"] = (
        f"The outputs are not in the notebook's file: {error.message} They are kept, and written once that works."
    )
