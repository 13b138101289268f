"""Running code: queued, running, done. An execution outlives the call, the client and (by the journal) the server."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ..errors import InvalidRequest, JupyterMcpError, KernelDead, NotAllowed
from ..events import Events
from ..journal import EditRow, Journal, new_execution_id
from ..notebooks import insert_cell, may_raise, new_cell
from ..outputs import OutputReducer, WidgetModels
from ..ports import Contents
from ..tasks import Tasks
from .edit import journaled_edit
from .execution import Batch, Execution
from .feed import OutputFeed
from .recent import Recent
from .record import Record, row_of
from .runner import Runner, how_it_ended
from .session import Session, require_alive

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class KernelQueue:
    """What waits for one kernel, and what runs in it."""

    session: Session
    waiting: deque[Execution] = field(default_factory=deque)
    running: Execution | None = None
    draining: bool = False


class Executions:
    """Every execution of the server: one at a time a kernel, in the order they came."""

    def __init__(
        self, contents: Contents, journal: Journal, events: Events, tasks: Tasks, max_output_bytes: int | None = None
    ) -> None:
        self.max_output_bytes = max_output_bytes
        self._contents = contents
        self._journal = journal
        self._record = Record(journal, tasks)
        self._events = events
        self._tasks = tasks
        self._recent = Recent()
        # Of the kernels that have something to do; an idle one has none.
        self._queues: dict[str, KernelQueue] = {}
        # What waits for an approval, and the session it will run in.
        self._held: dict[str, Session] = {}
        self._refusal: Callable[[Execution], str] = lambda _: ""
        self._runner = Runner(contents, self._record, events, tasks, self._recent, max_output_bytes)

    def refuse(self, refusal: Callable[[Execution], str]) -> None:
        """Ask `refusal`, when a cell is put in for an execution and when its turn comes, why it may not run after all;
        "" where it may."""
        self._refusal = refusal

    # ------------------------------------------------------------------ what callers do

    def submit(
        self,
        session: Session,
        code: str,
        *,
        author: str,
        notebook: str | None = None,
        cell: NotebookNode | None = None,
        batch: Batch | None = None,
        by_agent: bool = False,
        hold: bool = False,
    ) -> Execution:
        """Queue code on a session's kernel, for a cell or for none. It is in the journal before it is sent.

        Where that cannot be written, it runs all the same and its answers say so.

        Raises:
            KernelDead
        """
        execution = self._new(session, code, author, notebook, cell, batch, by_agent=by_agent, hold=hold)
        if batch is not None:
            self._recent.remember(batch)
        self._record.submitted(execution, row_of(execution, cell))
        self._enqueue(session, execution)
        return execution

    async def insert(
        self,
        session: Session,
        notebook: str,
        cell_index: int,
        code: str,
        *,
        author: str,
        edit_row: Callable[[Execution, NotebookNode, int], EditRow],
        by_agent: bool = False,
        hold: bool = False,
    ) -> tuple[Execution, int]:
        """Put a new code cell before `cell_index` (-1: at the end) and queue it; its execution and its position.

        First the journal, so that a crash cannot lose the cell, then the notebook, then the kernel: where one refuses,
        the later ones are not asked and the earlier ones forget it. The file is written soon after (see
        `Contents.edit`). `edit_row(execution, cell, index)` is the edit's line in the journal, for undo.

        Raises:
            KernelDead, Conflict, NotFound, InvalidNotebook, InvalidRequest, NotAllowed, Unavailable
        """
        execution: Execution | None = None
        # A notebook that could not be written last time is to show first that it can be.
        durable = notebook in self._runner.delivery.failing
        await self._contents.check(notebook)
        try:
            async with journaled_edit(self._contents, self._journal, notebook, author, durable=durable) as edit:
                index = insert_cell(edit.notebook, cell_index, new_cell("code", code))
                cell = edit.notebook.cells[index]
                execution = self._new(session, code, author, notebook, cell, by_agent=by_agent, hold=hold)
                if why := self._refusal(execution):
                    raise NotAllowed(why, hint="Nothing was put in. Reading goes on.")
                after = edit.notebook.cells[index - 1]["id"] if index else None
                self._journal.add_execution(row_of(execution, cell, after_cell_id=after, cell_index=index))
                edit.rows.append(edit_row(execution, cell, index))
        except BaseException:
            if execution is not None:
                self._record.withdraw(execution)
            raise
        if session.id in self._queues:
            # Another one was faster while the notebook was written.
            execution.started_at = None
        self._enqueue(session, execution)
        self._runner.delivery.place_soon(execution)
        return execution, index

    def _new(
        self,
        session: Session,
        code: str,
        author: str,
        notebook: str | None,
        cell: NotebookNode | None,
        batch: Batch | None = None,
        *,
        by_agent: bool = False,
        hold: bool = False,
    ) -> Execution:
        require_alive(session)
        execution = Execution(
            new_execution_id(),
            session.kernel,
            code,
            author,
            notebook,
            None if cell is None else cell["id"],
            session.notebook,
            batch,
            kernel_epoch=session.kernel.epoch,
            reducer=OutputReducer(max_bytes=self.max_output_bytes),
            by_agent=by_agent,
            status="waiting_approval" if hold else "queued",
        )
        if cell is not None:
            execution.written = cell.outputs, cell.execution_count
            execution.may_raise = may_raise(cell)
        if not hold and session.id not in self._queues:
            # It is sent at once: one commit says so, where two would be written within a millisecond.
            execution.started_at = execution.queued_at
        return execution

    async def make_up(self) -> None:
        """Write down what the journal could not take before; warnings of what it takes now are gone then."""
        await self._record.pay()

    def get(self, execution_id: str) -> Execution | None:
        """An execution of this server's life time, if it is a recent one; the journal has all."""
        return self._recent.get(execution_id)

    def batch(self, batch_id: str) -> Batch | None:
        """A batch of this server's life time, if it is a recent one."""
        return self._recent.batches.get(batch_id)

    @property
    def feed(self) -> OutputFeed:
        """Tells what cells put out."""
        return self._runner.delivery.feed

    def widgets(self, session: Session) -> WidgetModels | None:
        """The widgets that a session's kernel has told of, if it has of any."""
        return self._runner.metadata.known(session.kernel)

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: what runs in it goes on there."""
        self._recent.renamed(notebook, to)
        for execution in self._recent.live:
            if execution.notebook == to:
                self._runner.publish("moved", execution)

    async def make_good(self, notebook: str) -> None:
        """Write into a notebook that has been found again what found no file before."""
        await self._runner.delivery.make_good(notebook)

    def active(self) -> Sequence[Execution]:
        return self._recent.live

    def running(self, session: Session) -> Execution | None:
        """What runs in a session's kernel now."""
        queue = self._queues.get(session.id)
        return None if queue is None else queue.running

    def waiting(self, session: Session) -> Sequence[Execution]:
        """What waits for a session's kernel, the next one first."""
        queue = self._queues.get(session.id)
        return () if queue is None else tuple(queue.waiting)

    async def interrupt(self, execution: Execution) -> None:
        """Interrupt it if it runs, take it out of the queue if it does not yet."""
        queue = self._queues.get(execution.kernel.id)
        if execution.status == "waiting_approval":
            await self.take_back(execution, "Taken back before it was approved.")
        if execution.finished or queue is None:
            return
        if queue.running is execution:
            execution.interrupt_asked = True
            await execution.kernel.interrupt(execution.msg_id)
            return
        if execution in queue.waiting:
            queue.waiting.remove(execution)
            await self._runner.finish(execution, "aborted", "Taken out of the queue before it ran.")

    def interrupt_soon(self, execution: Execution) -> None:
        """`interrupt`, from a caller that is itself being cancelled."""
        self._tasks.start_soon(self.interrupt, execution)

    async def interrupt_session(self, session: Session) -> int:
        """Interrupt what runs, be it somebody else's, and drop what waits; how many. A dead kernel is left.

        Raises:
            Unavailable: the kernel cannot be reached; what waits has its turn as before.
        """
        waiting = self.waiting(session)
        if queue := self._queues.get(session.id):
            # None of them begins in the place of what is interrupted.
            queue.waiting.clear()
        try:
            await self._interrupt_kernel(session)
        except JupyterMcpError:
            if (running := self.running(session)) is not None:
                running.interrupt_asked = False
            self._put_back(session, waiting)
            raise
        for execution in waiting:
            await self._runner.finish(execution, "aborted", "Taken out of the queue before it ran.")
        return len(waiting)

    def _put_back(self, session: Session, waiting: Sequence[Execution]) -> None:
        queue = self._queues.get(session.id)
        if queue is not None:
            queue.waiting.extendleft(reversed(waiting))
            return
        for execution in waiting:
            self._append(session, execution)

    async def _interrupt_kernel(self, session: Session) -> None:
        running = self.running(session)
        if running is not None:
            running.interrupt_asked = True
        kernel = session.kernel
        is_foreign = kernel.foreign_since is not None
        with suppress(KernelDead):
            if running is not None:
                await kernel.interrupt(running.msg_id)
            if running is None or is_foreign:
                await kernel.interrupt()

    async def send_input(self, execution: Execution, text: str) -> None:
        """Answer the `input()` a cell waits in.

        Raises:
            InvalidRequest: it does not wait for input.
        """
        request = execution.input_request
        if request is None:
            raise InvalidRequest(f"Execution {execution.id} does not wait for input; it is {execution.status}.")
        execution.status = "running"
        execution.input_request = None
        self._record.running(execution)
        self._runner.publish("resumed", execution)
        await execution.kernel.send_input(text, request)

    def listen(self, session: Session) -> None:
        """Take what a kernel of an earlier server still publishes for executions that are done."""
        self._runner.metadata.adopted(session)
        self._runner.late.listen(session.kernel)

    async def resume(self, session: Session, execution: Execution) -> None:
        """Take up an execution that an earlier server sent (see `recovery.recover`)."""
        self._append(session, execution)

    async def abandon(self, reason: str) -> None:
        """Write down that what still runs ends with the server; a cell that is cut off says so itself."""
        for execution in self.active():
            if not execution.kernel.ends_with_server:
                # The next server takes it up.
                continue
            if execution.status in ("waiting_approval", "queued"):
                await self._runner.finish(execution, "aborted", reason)
                continue
            execution.reducer.add_error("ServerStopped", f"{reason} What it showed after this is missing.")
            await self._runner.finish(execution, "lost", reason)

    async def settle(self) -> None:
        """Bring what has finished to the disk, before the server ends. What cannot be written is left to the next."""
        await self._runner.settle()

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for at most `seconds`."""
        with anyio.move_on_after(seconds):
            for execution in self.active():
                await execution.wait_finished(seconds)

    # ------------------------------------------------------------------ the queue of a kernel

    def let_run(self, execution: Execution) -> None:
        """It was approved: it has its turn after what waits already."""
        held = self._held.pop(execution.id, None)
        if held is not None and execution.status == "waiting_approval":
            execution.status = "queued"
            self._record.queued(execution)
            self._enqueue(held, execution)
            execution.changed()

    async def take_back(self, execution: Execution, why: str) -> None:
        """Do not run it after all, if it has not begun."""
        queue = self._queues.get(execution.kernel.id)
        if execution.status == "waiting_approval":
            self._held.pop(execution.id, None)
            await self._runner.finish(execution, "aborted", why)
        elif queue is not None and execution in queue.waiting:
            queue.waiting.remove(execution)
            await self._runner.finish(execution, "aborted", why)

    def _enqueue(self, session: Session, execution: Execution) -> None:
        if execution.status == "waiting_approval":
            self._held[execution.id] = session
            self._recent.add(execution)
            self._runner.publish("waiting_approval", execution)
            return
        self._runner.publish("queued", execution)
        self._append(session, execution)

    def _append(self, session: Session, execution: Execution) -> None:
        self._recent.add(execution)
        queue = self._queues.setdefault(session.id, KernelQueue(session))
        session.works(now=True)
        queue.waiting.append(execution)
        if not queue.draining:
            queue.draining = True
            self._tasks.start_soon(self._drain, queue)

    async def _drain(self, queue: KernelQueue) -> None:
        try:
            while queue.waiting:
                execution = queue.waiting.popleft()
                queue.running = execution
                try:
                    await self._take_turn(queue, execution)
                except JupyterMcpError as error:
                    self._runner.give_up(execution, str(error))
                except Exception:
                    logger.exception("execution %s failed", execution.id)
                    self._runner.give_up(execution, "The server failed while this cell ran; its log says how.")
                finally:
                    queue.running = None
        finally:
            del self._queues[queue.session.id]
            queue.session.works(now=False)

    async def _take_turn(self, queue: KernelQueue, execution: Execution) -> None:
        session, batch = queue.session, execution.batch
        if session.ending == "restarted":
            # Nothing can be sent before there is a process again.
            async with session.lock:
                pass
        if batch is not None and batch.failed is not None:
            await self._runner.finish(execution, "aborted", f"Not run: {batch.failure()}.")
        elif execution.status == "queued" and (why := self._refusal(execution)):
            await self._runner.finish(execution, "aborted", why)
        elif session.death is not None and execution.status == "queued":
            await self._runner.finish(execution, "aborted", f"Not run: the kernel {how_it_ended(session)}.")
        elif how := await self._runner.run(session, execution):
            dropped = tuple(queue.waiting)
            queue.waiting.clear()
            for each in dropped:
                await self._runner.finish(each, "aborted", f"Not run: the kernel {how}.")
