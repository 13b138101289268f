"""Runs of whole notebooks: a queue, some workers, a kernel of its own for each, and what is kept afterwards.

Whose is what: a run's row and folder are the gateway's, its kernel and executions the services'. A run is accepted
once its folder and then its row are written. Whatever a crash cuts off goes on: the services take over the kernel and
what is queued for it, and the runner submits those cells of an attempt that have no execution yet; no cell is sent
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import anyio.abc
import anyio.to_thread

from ..errors import JupyterMcpError, KernelDead, KernelStarting, Unsupported
from ..execution.execution import Batch, Execution
from ..execution.session import Session
from ..journal import RunRow, new_run_id
from ..notebooks import is_skipped
from ..services import Services
from ..settings import Settings
from .failures import Failure, Refused, refuse
from .folders import Folders
from .keeping import Keeper
from .modules import imported, missing
from .outcome import failure_of
from .parameters import inject, undeclared
from .payload import Sent, check_kernel
from .results import results_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)

AUTHOR = "gateway"
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
        self._news: dict[str, anyio.Event] = {}
        self._closing = False
        self._keeper = Keeper(services, folders, self.workers)

    # ------------------------------------------------------------------ what callers do

    async def accept(self, sent: Sent, *, key: str | None = None) -> RunRow:
        """Take a run on: from the moment this returns it is not lost. With a known key, the run of that key.

        Raises:
            Refused: invalid_kernel, invalid_parameters, idempotency_key_reused, queue_full.
            Unavailable: it cannot be written down.
        """
        settings = self.settings
        body_hash = _hash(sent)
        if key is not None and (known := self._of_key(key, body_hash)):
            return known
        name = check_kernel(sent.notebook, settings.kernel_name, settings.allowed_kernels, settings.allowed_languages)
        self._require_room()
        executed = _copy(sent.notebook)
        warnings = _injected(executed, sent.parameters)
        row = RunRow(new_run_id(), name, key=key, body_hash=body_hash, warnings=warnings)
        row.total = sum(_runs(cell) for cell in executed.cells)
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
        await self._news.setdefault(run_id, anyio.Event()).wait()

    async def wait(self, run_id: str) -> RunRow:
        """The run once it has ended.

        Raises:
            Refused: not_found: it was forgotten meanwhile.
        """
        while not (row := self.get(run_id)).ended:
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
            self._end(row, "cancelled", Failure("cancelled", "The run was cancelled before it began."))
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
            first, total = await self._mend(row, failed, sent)
            self._queue_again(row, first, total)
        except BaseException:
            self._keeper.keep_on(row)
            raise
        self._tell(run_id)
        self._waiting.append(run_id)
        self._pump()
        return row

    def _queue_again(self, row: RunRow, first: int, total: int) -> None:
        row.status, row.outcome, row.batch = "queued", None, None
        row.first, row.total, row.attempt = first, total, row.attempt + 1
        row.deadline = row.kept_until = row.started_at = row.finished_at = None
        names = ("status", "outcome", "batch", "first", "total", "attempt")
        times = ("deadline", "kept_until", "started_at", "finished_at")
        self._journal.change_run(row, *names, *times, event={"status": "queued", "attempt": row.attempt})

    async def _mend(self, row: RunRow, failed: str, sent: NotebookNode | None) -> tuple[int, int]:
        """Put the cells of `sent` from the failed one on in the place of those that are there."""
        before = await anyio.to_thread.run_sync(self.folders.sent, row.id)
        at = next((index for index, cell in enumerate(before.cells) if cell["id"] == failed), 0)
        after = before if sent is None else sent
        if [_what(cell) for cell in after.cells[:at]] != [_what(cell) for cell in before.cells[:at]]:
            raise refuse(
                "changed_before_failure",
                f"A cell before cell {at}, the failed one, is not as it was: its results would be another notebook's.",
                run_id=row.id,
            )
        path = self.folders.path(row.id)
        fresh = [_copy(cell) for cell in after.cells[at:]]
        async with self.services.contents.edit(path) as notebook:
            place = next((index for index, cell in enumerate(notebook.cells) if cell["id"] == failed), 0)
            notebook.cells[place:] = fresh
        for cell, known in zip(after.cells[:at], before.cells[:at], strict=True):
            cell["id"] = known["id"]
        await anyio.to_thread.run_sync(self.folders.replace_sent, row.id, after)
        return place, sum(_runs(cell) for cell in fresh)

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
                    await self._attempt(row)
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
            self._tell(run_id)
            self._pump()

    async def _attempt(self, row: RunRow) -> None:
        """Bring the attempt to its end, from wherever an earlier server left it.

        Raises:
            Refused: it could not begin, or took too long.
        """
        path = self.folders.path(row.id)
        begun = row.status == "running"
        row.status, row.started_at = "running", row.started_at or time.time()
        if not begun:
            self._change(row, "status", "started_at", event={"status": "running", "attempt": row.attempt})
        session = self.services.sessions.find(path)
        if session is None and row.batch is not None and self._journal.run_cells(row.batch):
            # Its kernel ended while no server ran: what it came to is in the journal.
            return
        if session is None and row.attempt > 1:
            raise refuse("kernel_died", "The kernel that was kept for this run ended before it could go on.")
        if session is None:
            await self._check_modules(row, path)
            session = await self._start(row, path)
        if row.batch is None:
            row.batch, row.deadline = f"run-{uuid4().hex[:16]}", time.time() + self.settings.execution_timeout
            self._change(row, "batch", "deadline")
        executions = await self._submit(row, session, path)
        await self._until_ended(row, executions)

    async def _check_modules(self, row: RunRow, path: str) -> None:
        notebook = await self.services.contents.read(path)
        names = await anyio.to_thread.run_sync(imported, notebook.cells)
        specs = await self.services.kernels.specs() if names else ()
        spec = next((spec for spec in specs if spec.name == row.kernel_name and spec.source != "profile"), None)
        absent = await missing(names, spec.argv if spec else (), self.folders.of(row.id))
        if absent:
            raise refuse(
                "missing_dependencies", f"Missing required modules: {', '.join(absent)}", missing_modules=absent
            )

    async def _start(self, row: RunRow, path: str) -> Session:
        seconds = self.settings.kernel_start_timeout
        start = self.services.sessions.start(row.kernel_name, cwd=row.id, notebook=path)
        try:
            return await start.wait(seconds)
        except KernelStarting as error:
            await self.services.sessions.starts.cancel(start, "the gateway")
            raise refuse("kernel_startup", f"Kernel failed to start within {seconds:g} s: {start.stage}.") from error
        except JupyterMcpError as error:
            raise refuse("kernel_startup", f"Kernel failed to start: {error}") from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.services.sessions.starts.cancel(start, "the gateway")
            raise

    async def _submit(self, row: RunRow, session: Session, path: str) -> list[Execution]:
        """Queue the attempt's cells that are not queued yet; those of its executions that have not ended."""
        assert row.batch is not None
        taken = {cell.cell_id for cell in self._journal.run_cells(row.batch)}
        running = [each for each in self.services.executions.active() if each.batch and each.batch.id == row.batch]
        batch = next((each.batch for each in running if each.batch), None) or Batch(stop_on_error=True, id=row.batch)
        batch.allow_stdin = False
        notebook = await self.services.contents.read(path)
        cells = [cell for cell in notebook.cells[row.first :] if _runs(cell) and cell["id"] not in taken]
        if taken and not running:
            # They have all ended: whether the rest is to run is told by how.
            failed, _ = failure_of(self._journal.run_cells(row.batch), 0, notebook, notebook, "")
            cells = [] if failed else cells
        for cell in cells:
            try:
                running.append(
                    self.services.executions.submit(
                        session, cell.source, author=AUTHOR, notebook=path, cell=cell, batch=batch
                    )
                )
            except KernelDead as error:
                raise refuse("kernel_died", error.message) from error
        return running

    async def _until_ended(self, row: RunRow, executions: Sequence[Execution]) -> None:
        assert row.deadline is not None
        done = row.total - len(executions)
        with anyio.move_on_after(row.deadline - time.time()) as limit:
            for execution in executions:
                await self.services.executions.wait_finished(execution, math.inf)
                if execution.status in ("ok", "error"):
                    done += 1
                    cell = {"done": done, "total": row.total, "cell_id": execution.cell_id, "cell": execution.status}
                    self._change(row, event={"status": "running", **cell})
        if limit.cancelled_caught:
            raise refuse(
                "execution_timeout",
                f"The notebook ran longer than {self.settings.execution_timeout:g} s.",
                done=done,
                total=row.total,
            )

    # ------------------------------------------------------------------ the end

    async def _conclude(self, row: RunRow, failure: Failure | None) -> None:
        """Write down what it came to, then end its kernel or keep it."""
        path = self.folders.path(row.id)
        session = self.services.sessions.find(path)
        if failure is not None and session is not None:
            # What still runs is ended with its kernel, before the notebook is read.
            await self._keeper.end_kernel(row)
        try:
            with suppress(JupyterMcpError):
                await self.services.contents.flush(path)
            notebook = await self.services.contents.read(path)
            failed = None
            if failure is None:
                sent = await anyio.to_thread.run_sync(self.folders.sent, row.id)
                output = str(self.folders.of(row.id) / "notebook.ipynb")
                cells = self._journal.run_cells(row.batch) if row.batch else []
                failure, failed = failure_of(cells, row.total, notebook, sent, output)
            results: dict[str, Any] = {}
            if failure is None:
                settings = self.settings
                results, told = await results_of(notebook, settings.result_tag, scraps=settings.use_scrapbook)
                row.warnings = [*row.warnings, *told]
        except (JupyterMcpError, OSError, ValueError) as error:
            logger.warning("the notebook of run %s cannot be read: %s", row.id, error)
            failure, failed, results = failure or Failure("internal", f"The notebook is gone: {error}"), None, {}
        row.size = await anyio.to_thread.run_sync(self.folders.size, row.id)
        if failure is None:
            self._end(row, "done", None, results)
        else:
            keeps = failure.error_type == "papermill_execution_error" and self._keeper.keep(row)
            status = "cancelled" if failure.error_type == "cancelled" else "failed"
            self._end(row, status, failure, failed_cell_id=failed if keeps else None)
        if row.kept_until is None:
            await self._keeper.end_kernel(row)
        await self._keeper.forget_old()

    def _end(
        self,
        row: RunRow,
        status: Any,
        failure: Failure | None,
        results: dict[str, Any] | None = None,
        failed_cell_id: str | None = None,
    ) -> None:
        row.status, row.finished_at = status, time.time()
        if failure is None:
            row.outcome = {"results": results or {}}
        else:
            row.outcome = {"error": failure.body(), "failed_cell_id": failed_cell_id}
        event = {"status": status, "error_type": None if failure is None else failure.error_type}
        names = ("status", "finished_at", "outcome", "warnings", "kept_until", "size")
        self._change(row, *names, event=event)
        what = status if failure is None else failure.error_type
        self.finished[what] = self.finished.get(what, 0) + 1

    def _change(self, row: RunRow, *names: str, event: dict[str, Any] | None = None) -> None:
        self._journal.change_run(row, *names, event=event)
        if event is not None:
            self._tell(row.id)

    def _tell(self, run_id: str) -> None:
        if (news := self._news.pop(run_id, None)) is not None:
            news.set()

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
async def open_runs(services: Services) -> AsyncIterator[Runs]:
    """The runs of a gateway whose services work in the folder of its runs."""
    async with anyio.create_task_group() as tasks:
        runs = Runs(services, Folders(services.settings.root), tasks)
        await runs.recover()
        try:
            yield runs
        finally:
            with anyio.CancelScope(shield=True):
                await runs.close(services.settings.grace_seconds)
            tasks.cancel_scope.cancel()


def _runs(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip()) and not is_skipped(cell)


def _what(cell: NotebookNode) -> tuple[str, str]:
    return cell.cell_type, cell.source


def _copy(value: Any) -> Any:
    # Callers' nodes are shared between what was sent and what is executed: neither may change the other.
    from copy import deepcopy  # noqa: PLC0415

    return deepcopy(value)


def _injected(notebook: NotebookNode, parameters: dict[str, Any]) -> list[str]:
    if not parameters:
        return []
    unknown = undeclared(notebook, parameters)
    try:
        inject(notebook, parameters)
    except Unsupported as error:
        raise refuse("invalid_parameters", error.message) from error
    return [f"The notebook declares no parameter {name!r} in its cell tagged parameters." for name in unknown]


def _hash(sent: Sent) -> str:
    """What tells two requests apart: ids that were made up here do not."""
    cells = [(*_what(cell), cell["metadata"]) for cell in sent.notebook.cells]
    text = json.dumps([cells, sent.notebook.metadata, sent.parameters], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
