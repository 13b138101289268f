"""Runs of whole notebooks: a queue, some workers, a kernel of its own for each, and what is kept afterwards.

Whose is what: a run's row and folder are the gateway's, its kernel and executions the services'. A run is accepted
once its folder and then its row are written. Whatever a crash cuts off goes on: the services take over the kernel and
what is queued for it, and the runner submits those cells of an attempt that have no execution yet; no cell is sent
twice.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread

from ..errors import JupyterMcpError, Unsupported
from ..journal import RunRow, new_run_id
from ..services import Services
from ..settings import Settings
from .attempt import Attempts, Outcome
from .failures import Failure, Refused, refuse
from .folders import Folders
from .keeping import Keeper
from .mending import mend
from .parameters import inject, undeclared
from .payload import Sent, check_kernel, is_run
from .record import Record

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5


@dataclass(eq=False)
class Active:
    """A run that a worker has. `cancelled` is set before its scope is."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    cancelled: bool = False


class Runs:
    """All runs of a gateway. Made by `open_runs`."""

    def __init__(self, services: Services, folders: Folders, tasks: anyio.abc.TaskGroup) -> None:
        self.services = services
        self.folders = folders
        self.settings: Settings = services.settings
        self.workers = self.settings.workers or os.cpu_count() or 1
        self.finished: dict[str, int] = {}
        """Runs that have ended since the start, by what became of them."""
        self._journal = services.journal
        self._tasks = tasks
        self._waiting: deque[str] = deque()
        self._active: dict[str, Active] = {}
        self._record = Record(services.journal)
        self._attempts = Attempts(services, folders, self._record)
        self._closing = False
        self._keeper = Keeper(services, folders, self.workers)

    # ------------------------------------------------------------------ what callers do

    async def accept(self, sent: Sent, *, key: str | None = None, kernel: str | None = None) -> RunRow:
        """Take a run on: from the moment this returns it is not lost. With a known key, the run of that key.

        Args:
            kernel: the one to run it with, instead of the notebook's, which has to be allowed.

        Raises:
            Refused: invalid_kernel, invalid_parameters, idempotency_key_reused, queue_full.
            Unavailable: it cannot be written down.
        """
        settings = self.settings
        body_hash = sent.digest
        if key is not None and (known := self._of_key(key, body_hash)):
            return known
        name = kernel or check_kernel(
            sent.notebook, settings.kernel_name, settings.allowed_kernels, settings.allowed_languages
        )
        self._require_room()
        executed = deepcopy(sent.notebook)
        warnings = _injected(executed, sent.parameters)
        row = RunRow(new_run_id(), name, key=key, body_hash=body_hash, warnings=warnings)
        row.total = sum(is_run(cell) for cell in executed.cells)
        try:
            await anyio.to_thread.run_sync(self.folders.make, row.id, sent.notebook, executed)
        except OSError as error:
            raise Refused(
                Failure("queue_full", f"The run cannot be stored: {error.strerror}."), retry_after=60
            ) from error
        # While the files were written, another request of the same key may have been accepted.
        known = None if key is None else self._journal.run_of_key(key)
        try:
            if known is None:
                # As many requests as came meanwhile may have been accepted, too.
                self._require_room()
                self._journal.add_run(row, {"status": "queued"})
        except JupyterMcpError:
            await anyio.to_thread.run_sync(self.folders.remove, row.id)
            raise
        if known is not None:
            await anyio.to_thread.run_sync(self.folders.remove, row.id)
            assert key is not None
            return self._of_key(key, body_hash) or known
        self._waiting.append(row.id)
        self._pump()
        return row

    def _require_room(self) -> None:
        if len(self._waiting) >= self.settings.queue:
            raise Refused(
                Failure("queue_full", f"{len(self._waiting)} runs are waiting already. Try again later."),
                retry_after=RETRY_SECONDS,
            )

    def _of_key(self, key: str, body_hash: str) -> RunRow | None:
        known = self._journal.run_of_key(key)
        if known is not None and known.body_hash != body_hash:
            raise refuse(
                "idempotency_key_reused", "This Idempotency-Key was used for another request.", run_id=known.id
            )
        return known

    def get(self, run_id: str) -> RunRow:
        """A run.

        Raises:
            Refused: not_found.
        """
        row = self._journal.run(run_id)
        if row is None:
            raise refuse("not_found", f"There is no run {run_id!r}, or it is kept no longer.")
        return row

    def latest(self, limit: int) -> Sequence[RunRow]:
        return self._journal.runs(limit)

    def progress(self, row: RunRow) -> tuple[int, int]:
        """How many of its cells have ended, and how many there are."""
        cells = self._journal.run_cells(row.batch) if row.batch else []
        return sum(cell.status in ("ok", "error") for cell in cells), row.total

    @property
    def counts(self) -> dict[str, int]:
        """How many wait and run now."""
        return {"queued": len(self._waiting), "running": len(self._active)}

    def events(self, run_id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What has happened to a run after event AFTER."""
        return self._journal.run_events(run_id, after)

    async def news(self, run_id: str) -> None:
        """Return when something has happened to a run since this was called."""
        await self._record.news(run_id)

    async def wait(self, run_id: str) -> RunRow:
        """The run once it has ended.

        Raises:
            Refused: not_found: it was forgotten meanwhile.
        """
        while not (row := self.get(run_id)).ended:
            await self.news(run_id)
        return row

    async def settled(self, run_id: str) -> RunRow:
        """The run once it has ended and no worker has to do with it any more: its folder is the caller's.

        Raises:
            Refused: not_found.
        """
        row = await self.wait(run_id)
        while run_id in self._active:
            await self.news(run_id)
        return row

    async def cancel(self, run_id: str) -> RunRow:
        """End a run that has not ended; its kernel is gone afterwards.

        Raises:
            Refused: not_found.
        """
        row = self.get(run_id)
        if row.ended:
            if row.kept_until is not None:
                await self._keeper.let_go(row)
            return self.get(run_id)
        if run_id in self._waiting:
            self._waiting.remove(run_id)
            self._end(row, Outcome(Failure("cancelled", "The run was cancelled before it began.")))
            return row
        active = self._active.get(run_id)
        if active is not None:
            active.cancelled = True
            active.scope.cancel()
        return await self.wait(run_id)

    async def resume(self, run_id: str, sent: NotebookNode | None) -> RunRow:
        """Go on from the failed cell, in the kernel that was kept, with the notebook as it was or a mended one.

        Raises:
            Refused: not_found, not_resumable, kernel_gone, changed_before_failure.
        """
        row = self.get(run_id)
        failed = (row.outcome or {}).get("failed_cell_id")
        if row.status != "failed" or not isinstance(failed, str):
            raise refuse("not_resumable", "Only a run that failed in a cell can go on from there.", run_id=run_id)
        session = self.services.sessions.find(self.folders.path(run_id))
        if row.kept_until is None or session is None or session.death is not None:
            raise refuse("kernel_gone", "The kernel of this run is gone: send the notebook again.", run_id=run_id)
        if not self._keeper.claim(row):
            raise refuse("not_resumable", "Another request lets this run go on already.", run_id=run_id)
        try:
            first, total = await mend(self.services, self.folders, run_id, failed, sent)
            self._queue_again(row, first, total)
        except BaseException:
            self._keeper.keep_on(row)
            raise
        self._waiting.append(run_id)
        self._pump()
        return row

    def _queue_again(self, row: RunRow, first: int, total: int) -> None:
        row.status, row.outcome, row.batch = "queued", None, None
        row.first, row.total, row.attempt = first, total, row.attempt + 1
        row.deadline = row.kept_until = row.started_at = row.finished_at = None
        names = ("status", "outcome", "batch", "first", "total", "attempt")
        times = ("deadline", "kept_until", "started_at", "finished_at")
        self._record.change(row, *names, *times, event={"status": "queued", "attempt": row.attempt})

    # ------------------------------------------------------------------ workers

    def _pump(self) -> None:
        while not self._closing and self._waiting and len(self._active) < self.workers:
            run_id = self._waiting.popleft()
            self._active[run_id] = Active()
            self._tasks.start_soon(self._work, run_id, self._active[run_id])

    async def _work(self, run_id: str, active: Active) -> None:
        row = self.get(run_id)
        failure: Failure | None = None
        try:
            try:
                with active.scope:
                    await self._attempts.lead(row)
                if active.cancelled:
                    failure = Failure("cancelled", "The run was cancelled.")
            except Refused as refused:
                failure = refused.failure
            except JupyterMcpError as error:
                failure = Failure("internal", str(error))
            except Exception:
                logger.exception("run %s failed", run_id)
                failure = Failure("internal", "The gateway failed; its log says how.")
            with anyio.CancelScope(shield=True):
                await self._conclude(row, failure)
        except Exception:
            logger.exception("the end of run %s could not be written down", run_id)
        finally:
            self._active.pop(run_id, None)
            self._record.tell(run_id)
            self._pump()

    # ------------------------------------------------------------------ the end

    async def _conclude(self, row: RunRow, failure: Failure | None) -> None:
        """Write down what it came to, then end its kernel or keep it."""
        session = self.services.sessions.find(self.folders.path(row.id))
        if failure is not None and session is not None:
            # What still runs is ended with its kernel, before the notebook is read.
            await self._keeper.end_kernel(row)
        outcome = await self._attempts.outcome(row, failure)
        row.warnings = [*row.warnings, *outcome.warnings]
        row.size = await anyio.to_thread.run_sync(self.folders.size, row.id)
        raised = outcome.failure is not None and outcome.failure.error_type == "papermill_execution_error"
        if not (raised and self._keeper.keep(row)):
            outcome.failed = None
        self._end(row, outcome)
        if row.kept_until is None:
            await self._keeper.end_kernel(row)
        await self._keeper.forget_old()

    def _end(self, row: RunRow, outcome: Outcome) -> None:
        failure = outcome.failure
        row.finished_at = time.time()
        if failure is None:
            row.status, row.outcome, what = "done", {"results": outcome.results}, "done"
        else:
            row.status = "cancelled" if failure.error_type == "cancelled" else "failed"
            row.outcome, what = {"error": failure.body(), "failed_cell_id": outcome.failed}, failure.error_type
        event = {"status": row.status, "error_type": None if failure is None else failure.error_type}
        names = ("status", "finished_at", "outcome", "warnings", "kept_until", "size")
        self._record.change(row, *names, event=event)
        self.finished[what] = self.finished.get(what, 0) + 1

    # ------------------------------------------------------------------ beginning and end of the gateway

    async def recover(self) -> None:
        """Take up what an earlier gateway left: open runs go on, kernels nobody waits for are ended."""
        rows = self._journal.open_runs()
        await self._keeper.recover({self.folders.path(row.id) for row in rows})
        # Those that had begun first: each has a kernel already.
        for row in sorted(rows, key=lambda row: (row.status != "running", row.id)):
            self._waiting.append(row.id)
        self._tasks.start_soon(self._keeper.watch)
        self._pump()

    async def close(self, seconds: float) -> None:
        """Begin nothing more, and let what runs end, for at most SECONDS; the rest is left to the next gateway."""
        self._closing = True
        with anyio.move_on_after(seconds):
            for run_id in list(self._active):
                with suppress(Refused):
                    await self.wait(run_id)


@asynccontextmanager
async def open_runs(services: Services, folders: Folders | None = None) -> AsyncIterator[Runs]:
    """The runs that these services execute, in these folders; by default in their root itself."""
    async with anyio.create_task_group() as tasks:
        runs = Runs(services, folders or Folders(services.settings.root), tasks)
        await runs.recover()
        try:
            yield runs
        finally:
            with anyio.CancelScope(shield=True):
                await runs.close(services.settings.grace_seconds)
            tasks.cancel_scope.cancel()


def _injected(notebook: NotebookNode, parameters: dict[str, Any]) -> list[str]:
    if not parameters:
        return []
    unknown = undeclared(notebook, parameters)
    try:
        inject(notebook, parameters)
    except Unsupported as error:
        raise refuse("invalid_parameters", error.message) from error
    return [f"The notebook declares no parameter {name!r} in its cell tagged parameters." for name in unknown]
