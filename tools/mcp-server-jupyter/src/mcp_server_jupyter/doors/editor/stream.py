"""The events of windows: numbered, kept for a while, and begun anew with the whole state where some were missed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from ...errors import JupyterMcpError
from ...events import Event
from ...execution.execution import Execution
from ...outputs import OutputOp, whole
from ...services import Services
from ..http.events import HEARTBEAT_SECONDS, Position, framed
from ..http.json_text import write_json
from . import shapes

KEPT = 2_000
KEPT_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    window: str | None
    """Whom it is for; None, for every window."""
    kind: str
    data: bytes


class WindowEvents:
    """What windows are told, numbered over all of them. Nothing is kept before there was a window.

    What a window was not given is kept within bounds. A reader that falls behind them gets the state anew, and the
    whole of every live execution's outputs: never a hole.
    """

    def __init__(self, services: Services, *, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self._services = services
        self._start = f"{time.time_ns() // 1_000_000:x}"
        self._most, self._most_bytes = kept, kept_bytes
        self._kept: deque[_Entry] = deque()
        self._bytes = 0
        self._number = 0
        self._news = anyio.Event()
        self._names: dict[str, tuple[str, str]] = {}
        self._is_used = False

    @contextmanager
    def following(self) -> Iterator[None]:
        """Tell what happens meanwhile."""
        stops = (
            self._services.events.listen(self._happened),
            self._services.executions.feed.listen(self._put_out),
            self._services.editors.listen(self.send),
        )
        try:
            yield
        finally:
            for stop in stops:
                stop()

    def send(self, kind: str, data: dict[str, Any], window: str | None = None) -> None:
        """Tell one window, or all."""
        if not self._is_used:
            return
        self._number += 1
        text = write_json(data)
        self._kept.append(_Entry(self._number, window, kind, text))
        self._bytes += len(text)
        while len(self._kept) > self._most or (self._bytes > self._most_bytes and len(self._kept) > 1):
            self._bytes -= len(self._kept.popleft().data)
        self._news.set()

    async def names(self) -> dict[str, tuple[str, str]]:
        """Display names and languages of kernelspecs."""
        self._names = {spec.name: (spec.display_name, spec.language) for spec in await self._services.kernels.specs()}
        return self._names

    def wake(self) -> None:
        """Let every stream look whether it goes on."""
        self._news.set()

    # ------------------------------------------------------------------ what happens

    def _happened(self, event: Event) -> None:
        if event.kind.startswith("execution.") and event.kind != "execution.output":
            self.send("execution", event.data)
        elif event.kind in ("agents.changed", "approval.changed"):
            self.send(event.kind.partition(".")[0], event.data)
        elif event.kind in shapes.KERNEL_EVENTS and self._is_used:
            self.send("kernel", self._kernel(event))
        elif event.kind == "kernel.starting" and self._is_used:
            self.send("kernel", self._starting(event))

    def _starting(self, event: Event) -> dict[str, Any]:
        start = self._services.sessions.starts.get(event.data["kernel_id"])
        if start is None or not start.goes_on:
            return shapes.stopped_kernel(event.data["kernel_id"])
        return {**shapes.starting(start, self._names), "change": "starting"}

    def _kernel(self, event: Event) -> dict[str, Any]:
        change = shapes.KERNEL_EVENTS[event.kind]
        try:
            session = self._services.sessions.get(event.data["kernel_id"])
        except JupyterMcpError:
            return shapes.stopped_kernel(event.data["kernel_id"])
        return shapes.kernel(session, self._names, change)

    def _put_out(self, execution: Execution, ops: Sequence[OutputOp]) -> None:
        if self._is_used:
            self.send("output", shapes.output(execution, ops))

    # ------------------------------------------------------------------ one window

    async def stream(self, window: str, last_id: str | None, is_open: Callable[[], bool]) -> AsyncIterator[bytes]:
        """What a window is told after `last_id`, as long as `is_open` says so."""
        self._is_used = True
        await self.names()
        yield framed(retry=1000)
        after = self._position(last_id)
        while is_open():
            if after is None or (self._kept and self._kept[0].number > after + 1):
                frames, after = self._whole()
                for frame in frames:
                    yield frame
                continue
            new = self._after(after)
            if new:
                for entry in new:
                    after = entry.number
                    if entry.window in (None, window):
                        yield self._frame(entry.number, entry.kind, entry.data)
                continue
            if self._news.is_set():
                self._news = anyio.Event()
            with anyio.move_on_after(HEARTBEAT_SECONDS) as silence:
                await self._news.wait()
            if silence.cancelled_caught:
                yield framed(comment="still here")

    def _position(self, last_id: str | None) -> int | None:
        """The number to go on after; None where the state is to be told anew."""
        if last_id is None:
            return None
        oldest = self._kept[0].number if self._kept else self._number + 1
        found = Position.parse(last_id)
        known = found is not None and found.start == self._start and oldest - 1 <= found.number <= self._number
        return found.number if found is not None and known else None

    def _after(self, number: int) -> list[_Entry]:
        new: list[_Entry] = []
        for entry in reversed(self._kept):
            if entry.number <= number:
                break
            new.append(entry)
        new.reverse()
        return new

    def _whole(self) -> tuple[list[bytes], int]:
        """The state and the outputs of what lives, and the number they stand for."""
        live = self._services.executions.active()
        for execution in live:
            self._services.executions.feed.advance(execution)
        told = [("state", shapes.state(self._services, self._names))]
        told += [("output", shapes.output(execution, whole(execution.shown))) for execution in live]
        return [self._frame(self._number, kind, write_json(data)) for kind, data in told], self._number

    def _frame(self, number: int, kind: str, data: bytes) -> bytes:
        return framed(id=f"{self._start}-{number}", event=kind, data=data.decode())
