"""Running code: queued, running, done. An execution outlives the call, the client and (by the journal) the server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import InvalidRequest, JupyterMcpError, KernelDead
from ..events import Events
from ..journal import ExecutionRow, Journal, new_execution_id
from ..outputs import OutputReducer
from ..ports import Contents, Message
from ..tasks import Tasks
from .delivery import Delivery
from .execution import Batch, Execution
from .session import Session, describe

if TYPE_CHECKING:
    pass

PROGRESS_SECONDS = 0.3


class Executions:
    """Every execution of the server: one at a time a kernel, in the order they came."""

    def __init__(
        self, contents: Contents, journal: Journal, events: Events, tasks: Tasks, max_output_bytes: int | None = None
    ) -> None:
        self.max_output_bytes = max_output_bytes
        self._journal = journal
        self._events = events
        self._tasks = tasks
        self._live: dict[str, Execution] = {}
        self._recent: dict[str, Execution] = {}
        self._delivery = Delivery(contents, journal, events, self._recent)

    # ------------------------------------------------------------------ what callers do

    def submit(
        self,
        session: Session,
        code: str,
        *,
        author: str,
        notebook: str | None = None,
        cell_id: str | None = None,
        source_hash: str | None = None,
        after_cell_id: str | None = None,
        cell_index: int | None = None,
        inserted: bool = False,
        batch: Batch | None = None,
    ) -> Execution:
        """Queue code on a session's kernel. It is in the journal before it is sent.

        `inserted` says that the cell was made for this execution, so that a crash before the file was written
        cannot lose it: `after_cell_id` and `cell_index` say where it belongs.
        """
        execution = Execution(
            new_execution_id(),
            session,
            code,
            author,
            notebook,
            cell_id,
            batch=batch,
            kernel_epoch=session.kernel.epoch,
            reducer=OutputReducer(max_bytes=self.max_output_bytes),
        )
        if not session.draining:
            # It is sent at once: one commit says so, where two would be written within a millisecond.
            execution.started_at = execution.queued_at
        self._journal.add_execution(
            ExecutionRow(
                id=execution.id,
                notebook=notebook,
                cell_id=cell_id,
                after_cell_id=after_cell_id,
                cell_index=cell_index if inserted else None,
                kernel_id=session.id,
                kernel_epoch=execution.kernel_epoch,
                msg_id=execution.msg_id,
                code=code,
                author=author,
                status="queued" if execution.started_at is None else "running",
                queued_at=execution.queued_at,
                started_at=execution.started_at,
                source_hash=source_hash,
                turn=batch.id if batch is not None and batch.stop_on_error else None,
            )
        )
        self._enqueue(execution)
        return execution

    async def wait(
        self,
        execution: Execution,
        seconds: float,
        progress: Callable[[Execution], Any] | None = None,
        heartbeat: float = 10.0,
    ) -> None:
        """Wait until it is done, waits for input, or `seconds` have passed. Waiting out changes nothing.

        `progress` is awaited on news, at most every 0.3 s, and at least every `heartbeat` seconds.
        """
        with anyio.move_on_after(seconds):
            if progress is None:
                await self._settled(execution)
                return
            while True:
                with anyio.move_on_after(PROGRESS_SECONDS):
                    await self._settled(execution)
                    return
                version = execution.version
                await progress(execution)
                with anyio.move_on_after(heartbeat):
                    await execution.news(version)

    async def _settled(self, execution: Execution) -> None:
        while not execution.finished and execution.input_request is None:
            await execution.news(execution.version)

    def get(self, execution_id: str) -> Execution | None:
        """An execution of this server's life time; older ones are in the journal."""
        return self._live.get(execution_id) or self._recent.get(execution_id)

    def active(self) -> Sequence[Execution]:
        return tuple(self._live.values())

    async def interrupt(self, execution: Execution) -> None:
        """Interrupt it if it runs, take it out of the queue if it does not yet."""
        if execution.finished:
            return
        if execution.session.running is execution:
            execution.interrupt_asked = True
            await execution.session.kernel.interrupt()
            return
        if execution in execution.session.queue:
            execution.session.queue.remove(execution)
            await self._finish(execution, "aborted", "Taken out of the queue before it ran.")

    def interrupt_soon(self, execution: Execution) -> None:
        """`interrupt`, from a caller that is itself being cancelled."""
        self._tasks.start_soon(self.interrupt, execution)

    async def interrupt_session(self, session: Session) -> int:
        """Interrupt what runs and drop what waits. Returns how many were dropped. A dead kernel is left."""
        waiting = list(session.queue)
        for execution in waiting:
            await self.interrupt(execution)
        if session.running is not None:
            session.running.interrupt_asked = True
        with suppress(KernelDead):
            await session.kernel.interrupt()
        return len(waiting)

    async def send_input(self, execution: Execution, text: str) -> None:
        """Answer the `input()` a cell waits in.

        Raises:
            InvalidRequest: it does not wait for input.
        """
        request = execution.input_request
        if request is None:
            raise InvalidRequest(f"Execution {execution.id} does not wait for input; it is {execution.status}.")
        execution.input_request = None
        self._set_status(execution, "running", input_prompt=None)
        await execution.session.kernel.send_input(text, request)

    async def resume(self, execution: Execution) -> None:
        """Take up an execution that an earlier server sent (see `services.recover`)."""
        execution.session.queue.append(execution)
        self._live[execution.id] = execution
        self._start_draining(execution.session)

    def abandon(self, reason: str) -> None:
        """Write down that what still runs ends with the server."""
        for execution in self.active():
            status = "aborted" if execution.status == "queued" else "lost"
            self._journal.update_execution(
                execution.id,
                status=status,
                finished_at=time.time(),
                outputs=execution.outputs(),
                events_lost=reason,
                on_disk=True,
            )

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for at most `seconds`."""
        with anyio.move_on_after(seconds):
            for execution in self.active():
                while not execution.finished:
                    await execution.news(execution.version)

    # ------------------------------------------------------------------ the queue of a kernel

    def _enqueue(self, execution: Execution) -> None:
        self._live[execution.id] = execution
        execution.session.queue.append(execution)
        self._publish("queued", execution)
        self._start_draining(execution.session)

    def _start_draining(self, session: Session) -> None:
        if not session.draining:
            session.draining = True
            self._tasks.start_soon(self._drain, session)

    async def _drain(self, session: Session) -> None:
        try:
            while session.queue:
                execution = session.queue.popleft()
                if execution.batch is not None and execution.batch.failed is not None:
                    first = execution.batch.failed
                    await self._finish(execution, "aborted", f"Not run: execution {first.id} failed before it.")
                    continue
                session.running = execution
                try:
                    await self._run(execution)
                except JupyterMcpError as error:
                    self._give_up(execution, error)
                finally:
                    session.running = None
        finally:
            session.draining = False

    async def _run(self, execution: Execution) -> None:
        kernel = execution.session.kernel
        resumed = execution.status != "queued"
        execution.status = "running"
        if execution.started_at is None:
            execution.started_at = time.time()
            execution.kernel_epoch = kernel.epoch
            started = {"started_at": execution.started_at, "kernel_epoch": kernel.epoch}
            self._set_status(execution, "running", **started)
        self._publish("started", execution)
        try:
            if not resumed or not await self._take_up(execution):
                await self._consume(execution, self._request(execution))
        except KernelDead as error:
            await self._died(execution, error)
            return
        await self._finish(execution, self._final_status(execution))

    async def _take_up(self, execution: Execution) -> bool:
        """Go on with what an earlier server sent. False if the kernel never had it, so that it is to be sent."""
        replay = await execution.session.kernel.resume(execution.msg_id)
        some = await self._consume(execution, replay.messages)
        if not some and (replay.complete or not replay.received):
            return False
        if not replay.complete:
            execution.note = replay.lost or "Some output of this cell was lost while the server was away."
        return True

    def _request(self, execution: Execution) -> AsyncIterator[Message]:
        content = {
            "code": execution.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": False,
        }
        return execution.session.kernel.request("execute_request", content, msg_id=execution.msg_id)

    async def _consume(self, execution: Execution, messages: AsyncIterator[Message]) -> bool:
        """Take a request's messages as they come. True if there were any."""
        some = False
        async for message in messages:
            some = True
            if message.msg_type == "input_request":
                execution.input_request = message
                self._set_status(execution, "waiting_input", input_prompt=execution.input_prompt)
                execution.changed()
            elif execution.reducer.feed(message):
                execution.changed()
                self._flush_later(execution)
        return some

    def _final_status(self, execution: Execution) -> str:
        """What it came to. A taken-up execution may have no reply, which went to the server that sent it."""
        reducer = execution.reducer
        status = ("error" if reducer.ename else "ok") if reducer.status == "running" else reducer.status
        if status == "error" and execution.interrupt_asked and reducer.ename == "KeyboardInterrupt":
            return "interrupted"
        return status

    async def _died(self, execution: Execution, error: KernelDead) -> None:
        """Its kernel ended: by itself, or because it was restarted or shut down."""
        session = execution.session
        death = None if session.ending else session.kernel.death
        how = describe(death) if death else f"was {session.ending or error.reason or 'lost'}"
        what = f"The kernel {how} while this cell ran."
        execution.reducer.add_error("KernelDead" if death else "KernelInterrupt", what)
        hint = " restart_kernel starts a new one and names the cells to rerun." if death else ""
        await self._finish(execution, "died" if death else "interrupted", what + hint)
        for waiting in list(session.queue):
            session.queue.remove(waiting)
            await self._finish(waiting, "aborted", f"Not run: the kernel {how}.")

    # ------------------------------------------------------------------ journal, notebook, listeners

    def _set_status(self, execution: Execution, status: str, **columns: Any) -> None:
        execution.status = status
        self._journal.update_execution(execution.id, status=status, **columns)

    async def _finish(self, execution: Execution, status: str, note: str = "") -> None:
        if note:
            execution.note = f"{execution.note} {note}".strip()
        if execution.batch is not None and execution.batch.stop_on_error and status not in ("ok", "aborted"):
            execution.batch.failed = execution.batch.failed or execution
        reducer = execution.reducer
        execution.finished_at = time.time()
        execution.input_request = None
        self._set_status(
            execution,
            status,
            finished_at=execution.finished_at,
            execution_count=reducer.execution_count,
            ename=reducer.ename,
            evalue=reducer.evalue,
            outputs=execution.outputs(),
            input_prompt=None,
            events_lost=execution.note or None,
            on_disk=execution.notebook is None or status == "aborted",
        )
        if execution._flush is not None:
            execution._flush.cancel()
        if execution.notebook is not None and status != "aborted":
            await self._delivery.write(execution)
            self._tasks.start_soon(self._delivery.confirm, execution)
        self._live.pop(execution.id, None)
        self._remember(execution)
        self._publish("finished", execution)
        execution.changed()

    def _give_up(self, execution: Execution, error: JupyterMcpError) -> None:
        """What it came to cannot be written down: callers are told, and those behind it have their turn."""
        execution.status = "lost"
        execution.finished_at = time.time()
        execution.note = f"{execution.note} {error}".strip()
        self._live.pop(execution.id, None)
        self._remember(execution)
        execution.changed()

    def _remember(self, execution: Execution) -> None:
        self._recent[execution.id] = execution
        if len(self._recent) > 200:
            del self._recent[next(iter(self._recent))]

    def _flush_later(self, execution: Execution) -> None:
        if execution._flush is None:
            execution._flush = anyio.CancelScope()
            self._tasks.start_soon(self._delivery.stream, execution, execution._flush)

    def _publish(self, what: str, execution: Execution) -> None:
        self._events.publish(f"execution.{what}", **execution.event())
