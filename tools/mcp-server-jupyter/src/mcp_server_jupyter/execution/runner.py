"""The way of one execution through its kernel: sent, its messages taken, finished, its outputs delivered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Container

import anyio

from ..errors import KernelDead
from ..events import Events
from ..journal import Status
from ..ports import Contents, Message
from ..tasks import Tasks
from .delivery import Delivery
from .execution import Execution
from .late import LateOutput
from .metadata import RunMetadata
from .recent import Recent
from .record import Record
from .session import Session, describe


class Runner:
    """Runs executions, whose turn it is, one call each. The journal, the notebook and listeners are told."""

    def __init__(
        self,
        contents: Contents,
        record: Record,
        events: Events,
        tasks: Tasks,
        recent: Recent,
        max_output_bytes: int | None,
    ) -> None:
        self.delivery = Delivery(contents, record, events, tasks, recent)
        self.metadata = RunMetadata(contents, recent)
        self.late = LateOutput(recent, self.delivery, self.metadata, record, events, tasks, max_output_bytes)
        self._record = record
        self._events = events
        self._tasks = tasks
        self._recent = recent

    async def run(self, session: Session, execution: Execution) -> str:
        """Send it, or go on with what an earlier server sent, until it is done. How its kernel ended, if it did."""
        kernel = execution.kernel
        resumed = execution.status != "queued"
        self.late.listen(kernel)
        if execution.input_request is None:
            execution.status = "running"
        if execution.started_at is None or execution.kernel_epoch != kernel.epoch:
            execution.started_at = time.time()
            execution.kernel_epoch = kernel.epoch
            execution.status = "running"
            self._record.started(execution)
        execution.widgets = await self.metadata.widgets((kernel.id, execution.kernel_epoch))
        self.publish("started", execution)
        try:
            if not resumed or not await self._take_up(execution):
                await self._consume(execution, self._request(execution))
            await self.metadata.sync(execution)
        except KernelDead as error:
            how = how_it_ended(session, error)
            await self._died(session, execution, how)
            return how
        await self.finish(execution, self._final_status(execution))
        return ""

    async def _take_up(self, execution: Execution) -> bool:
        """Go on with what an earlier server sent. False if the kernel never had it, so that it is to be sent."""
        execution.resumed = True
        had = [] if execution.kernel.is_recorded else self._record.kept(execution)
        replay = await execution.kernel.resume(execution.msg_id, had)
        some = await self._consume(execution, replay.messages, {message.msg_id for message in had})
        if not some and (replay.complete or not replay.received):
            execution.resumed = False
            return False
        if not replay.complete:
            execution.note = replay.lost or "Some output of this cell was lost while the server was away."
            execution.uncertain = replay.uncertain
        return True

    def _request(self, execution: Execution) -> AsyncIterator[Message]:
        content = {
            "code": execution.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": execution.batch is None or execution.batch.allow_stdin,
            "stop_on_error": False,
        }
        return execution.kernel.request("execute_request", content, msg_id=execution.msg_id)

    async def _consume(self, execution: Execution, messages: AsyncIterator[Message], kept: Container[str] = ()) -> bool:
        """Take a request's messages as they come. True if there were any. Those `kept` are in the journal already."""
        some = False
        async for message in messages:
            some = True
            if not execution.kernel.is_recorded and message.msg_id not in kept:
                self._record.keep(execution, message)
            count = execution.reducer.execution_count
            if message.msg_type == "input_request":
                execution.input_request = message
                execution.status = "waiting_input"
                self._record.waiting_input(execution)
                self.publish("waiting_input", execution)
                execution.changed()
            elif message.msg_type == "lost":
                execution.add_note(message.content["text"])
            elif execution.take(message):
                execution.changed()
                self._flush_later(execution)
            if execution.reducer.execution_count != count:
                self.publish("counted", execution)
        return some

    def _final_status(self, execution: Execution) -> Status:
        """What it came to. A taken-up execution may have no reply, which went to the server that sent it."""
        if execution.uncertain:
            return "lost"
        reducer = execution.reducer
        status: Status = ("error" if reducer.ename else "ok") if reducer.status == "running" else reducer.status
        if status == "error" and execution.interrupt_asked and reducer.ename == "KeyboardInterrupt":
            return "interrupted"
        return status

    async def _died(self, session: Session, execution: Execution, how: str) -> None:
        death = None if session.ending else session.death
        what = f"The kernel {how} while this cell ran."
        execution.reducer.add_error("KernelDead" if death else "KernelInterrupt", what)
        hint = " restart_kernel starts a new one and names the cells to rerun." if death else ""
        if death:
            # This answer tells it.
            session.died().tell(execution.author)
        await self.finish(execution, "died" if death else "interrupted", what + hint)

    # ------------------------------------------------------------------ journal, notebook, listeners

    async def finish(self, execution: Execution, status: Status, note: str = "") -> None:
        """It is done: in the journal, in its cell, for those who wait, and for listeners."""
        if execution.finished:
            return
        if note:
            execution.add_note(note)
        fine = status in ("ok", "aborted") or (status == "error" and execution.may_raise)
        if execution.batch is not None and execution.batch.stop_on_error and not fine:
            execution.batch.failed = execution.batch.failed or execution
        execution.finished_at = time.time()
        execution.input_request = None
        execution.status = status
        if execution._flush is not None:
            execution._flush.cancel()
        await self._record.finished(execution, on_disk=execution.notebook is None or status == "aborted")
        if status != "aborted":
            await self.delivery.finish(execution)
            await self.metadata.write(execution)
        self._done(execution)

    def give_up(self, execution: Execution, why: str) -> None:
        """What it came to cannot be written down: callers are told, and those behind it have their turn."""
        execution.status = "lost"
        execution.finished_at = time.time()
        execution.add_note(why)
        self._done(execution)

    async def settle(self) -> None:
        """Bring what is under way to the disk, before the server ends. What cannot be written is left to the next."""
        await self.late.settle()
        for execution in self._recent.live:
            self._record.keep_now(execution)
        await self._record.pay()
        await self.delivery.settle()

    def _done(self, execution: Execution) -> None:
        execution.settled = True
        self._recent.done(execution)
        self.publish("finished", execution)
        execution.changed()

    def _flush_later(self, execution: Execution) -> None:
        if execution._flush is None:
            execution._flush = anyio.CancelScope()
            self._tasks.start_soon(self.delivery.stream, execution, execution._flush)

    def publish(self, what: str, execution: Execution) -> None:
        """Tell listeners."""
        if self._events.listeners:
            self._events.publish(f"execution.{what}", **execution.event())


def how_it_ended(session: Session, error: KernelDead | None = None) -> str:
    """What became of a kernel, after "the kernel": by itself, or because it was restarted or shut down."""
    death = None if session.ending else session.death
    if death is not None:
        return describe(death)
    return f"was {session.ending or (error.reason if error else '') or 'lost'}"
