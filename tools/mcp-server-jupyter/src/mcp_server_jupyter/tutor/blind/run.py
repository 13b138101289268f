"""One blind check from beginning to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from ...errors import KernelDead
from ...services import Services
from ..template import Check, Step, Task
from .fresh import Failure, Fresh, Limits, TooMuch, TooSlow, Watch, fresh_kernel
from .process import Checker, CheckerEnded, Checkers, Verdict

logger = logging.getLogger(__name__)

State = Literal["passed", "failed", "error", "timeout", "kernel_died", "import_error"]
_GRAVE: tuple[State, ...] = ("kernel_died", "timeout", "import_error", "error", "failed", "passed")
"""The gravest comes first: what is told of a whole is the gravest of its parts."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check came to; `error` and `message` are for the learner, `detail` for the template's author alone."""

    label: str
    state: State
    points: float
    max_points: float
    message: str = ""
    error: Mapping[str, Any] | None = None
    cell: int = 0
    detail: str = field(default="", repr=False)

    def told(self) -> dict[str, Any]:
        """What a learner is told."""
        told: dict[str, Any] = {"label": self.label, "state": self.state, "points": self.points}
        told |= {"max_points": self.max_points}
        if self.message:
            told["message"] = self.message
        if self.error is not None:
            told["error"] = self.error
        return told


@dataclass(frozen=True, slots=True)
class Result:
    """What a task came to. `error` is of a cell of the learner's that did not run to its end."""

    state: State
    points: float
    max_points: float
    checks: tuple[CheckResult, ...]
    error: Mapping[str, Any] | None = None
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """What a learner is told."""
        told: dict[str, Any] = {"state": self.state, "points": self.points, "max_points": self.max_points}
        told["checks"] = [each.told() for each in self.checks]
        if self.error is not None:
            told["error"] = self.error
        return told


class _Ended(Exception):
    """The kernel is of no more use: how it ended."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state


class Examination:
    """Runs the steps of a task over a fresh kernel."""

    def __init__(
        self, task: Task, sources: Mapping[int, list[str]], kernel: Fresh, limits: Limits, checkers: Checkers
    ) -> None:
        self._task, self._sources, self._kernel, self._limits = task, sources, kernel, limits
        self._checkers = checkers
        self._end = time.monotonic() + limits.task_seconds
        self._results: list[CheckResult] = []
        self._states: list[State] = []
        self._error: Mapping[str, Any] | None = None
        self._stack = AsyncExitStack()
        self._checker: Checker | None = None

    async def result(self) -> Result:
        """Go through the steps; whatever the learner's code does is a result."""
        lost: State | None = None
        async with self._stack:
            try:
                await self._kernel.prepare(self._left())
            except TooSlow:
                lost = "timeout"
            except KernelDead:
                lost = "kernel_died"
            for at, step in enumerate(self._task.steps):
                if lost is None:
                    try:
                        await self._step(at, step)
                        continue
                    except _Ended as ended:
                        lost = ended.state
                done = {(each.cell, each.label) for each in self._results}
                for check in step.checks:
                    if (check.cell, check.label) not in done:
                        self._came_to(check, lost)
            if lost is not None:
                self._states.append(lost)
        states = [*self._states, *(each.state for each in self._results)]
        state = next(each for each in _GRAVE if each in (*states, "passed"))
        points = sum(each.points for each in self._results)
        return Result(state, points, self._task.max_points, tuple(self._results), self._error)

    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    # ------------------------------------------------------------------ cells

    async def _step(self, at: int, step: Step) -> None:
        if step.checks:
            for check in step.checks:
                await self._check(check)
            return
        for source in self._sources.get(at, []) if step.own else [step.source]:
            await self._run(source)

    async def _run(self, source: str) -> None:
        try:
            failure = await self._kernel.run(source, self._left())
        except TooSlow as error:
            self._failed({"type": "Timeout", "text": "It ran too long and was stopped.", "frames": []}, "timeout")
            if not error.ended or not self._left():
                raise _Ended("timeout") from error
        except TooMuch as error:
            text = f"It printed more than {self._limits.output_bytes} bytes and was stopped."
            self._failed({"type": "OutputTooLong", "text": text, "frames": []}, "error")
            if not error.ended:
                raise _Ended("timeout") from error
        except KernelDead as error:
            text = f"The kernel ended while this ran: {error.reason or 'it gave no reason'}."
            self._failed({"type": "KernelDied", "text": text, "frames": []}, "kernel_died")
            raise _Ended("kernel_died") from error
        else:
            if isinstance(failure, Failure):
                self._failed(failure.raised, "import_error" if failure.is_import else "error")

    def _failed(self, raised: Mapping[str, Any], state: State) -> None:
        self._states.append(state)
        if self._error is None:
            self._error = _told(raised)

    # ------------------------------------------------------------------ checks

    async def _check(self, check: Check) -> None:
        seconds = min(self._limits.check_seconds, self._left())
        ended: list[BaseException] = []

        async def ask(question: Mapping[str, Any]) -> str:
            left = max(0.0, min(end - time.monotonic(), self._left()))
            # An interrupt has its own time.
            limit.deadline += spare
            try:
                return await self._kernel.ask(question, left)
            finally:
                limit.deadline -= spare

        end, spare = time.monotonic() + seconds, 2 * self._limits.interrupt_seconds
        limit = anyio.move_on_after(seconds)
        verdict: Verdict | None = None
        try:
            with limit:
                checker = await self._open()
                verdict = await checker.put(check.examples, self._task.imported, self._task.defined, ask)
        except CheckerEnded:
            verdict = Verdict("failed", detail="the tests' process ended: too much memory, or too much said at once")
            await self._close()
        except (TooSlow, TooMuch, KernelDead) as error:
            ended.append(error)
            await self._close()
        if not ended and limit.cancelled_caught:
            await self._close()
        self._conclude(check, verdict, ended[0] if ended else None)

    def _conclude(self, check: Check, verdict: Verdict | None, error: BaseException | None) -> None:
        if verdict is not None:
            return self._came_to(check, verdict.state, verdict)
        if isinstance(error, KernelDead):
            self._came_to(check, "kernel_died")
            raise _Ended("kernel_died") from error
        if isinstance(error, TooMuch):
            self._came_to(check, "error", detail="it printed too much")
            if not error.ended:
                raise _Ended("timeout") from error
            return None
        self._came_to(check, "timeout", detail="too slow")
        if (isinstance(error, TooSlow) and not error.ended) or not self._left():
            raise _Ended("timeout") from error
        return None

    def _came_to(self, check: Check, state: Any, verdict: Verdict | None = None, *, detail: str = "") -> None:
        message = "" if verdict is None else verdict.message
        error = None
        if verdict is not None and verdict.raised is not None:
            error = _told(verdict.raised)
        if state != "passed":
            message = message or check.message
        self._results.append(
            CheckResult(
                check.label,
                state if state in _GRAVE else "error",
                check.points if state == "passed" else 0.0,
                check.points,
                message if state != "passed" else "",
                error,
                check.cell,
                detail or ("" if verdict is None else verdict.detail),
            )
        )

    async def _open(self) -> Checker:
        if self._checker is None:
            self._checker = await self._stack.enter_async_context(self._checkers.open())
        return self._checker

    async def _close(self) -> None:
        """End the tests' process: the next check gets another one."""
        self._checker = None
        await self._stack.aclose()


async def examine(
    services: Services,
    kernel: str,
    folder: str,
    task: Task,
    sources: Mapping[int, list[str]],
    limits: Limits,
    checkers: Checkers,
    watch: Watch | None = None,
) -> Result:
    """Check work: in a kernel of its own in `folder`, which has ended by the return.

    Raises:
        NotFound, Unavailable, KernelStartFailed: there is no kernel to be had.
    """
    began = time.monotonic()
    async with fresh_kernel(services, kernel, folder, limits, watch) as fresh:
        result = await Examination(task, sources, fresh, limits, checkers).result()
    seconds = round(time.monotonic() - began, 3)
    return Result(result.state, result.points, result.max_points, result.checks, result.error, seconds)


def _told(raised: Mapping[str, Any]) -> dict[str, Any]:
    """What a learner is told of an exception: of texts that their own code made, only so much."""
    frames = raised.get("frames")
    lines = [str(each)[:400] for each in frames[-6:]] if isinstance(frames, list) else []
    return {"name": str(raised.get("type", ""))[:100], "text": str(raised.get("text", ""))[:2000], "where": lines}
