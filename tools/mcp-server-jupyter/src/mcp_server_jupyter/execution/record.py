"""What the journal is told of executions. A journal that cannot be written stops no run: its caller is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import Unavailable
from ..journal import ExecutionRow, Journal
from ..notebooks import outputs_mark, source_hash
from ..ports import Kernel, Message
from ..tasks import Tasks
from .execution import Execution

if TYPE_CHECKING:
    from nbformat import NotebookNode

_OWED_MOST = 200
_RETRY_SECONDS = 0.5
_KEEP_SECONDS = 0.25


class Record:
    """The journal's lines of executions.

    What cannot be written is kept and written as soon as that works again: a finished execution must not be taken for
    a running one by the next server, and its caller is warned no longer than it is so.
    """

    def __init__(self, journal: Journal, tasks: Tasks) -> None:
        self._journal = journal
        self._tasks = tasks
        self._retrying = False
        self._untold: dict[str, Execution] = {}
        self._missing: dict[str, ExecutionRow] = {}
        self._withdrawn: list[str] = []
        self._owed: dict[str, tuple[Execution, bool]] = {}

    def submitted(self, execution: Execution, row: ExecutionRow) -> None:
        """Write an execution down before it is sent."""
        try:
            self._journal.add_execution(row)
        except Unavailable as error:
            self._missing[execution.id] = row
            self._failed(execution, error)

    def withdraw(self, execution: Execution) -> None:
        """Forget one that was not sent after all. What cannot be written now is when that works again."""
        self._untold.pop(execution.id, None)
        self._withdrawn.append(execution.id)
        with suppress(Unavailable):
            self._settle()

    def _settle(self) -> None:
        while self._withdrawn:
            self._journal.withdraw(self._withdrawn[-1])
            self._withdrawn.pop()

    def queued(self, execution: Execution) -> None:
        """It was approved."""
        self._try(execution, lambda: self._journal.queued(execution.id))

    def started(self, execution: Execution) -> None:
        """It has left the queue."""
        at, epoch = execution.started_at or 0.0, execution.kernel_epoch
        self._try(execution, lambda: self._journal.started(execution.id, at=at, epoch=epoch))

    def waiting_input(self, execution: Execution) -> None:
        """It asks for a line of input."""
        self._try(execution, lambda: self._journal.waiting_input(execution.id, execution.input_prompt))

    def running(self, execution: Execution) -> None:
        """Its question was answered."""
        self._try(execution, lambda: self._journal.running(execution.id))

    def streamed(self, execution: Execution, outputs: Sequence[NotebookNode], execution_count: int | None) -> None:
        """These outputs are about to be put into its cell, or are there."""
        shown = {"outputs": outputs, "execution_count": execution_count}
        self._try(execution, lambda: self._journal.streamed(execution.id, outputs_mark(shown)))

    def keep(self, execution: Execution, message: Message) -> None:
        """Keep a message of a run whose kernel nobody records, within a quarter of a second."""
        execution.unkept.append(message)
        if len(execution.unkept) == 1:
            self._tasks.start_soon(self._keep_soon, execution)

    async def _keep_soon(self, execution: Execution) -> None:
        await anyio.sleep(_KEEP_SECONDS)
        self.keep_now(execution)

    def keep_now(self, execution: Execution) -> None:
        """Keep what is not kept yet. Of a run that is done nothing need be."""
        messages, execution.unkept = execution.unkept, []
        if messages and not execution.finished:
            self._try(execution, lambda: self._journal.append_events(execution.id, messages))

    def kept(self, execution: Execution) -> list[Message]:
        """What an earlier server kept of a run."""
        with suppress(Unavailable):
            return self._journal.event_messages(execution.id)
        return []

    def of_request(self, kernel: Kernel, msg_id: str) -> str | None:
        """See `Journal.of_request`; None as well if the journal cannot be read."""
        with suppress(Unavailable):
            return self._journal.of_request(msg_id, kernel.id, kernel.epoch)
        return None

    async def recall(self, execution_id: str) -> tuple[ExecutionRow, bool] | None:
        """What an execution came to that is not remembered any more, and whether it is its cell's latest run."""
        with suppress(Unavailable):
            row = await self._journal.recall(execution_id)
            if row is not None:
                return row, self._journal.is_newest(row)
        return None

    async def finished(self, execution: Execution, *, on_disk: bool) -> None:
        """What it came to, and what could not be written before.

        Args:
            on_disk: nothing of it is waited for in a file.
        """
        self._owed[execution.id] = (execution, on_disk)
        while len(self._owed) > _OWED_MOST:
            self._drop(next(iter(self._owed)))
        await self.pay()

    async def pay(self) -> None:
        """Write down what could not be before. What still cannot be stays for the next time."""
        try:
            self._settle()
            for execution in list(self._untold.values()):
                self._catch_up(execution)
            for execution, on_disk in list(self._owed.values()):
                if execution.id in self._owed:
                    await self._finish(execution, on_disk)
                    execution.warnings.pop("journal", None)
                    self._drop(execution.id)
        except Unavailable as error:
            for execution, _ in tuple(self._owed.values()):
                self._failed(execution, error)

    def _catch_up(self, execution: Execution) -> None:
        """Write down how one that is not done stands; what it came to is written with what is owed."""
        if not execution.finished:
            self._write_state(execution)
            execution.warnings.pop("journal", None)
        self._untold.pop(execution.id, None)

    def _write_state(self, execution: Execution) -> None:
        row = self._missing.get(execution.id)
        if row is not None:
            self._journal.add_execution(row)
            del self._missing[execution.id]
        if execution.status in ("waiting_approval", "queued"):
            return
        self._journal.started(execution.id, at=execution.started_at or 0.0, epoch=execution.kernel_epoch)
        if execution.status == "waiting_input":
            self._journal.waiting_input(execution.id, execution.input_prompt)
        if execution.cell_id is not None:
            shown = {"outputs": execution.outputs(), "execution_count": execution.reducer.execution_count}
            self._journal.streamed(execution.id, outputs_mark(shown))

    async def _finish(self, execution: Execution, on_disk: bool) -> None:
        row = self._missing.get(execution.id)
        if row is not None:
            self._journal.add_execution(row)
            del self._missing[execution.id]
        reducer = execution.reducer
        await self._journal.finished(
            execution.id,
            execution.status,
            at=execution.finished_at or 0.0,
            outputs=execution.outputs(),
            execution_count=reducer.execution_count,
            ename=reducer.ename,
            evalue=reducer.evalue,
            note=execution.note,
            on_disk=on_disk,
        )

    def delivered(self, executions: Sequence[Execution]) -> bool:
        """Their outputs are in the file. False if that cannot be written down now."""
        for execution in executions:
            if execution.id in self._owed:
                self._owed[execution.id] = (execution, True)
        try:
            self._journal.delivered([execution.id for execution in executions])
        except Unavailable:
            return False
        return True

    def placed(self, executions: Sequence[Execution]) -> bool:
        """The cells made for them are in the file. False if that cannot be written down now."""
        try:
            self._journal.placed([execution.id for execution in executions])
        except Unavailable:
            return False
        return True

    def _try(self, execution: Execution, write: Callable[[], None]) -> None:
        if execution.id in self._missing:
            return
        try:
            write()
        except Unavailable as error:
            self._failed(execution, error)

    def _drop(self, execution_id: str) -> None:
        self._owed.pop(execution_id, None)
        self._missing.pop(execution_id, None)

    def _failed(self, execution: Execution, error: Unavailable) -> None:
        """Warn its callers, and try again until it is written."""
        execution.warnings["journal"] = (
            f"The journal cannot be written: {error.message} This run will not survive a crash of the server."
        )
        if not execution.finished:
            self._untold[execution.id] = execution
        if not self._retrying:
            self._retrying = True
            self._tasks.start_soon(self._retry)

    async def _retry(self) -> None:
        try:
            pause = _RETRY_SECONDS
            while self._untold or self._owed or self._withdrawn:
                await anyio.sleep(pause)
                began = anyio.current_time()
                await self.pay()
                # A journal that another process has locked, and big outputs, are not to take all the time there is.
                pause = max(_RETRY_SECONDS, 5 * (anyio.current_time() - began))
        finally:
            self._retrying = False


def row_of(execution: Execution, cell: NotebookNode | None, **place: Any) -> ExecutionRow:
    """What the journal keeps of an execution as it is submitted; `place` says where a new cell is."""
    batch = execution.batch
    return ExecutionRow(
        id=execution.id,
        notebook=execution.notebook,
        cell_id=execution.cell_id,
        kernel_id=execution.kernel.id,
        kernel_epoch=execution.kernel_epoch,
        msg_id=execution.msg_id,
        code=execution.code,
        author=execution.author,
        status=execution.status if execution.started_at is None else "running",
        queued_at=execution.queued_at,
        started_at=execution.started_at,
        source_hash=None if cell is None else source_hash(cell),
        replaced=None if cell is None else outputs_mark(cell),
        turn=batch.id if batch is not None and batch.stop_on_error else None,
        **place,
    )
