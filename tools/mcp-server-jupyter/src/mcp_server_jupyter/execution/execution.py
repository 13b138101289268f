"""One piece of code on its way through a kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import anyio

from ..journal import FINISHED, Status
from ..outputs import OutputReducer, WidgetModels, readable
from ..ports import Kernel, Message, OutputSink

if TYPE_CHECKING:
    from nbformat import NotebookNode


PROGRESS_SECONDS = 0.3
_DISPLAYS = ("display_data", "execute_result")


@dataclass(eq=False)
class Batch:
    """Cells submitted together: after the first failure the rest is not run.

    Attributes:
        allow_stdin: whether code may ask for input; otherwise `input()` raises at once.
        places: the executions by id, in order, and where their cells were.
    """

    stop_on_error: bool
    failed: Execution | None = None
    id: str = field(default_factory=lambda: f"run-{uuid4().hex[:16]}")
    allow_stdin: bool = True
    places: dict[str, int] = field(default_factory=dict)

    def failure(self) -> str:
        """What kept the rest from being run, for people."""
        failed = self.failed
        if failed is None:
            return ""
        place = self.places.get(failed.id)
        cell = f"cell [{place}]" if place is not None else f"execution {failed.id}"
        if failed.status == "error":
            return f"{cell} raised {failed.reducer.ename}"
        return f"{cell} was interrupted" if failed.status == "interrupted" else f"{cell} ended as {failed.status}"


@dataclass(eq=False)
class Execution:
    """One piece of code on its way through a kernel."""

    id: str
    kernel: Kernel
    code: str
    author: str
    notebook: str | None = None
    """Where its cell is; None for code without a cell."""
    cell_id: str | None = None
    home: str | None = None
    """The kernel's notebook: displays that are shown there may be updated by code without a cell, too."""
    batch: Batch | None = None
    msg_id: str = field(default_factory=lambda: uuid4().hex)
    status: Status = "queued"
    queued_at: float = field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    kernel_epoch: int = 1
    reducer: OutputReducer = field(default_factory=OutputReducer)
    widgets: WidgetModels = field(default_factory=WidgetModels)
    """Those of its kernel's process."""
    input_request: Message | None = None
    note: str = ""
    """What the caller must be told besides the outputs: a cell deleted meanwhile, outputs lost in a gap."""
    warnings: dict[Literal["journal", "notebook"], str] = field(default_factory=dict)
    """What the caller must be told as long as it is so: that the journal or the file does not hold it."""
    settled: bool = False
    """It is finished, and its outputs are in the notebook as far as they ever will be: now it is answered."""
    may_raise: bool = False
    """An exception of its code does not stop its batch."""
    interrupt_asked: bool = False
    resumed: bool = False
    """An earlier server sent it: it may have ended before this one started."""
    uncertain: bool = False
    """What of it was lost, and so how it ended, is not known."""
    unkept: list[Message] = field(default_factory=list)
    """Messages that are to be in the journal soon: nobody else keeps them."""
    by_agent: bool = False
    waits_for: str = ""
    """What must happen before it is queued, for people."""
    superseded: bool = False
    """Its cell has been run again."""
    written: tuple[list[NotebookNode], int | None] | None = None
    """The outputs and the count its cell had when it began, or it last gave it: the cell is its own while it has them.
    """
    shown: list[NotebookNode] = field(default_factory=list)
    """The outputs that listeners have been told of, by `seq` changes."""
    seq: int = 0
    sink: OutputSink | None = None
    version: int = 0
    _changed: anyio.Event | None = None
    _flush: anyio.CancelScope | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def seconds(self) -> float:
        """How long it ran, or has been running."""
        if self.started_at is None:
            return 0.0
        return (self.finished_at or time.time()) - self.started_at

    @property
    def input_prompt(self) -> str | None:
        return None if self.input_request is None else str(self.input_request.content.get("prompt", ""))

    async def wait(
        self,
        seconds: float,
        progress: Callable[[Execution], Any] | None = None,
        heartbeat: float = 10.0,
    ) -> None:
        """Wait until it is done, waits for input, or `seconds` have passed. Waiting out changes nothing.

        `progress` is awaited on news, at most every 0.3 s, and at least every `heartbeat` seconds.
        """
        with anyio.move_on_after(seconds):
            if progress is None:
                await self._done_or_asking()
                return
            while True:
                with anyio.move_on_after(PROGRESS_SECONDS):
                    await self._done_or_asking()
                    return
                version = self.version
                await progress(self)
                with anyio.move_on_after(heartbeat):
                    await self.news(version)

    async def _done_or_asking(self) -> None:
        while not self.settled and self.input_request is None:
            await self.news(self.version)

    async def wait_finished(self, seconds: float) -> None:
        """Wait until it is done or `seconds` have passed, also if it waits for input meanwhile."""
        with anyio.move_on_after(seconds):
            while not self.settled:
                await self.news(self.version)

    def event(self) -> dict[str, Any]:
        """What listeners are told of it."""
        return {
            "execution_id": self.id,
            "notebook": self.notebook,
            "cell_id": self.cell_id,
            "kernel_id": self.kernel.id,
            "author": self.author,
            "status": self.status,
            "seconds": self.seconds,
            "kernel_epoch": self.kernel_epoch,
            "execution_count": self.reducer.execution_count,
            "queued_at": self.queued_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "input_prompt": self.input_prompt,
            "note": self.note,
            "batch": None if self.batch is None else self.batch.id,
            "seq": self.seq,
        }

    def outputs(self) -> list[NotebookNode]:
        return self.reducer.outputs()

    def readable(self) -> Sequence[Any]:
        """The outputs, with what its widgets show now in their places."""
        return readable(self.outputs(), self.widgets)

    def take(self, message: Message) -> bool:
        """Take one of its messages. True when its outputs, or displays that it updates, changed; never raises."""
        if self.widgets.feed(message):
            self.changed()
            return False
        if not self.widgets.capture(message):
            return self.reducer.feed(message)
        self.changed()
        # What is captured is no display of the cell, but updates those of the same name, as for nbclient.
        return message.msg_type in _DISPLAYS and self.reducer.feed(replace(message, msg_type="update_display_data"))

    def add_note(self, text: str) -> None:
        """Say one thing more, once."""
        if text not in self.note:
            self.note = f"{self.note} {text}".strip()

    def owns(self, cell: NotebookNode) -> bool:
        """Whether what the cell shows is still this run's: not run again, cleared, or edited since."""
        return (
            not self.superseded
            and cell.cell_type == "code"
            and cell.source == self.code
            and self.written == (cell.outputs, cell.execution_count)
        )

    def changed(self) -> None:
        """Wake everybody who waits for news of this execution."""
        self.version += 1
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def news(self, version: int) -> None:
        """Return when `self.version` is no longer `version`."""
        while self.version == version:
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
