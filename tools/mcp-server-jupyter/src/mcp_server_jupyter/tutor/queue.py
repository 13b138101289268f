"""Whose work is checked next: so many at once, one of each learner's, and no learner before another's turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from ..errors import JupyterMcpError
from .results import ResultRow, SubmissionRow


class Submission:
    """Work on its way. `row` is its latest wording, until it is `running`."""

    def __init__(self, row: SubmissionRow, ticket: int = 0) -> None:
        self.row = row
        self.ticket = ticket
        self.running = False
        self.result: ResultRow | None = None
        self.error: JupyterMcpError | None = None
        self.ended = anyio.Event()


class Queue:
    """Runs submissions.

    Args:
        most: how many at once.
        run: checks one, and never raises.
    """

    def __init__(self, most: int, run: Callable[[Submission], Awaitable[None]], tasks: anyio.abc.TaskGroup) -> None:
        self._most, self._run, self._tasks = most, run, tasks
        self._waiting: dict[str, dict[str, Submission]] = {}
        self._turns: deque[str] = deque()
        self._running: dict[str, Submission] = {}

    def waiting(self, learner: str, task: str) -> Submission | None:
        """What waits of a learner's work on a task."""
        return self._waiting.get(learner, {}).get(task)

    def running(self, learner: str, task: str) -> Submission | None:
        """What is being checked of it."""
        found = self._running.get(learner)
        return found if found is not None and found.row.task == task else None

    @property
    def counts(self) -> dict[str, int]:
        """How many run and wait."""
        return {"running": len(self._running), "waiting": sum(map(len, self._waiting.values()))}

    def put(self, submission: Submission) -> None:
        """Have it checked when it is its learner's turn."""
        learner = submission.row.learner
        if learner not in self._waiting and learner not in self._running:
            self._turns.append(learner)
        self._waiting.setdefault(learner, {})[submission.row.task] = submission
        self._pump()

    def _pump(self) -> None:
        while self._turns and len(self._running) < self._most:
            learner = self._turns.popleft()
            waiting = self._waiting[learner]
            submission = waiting.pop(next(iter(waiting)))
            if not waiting:
                del self._waiting[learner]
            submission.running = True
            self._running[learner] = submission
            self._tasks.start_soon(self._work, submission)

    async def _work(self, submission: Submission) -> None:
        learner = submission.row.learner
        try:
            await self._run(submission)
        finally:
            del self._running[learner]
            submission.ended.set()
            if learner in self._waiting:
                # Behind everybody who waits already.
                self._turns.append(learner)
            self._pump()
