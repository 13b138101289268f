"""Output that comes after its cell has ended, from threads and tasks: it reaches the cell while that is still its."""

from __future__ import annotations

from contextlib import suppress

import anyio

from ..errors import KernelDead
from ..events import Events
from ..outputs import OutputReducer
from ..ports import Kernel
from ..tasks import Tasks
from .delivery import Delivery
from .execution import Execution
from .metadata import RunMetadata
from .recent import Recent
from .record import Record

FIRST_SECONDS = 0.1
PAUSE_SECONDS = 1.0
"""Between two writings of the same cell: each costs its whole outputs once more."""
MOST_OWNERS = 100
ELSEWHERE = "Output that came after the cell had changed is kept with the execution only."


class LateOutput:
    """Listens to what kernels publish for requests that have ended."""

    def __init__(
        self,
        recent: Recent,
        delivery: Delivery,
        metadata: RunMetadata,
        record: Record,
        events: Events,
        tasks: Tasks,
        max_output_bytes: int | None,
    ) -> None:
        self._recent = recent
        self._delivery = delivery
        self._metadata = metadata
        self._record = record
        self._events = events
        self._tasks = tasks
        self._max_output_bytes = max_output_bytes
        # Whose output the messages of a request are, of requests whose execution is not a recent one.
        self._owners: dict[str, str | None] = {}
        self._listening: set[tuple[str, int]] = set()
        self._pending: dict[str, Execution] = {}

    def listen(self, kernel: Kernel) -> None:
        """Listen to a kernel until this epoch's process ends. Without effect if that is done already."""
        key = kernel.id, kernel.epoch
        if key not in self._listening:
            self._listening.add(key)
            self._tasks.start_soon(self._listen, kernel, key)

    async def _listen(self, kernel: Kernel, key: tuple[str, int]) -> None:
        try:
            with suppress(KernelDead):
                async for message in kernel.stray():
                    execution = await self._of_request(kernel, message.parent_id)
                    if execution is not None and not execution.finished:
                        # What still runs has it from its request, or from the replay when it is taken up again.
                        continue
                    widgets = await self._metadata.widgets(key)
                    if execution is None:
                        widgets.feed(message)
                        continue
                    version, execution.widgets = widgets.version, widgets
                    if execution.take(message) or execution.reducer.foreign_updates or widgets.version != version:
                        execution.changed()
                        self._write_soon(execution)
        finally:
            self._listening.discard(key)
            self._metadata.forget(key)

    async def _of_request(self, kernel: Kernel, msg_id: str) -> Execution | None:
        """The execution a message belongs to: a recent one, or one the journal remembers.

        A request of ours that is no cell's, such as one for variables, becomes the parent of what threads print from
        then on: that belongs to what the kernel had run before.
        """
        recent = self._recent.of_request(msg_id)
        if recent is not None:
            return recent
        if msg_id not in self._owners:
            while len(self._owners) >= MOST_OWNERS:
                del self._owners[next(iter(self._owners))]
            self._owners[msg_id] = self._record.of_request(kernel, msg_id)
        owner = self._owners[msg_id]
        return None if owner is None else self._recent.get(owner) or await self._recall(kernel, owner)

    async def _recall(self, kernel: Kernel, execution_id: str) -> Execution | None:
        found = await self._record.recall(execution_id)
        if found is None:
            return None
        row, is_latest = found
        outputs = row.outputs or []
        execution = Execution(
            row.id,
            kernel,
            row.code,
            row.author,
            row.notebook,
            row.cell_id,
            row.notebook,
            msg_id=row.msg_id,
            status=row.status,
            queued_at=row.queued_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            kernel_epoch=row.kernel_epoch,
            reducer=OutputReducer(max_bytes=self._max_output_bytes),
            note=row.events_lost or "",
            settled=True,
            superseded=not is_latest,
            written=(outputs, row.execution_count),
        )
        execution.reducer.restore(outputs, row.execution_count)
        self._recent.recall(execution)
        return execution

    def _write_soon(self, execution: Execution) -> None:
        # What is not done yet is written when it is.
        if execution.settled and execution.id not in self._pending:
            self._pending[execution.id] = execution
            self._tasks.start_soon(self._write, execution)

    async def settle(self) -> None:
        """Put what waits for its pause into the cells now, before the server ends."""
        for execution in tuple(self._pending.values()):
            await self._deliver(execution)

    async def _write(self, execution: Execution) -> None:
        try:
            await anyio.sleep(FIRST_SECONDS)
            while True:
                version = execution.version
                await self._deliver(execution)
                await anyio.sleep(PAUSE_SECONDS)
                if execution.version == version:
                    return
        finally:
            self._pending.pop(execution.id, None)

    async def _deliver(self, execution: Execution) -> None:
        self._recent.done(execution)
        if execution.written is not None:
            # What the next server may find in the file, should this one not get to write what comes now.
            self._record.streamed(execution, *execution.written)
        in_cell = await self._delivery.write(execution, late=True)
        if execution.cell_id is not None and not in_cell:
            execution.add_note(ELSEWHERE)
        await self._metadata.write(execution)
        await self._record.finished(execution, on_disk=not in_cell)
        if in_cell:
            await self._delivery.confirm(execution)
        self._events.publish("execution.output", **execution.event())
