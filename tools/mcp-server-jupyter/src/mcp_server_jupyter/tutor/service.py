"""The tutor: tasks are given to learners, their work is checked, and what it came to is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import posixpath
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc

from ..errors import AlreadyExists, Conflict, InvalidRequest, JupyterMcpError, NotFound, Unsupported
from ..events import Events
from ..notebooks import node
from ..services import Services
from ..settings import Settings
from ..tasks import plain_errors
from .blind.fresh import Limits
from .blind.process import Checkers, open_checkers
from .blind.run import examine
from .queue import Queue, Submission
from .results import ResultRow, Results, SubmissionRow, open_results
from .shelf import Shelf, open_shelf
from .template import Task, sources_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

logger = logging.getLogger(__name__)

PlaceOf = Callable[[str], AbstractAsyncContextManager[Services]]
"""A learner's place by their name; it is left when nothing is to be done there."""
AUTHOR = "tutor"


class Known(Protocol):
    """A learner as a roster has them. `last_activity` is ISO 8601, None where it is not known."""

    @property
    def name(self) -> str: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def last_activity(self) -> str | None: ...


Roster = Callable[[bool, int, int], Awaitable[tuple[Sequence[Known], int]]]
"""The learners there are: whether only those whose server runs, from which on, how many; and how many there are."""


class Tutor:
    """Made by `open_tutor`.

    Attributes:
        events: `check.finished` with learner, task, attempt, state, points and max_points; `check.failed` where there
            was nothing to check it with.
    """

    def __init__(
        self,
        settings: Settings,
        place_of: PlaceOf,
        shelf: Shelf,
        results: Results,
        tasks: anyio.abc.TaskGroup,
        limits: Limits,
        checkers: Checkers,
        roster: Roster | None,
    ) -> None:
        self.events = Events()
        self._roster = roster
        self._settings, self._place_of, self._shelf, self._results = settings, place_of, shelf, results
        self._limits, self._checkers = limits, checkers
        self._tickets = 0
        self._queue = Queue(max(1, settings.checks), self._check, tasks)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks run and wait."""
        return self._queue.counts

    # ------------------------------------------------------------------ tasks

    def list_tasks(self) -> list[dict[str, Any]]:
        """Every task of the folder, and every template that was refused, with the reason."""
        tasks = [
            {"task": task.id, "template": name.name, "format": name.format, "max_points": task.max_points}
            for name, task in self._shelf.all()
        ]
        return tasks + [{"template": each.template, "refused": str(each)} for each in self._shelf.refused]

    async def list_learners(self, running: bool, offset: int, limit: int) -> dict[str, Any]:
        """The learners, whether their servers run, and when they were last there.

        Raises:
            Unsupported: nobody here knows them.
            NotAllowed, Unavailable: whoever knows them does not tell.
        """
        if self._roster is None:
            raise Unsupported("Who the learners are is not known here.", hint="A JupyterHub's service knows them.")
        learners, total = await self._roster(running, offset, limit)
        rows = [{"learner": e.name, "running": e.is_running, "last_activity": e.last_activity} for e in learners]
        return {"learners": rows, "offset": offset, "total": total}

    async def deploy_task(self, learner: str, task: str, path: str = "", *, reset: bool = False) -> dict[str, Any]:
        """Give a learner a task: its notebook, without tests and solutions.

        Args:
            path: where it goes; absent, the template's own name.
            reset: what is there is kept as a copy beside it, and the learner begins anew.

        Raises:
            AlreadyExists: there is such a file already.
            NotFound: there is no such task.
            Conflict: the learner changed it meanwhile; nothing is lost.
        """
        template, _ = self._shelf.find(task)
        before = self._results.deployed(learner, task)
        async with self._place_of(learner) as services:
            target = services.contents.resolve(path or template.name)
            kept = ""
            self._results.deploy(learner, task, target)
            try:
                try:
                    await services.contents.create(target, _copy(template.learner))
                except AlreadyExists:
                    if not reset:
                        raise
                    kept = await _begin_anew(services, target, template.learner)
            except BaseException:
                self._results.deploy(learner, task, before)
                raise
        told = {"learner": learner, "task": task, "path": target}
        return told | ({"kept": kept} if kept else {})

    # ------------------------------------------------------------------ checks

    async def check_task(
        self, learner: str, task: str, path: str = "", *, again: bool = False, wait_seconds: float | None = None
    ) -> dict[str, Any]:
        """Check a learner's work on a task as it is now. The same work is checked once.

        Args:
            path: the notebook, where it is not where the task was deployed.
            again: check the same work once more, e.g. after a package was installed.
            wait_seconds: how long to wait for the result; None, however long it takes. Then `state` is "queued" or
                "running", and the same call later answers the result.

        Raises:
            NotFound: there is no such task or notebook, or the task was not deployed.
            Unavailable, KernelError: there is nothing to check it with now.
        """
        template, found = self._shelf.find(task)
        where = path or self._results.deployed(learner, task)
        if where is None:
            raise NotFound(f"{learner} has not been given the task {task}.", hint="deploy_task gives it, or name path.")
        self._tickets += 1
        ticket = self._tickets
        async with self._place_of(learner) as services:
            where = services.contents.resolve(where)
            sources = sources_of(found, template, await services.contents.read(where))
        # From here to the wait nothing is waited for: no other submission comes between.
        submission = self._submitted(found, learner, where, sources, ticket, again=again)
        if isinstance(submission, ResultRow):
            return _told(submission)
        with anyio.move_on_after(wait_seconds):
            await submission.ended.wait()
        if submission.error is not None:
            raise submission.error
        if submission.result is None:
            about = {"learner": learner, "task": task, "attempt": submission.row.attempt}
            return {**about, "state": "running" if submission.running else "queued"}
        return _told(submission.result)

    def _submitted(
        self, task: Task, learner: str, path: str, sources: dict[int, list[str]], ticket: int, *, again: bool
    ) -> Submission | ResultRow:
        digest = _hash(task, sources)
        running, waiting = self._queue.running(learner, task.id), self._queue.waiting(learner, task.id)
        for each in (waiting, running):
            if each is not None and (each.row.source_hash == digest or each.ticket > ticket):
                return each
        latest = self._results.latest(learner, task.id)
        if latest is not None and latest.source_hash == digest and not (again or waiting or running):
            return latest
        attempt = max(latest.attempt if latest else 0, running.row.attempt if running else 0) + 1
        row = SubmissionRow(learner, task.id, attempt, time.time(), digest, path, sources)
        self._results.submit(row)
        if waiting is not None:
            waiting.row, waiting.ticket = row, ticket
            return waiting
        submission = Submission(row, ticket)
        self._queue.put(submission)
        return submission

    async def _check(self, submission: Submission) -> None:
        row = submission.row
        try:
            submission.result = await self._checked(row)
        except JupyterMcpError as error:
            logger.warning("the work of %s on %s could not be checked: %s", row.learner, row.task, error)
            submission.error = error
            self._give_up(row)
        except Exception:
            # A defect here must not end everybody's checks.
            logger.exception("the check of %s on %s failed", row.learner, row.task)
            submission.error = JupyterMcpError("The check failed; the service's log says how.")
            self._give_up(row)

    def _give_up(self, row: SubmissionRow) -> None:
        self.events.publish("check.failed", learner=row.learner, task=row.task, attempt=row.attempt)
        try:
            self._results.withdraw(row)
        except JupyterMcpError as error:
            logger.warning("the next service checks %s on %s again: %s", row.learner, row.task, error)

    async def _checked(self, row: SubmissionRow) -> ResultRow:
        template, task = self._shelf.find(row.task)
        async with self._place_of(row.learner) as services:
            kernel = template.kernel or services.settings.kernel_name
            folder = posixpath.dirname(row.path)
            await self._end_left(row.learner, services)
            watch = _Watch(self._results, row.learner)
            result = await examine(services, kernel, folder, task, row.sources, self._limits, self._checkers, watch)
        ended = ResultRow(
            row.learner,
            row.task,
            row.attempt,
            row.at,
            result.state,
            result.points,
            result.max_points,
            row.source_hash,
            result.seconds,
            result.told(),
        )
        self._results.finish(ended)
        about = {"learner": row.learner, "task": row.task, "attempt": row.attempt, "state": ended.state}
        self.events.publish("check.finished", **about, points=ended.points, max_points=ended.max_points)
        return ended

    async def _end_left(self, learner: str, services: Services) -> None:
        """End the kernels of checks that a killed service left: a learner has one check at a time, which is this."""
        for kernel_id in self._results.kernels(learner):
            session = next((each for each in services.sessions.all() if each.id == kernel_id), None)
            if session is not None:
                await services.sessions.shutdown(session, AUTHOR)
            self._results.kernel_ended(learner, kernel_id)

    def resume(self) -> None:
        """Check what an earlier service left open; what no task is there for any more is given up."""
        for row in self._results.open():
            try:
                _, task = self._shelf.find(row.task)
            except NotFound as error:
                logger.warning("the work of %s on %s is not checked: %s", row.learner, row.task, error)
                self._results.withdraw(row)
                continue
            if _hash(task, row.sources) != row.source_hash:
                logger.warning("the work of %s on %s is not checked: the task has changed", row.learner, row.task)
                self._results.withdraw(row)
                continue
            self._queue.put(Submission(row))

    # ------------------------------------------------------------------ results

    def learner_progress(self, learner: str | None = None, task: str | None = None) -> list[dict[str, Any]]:
        """The last attempt of a learner at each task, or of each learner at a task, with the most points of any.

        Raises:
            InvalidRequest: neither is given.
        """
        if learner is None and task is None:
            raise InvalidRequest("Whose progress, or with which task?", hint="Give learner, task, or both.")
        return self._results.progress(learner, task)


@dataclass(frozen=True, slots=True)
class _Watch:
    """The kernels of a learner's checks, written down."""

    results: Results
    learner: str

    def began(self, kernel_id: str) -> None:
        self.results.kernel_began(self.learner, kernel_id)

    def ended(self, kernel_id: str) -> None:
        self.results.kernel_ended(self.learner, kernel_id)


@asynccontextmanager
async def open_tutor(
    settings: Settings, place_of: PlaceOf, limits: Limits | None = None, *, roster: Roster | None = None
) -> AsyncIterator[Tutor]:
    """The tutor over the tasks of `settings.tasks`, each of which has passed its own checks.

    What an earlier service left open is checked again. Checks that run when the context ends are left to the next.

    Args:
        place_of: a learner's place by their name.
        roster: who the learners are, where somebody knows.

    Raises:
        InvalidRequest: there is no folder of tasks.
        Unavailable: another service has the results.
    """
    limits = limits or Limits()
    file = settings.state_dir / "tutor" / "results.sqlite3"
    with plain_errors(), open_results(file) as results:
        async with open_checkers() as checkers:
            shelf = await open_shelf(settings, results, limits, checkers)
            async with anyio.create_task_group() as tasks:
                tutor = Tutor(settings, place_of, shelf, results, tasks, limits, checkers, roster)
                tutor.resume()
                try:
                    yield tutor
                finally:
                    tasks.cancel_scope.cancel()


async def _begin_anew(services: Services, path: str, notebook: NotebookNode) -> str:
    """Put another notebook in the place of one; where what was there is kept."""
    there = await services.contents.read(path)
    stem = path.removesuffix(".ipynb")
    kept = f"{stem}-kept-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06}.ipynb"
    await services.contents.create(kept, _copy(there))
    async with services.contents.edit(path, author=AUTHOR) as edited:
        if _words(edited.cells) != _words(there.cells):
            raise Conflict(f"{path} was changed just now.", hint=f"Try again; what was there before is {kept}.")
        anew = _copy(notebook)
        edited.cells[:] = anew.cells
        edited.metadata = anew.metadata
    return kept


def _hash(task: Task, sources: Mapping[int, list[str]]) -> str:
    return hashlib.sha256(json.dumps([task.hash, sources], sort_keys=True).encode()).hexdigest()


def _words(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(cell["id"], cell["source"]) for cell in cells]


def _copy(notebook: NotebookNode) -> NotebookNode:
    return node(notebook)


def _told(row: ResultRow) -> dict[str, Any]:
    about = {"learner": row.learner, "task": row.task, "attempt": row.attempt}
    return {**about, **row.told, "seconds": row.seconds}


__all__ = ["PlaceOf", "Tutor", "open_tutor"]
