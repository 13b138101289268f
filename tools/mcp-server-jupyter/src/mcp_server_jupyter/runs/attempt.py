"""One attempt at a run: its kernel, its cells, its deadline, and what it came to.

An attempt is begun once and may be led to its end by several servers, one after the other: whatever is done here looks
first at what is done already.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread

from ..errors import JupyterMcpError, KernelDead, KernelStarting
from ..execution.execution import Batch, Execution
from ..execution.session import Session
from ..journal import RunRow
from ..services import Services
from .failures import Failure, refuse
from .folders import EXECUTED, Folders
from .modules import imported, missing
from .outcome import failure_of
from .payload import is_run
from .record import Record
from .results import results_of

logger = logging.getLogger(__name__)

AUTHOR = "gateway"


@dataclass(slots=True)
class Outcome:
    """What an attempt came to: results, or why there are none and the id of the cell that failed."""

    failure: Failure | None = None
    failed: str | None = None
    results: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Attempts:
    """Leads attempts, and reads what they came to."""

    def __init__(self, services: Services, folders: Folders, record: Record) -> None:
        self._services = services
        self._settings = services.settings
        self._folders = folders
        self._journal = services.journal
        self._record = record

    async def lead(self, row: RunRow) -> None:
        """Bring the attempt to its end, from wherever an earlier server left it.

        Raises:
            Refused: it could not begin, or took too long.
        """
        path = self._folders.path(row.id)
        begun = row.status == "running"
        row.status, row.started_at = "running", row.started_at or time.time()
        if not begun:
            self._record.change(row, "status", "started_at", event={"status": "running", "attempt": row.attempt})
        session = self._services.sessions.find(path)
        if session is None and row.batch is not None and self._journal.run_cells(row.batch):
            # Its kernel ended while no server ran: what it came to is in the journal.
            return
        if session is None and row.attempt > 1:
            raise refuse("kernel_died", "The kernel that was kept for this run ended before it could go on.")
        if session is None:
            await self._check_modules(row, path)
            session = await self._start(row, path)
        if row.batch is None:
            row.batch, row.deadline = f"run-{uuid4().hex[:16]}", time.time() + self._settings.execution_timeout
            self._record.change(row, "batch", "deadline")
        executions = await self._submit(row, session, path)
        await self._until_ended(row, executions)

    async def _check_modules(self, row: RunRow, path: str) -> None:
        notebook = await self._services.contents.read(path)
        names = await anyio.to_thread.run_sync(imported, notebook.cells)
        specs = await self._services.kernels.specs() if names else ()
        spec = next((spec for spec in specs if spec.name == row.kernel_name and spec.source != "profile"), None)
        absent = await missing(names, spec.argv if spec else (), self._folders.of(row.id))
        if absent:
            raise refuse(
                "missing_dependencies", f"Missing required modules: {', '.join(absent)}", missing_modules=absent
            )

    async def _start(self, row: RunRow, path: str) -> Session:
        seconds = self._settings.kernel_start_timeout
        start = self._services.sessions.start(row.kernel_name, cwd=self._folders.cwd(row.id), notebook=path)
        try:
            return await start.wait(seconds)
        except KernelStarting as error:
            await self._services.sessions.starts.cancel(start, "the gateway")
            raise refuse("kernel_startup", f"Kernel failed to start within {seconds:g} s: {start.stage}.") from error
        except JupyterMcpError as error:
            raise refuse("kernel_startup", f"Kernel failed to start: {error}") from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._services.sessions.starts.cancel(start, "the gateway")
            raise

    async def _submit(self, row: RunRow, session: Session, path: str) -> list[Execution]:
        """Queue the attempt's cells that are not queued yet; those of its executions that have not ended."""
        assert row.batch is not None
        taken = {cell.cell_id for cell in self._journal.run_cells(row.batch)}
        running = [each for each in self._services.executions.active() if each.batch and each.batch.id == row.batch]
        batch = next((each.batch for each in running if each.batch), None) or Batch(stop_on_error=True, id=row.batch)
        batch.allow_stdin = False
        notebook = await self._services.contents.read(path)
        cells = [cell for cell in notebook.cells[row.first :] if is_run(cell) and cell["id"] not in taken]
        if taken and not running:
            # They have all ended: whether the rest is to run is told by how.
            failed, _ = failure_of(self._journal.run_cells(row.batch), 0, notebook, notebook, "")
            cells = [] if failed else cells
        for cell in cells:
            try:
                running.append(
                    self._services.executions.submit(
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
                await execution.wait_finished(math.inf)
                if execution.status in ("ok", "error"):
                    done += 1
                    cell = {"done": done, "total": row.total, "cell_id": execution.cell_id, "cell": execution.status}
                    self._record.change(row, event={"status": "running", **cell})
        if limit.cancelled_caught:
            raise refuse(
                "execution_timeout",
                f"The notebook ran longer than {self._settings.execution_timeout:g} s.",
                done=done,
                total=row.total,
            )

    async def outcome(self, row: RunRow, failure: Failure | None) -> Outcome:
        """What the attempt came to, read from the journal and the notebook.

        Args:
            failure: why it came to nothing, where that is known; what still runs has been ended then.
        """
        path = self._folders.path(row.id)
        try:
            with suppress(JupyterMcpError):
                await self._services.contents.flush(path)
            if failure is not None:
                return Outcome(failure)
            notebook = await self._services.contents.read(path)
            sent = await anyio.to_thread.run_sync(self._folders.sent, row.id)
            output = str(self._folders.of(row.id) / EXECUTED)
            cells = self._journal.run_cells(row.batch) if row.batch else []
            failure, failed = failure_of(cells, row.total, notebook, sent, output)
            if failure is not None:
                return Outcome(failure, failed)
            settings = self._settings
            results, warnings = await results_of(notebook, settings.result_tag, scraps=settings.use_scrapbook)
        except (JupyterMcpError, OSError, ValueError) as error:
            logger.warning("the notebook of run %s cannot be read: %s", row.id, error)
            return Outcome(Failure("internal", f"The notebook is gone: {error}"))
        return Outcome(results=results, warnings=warnings)
