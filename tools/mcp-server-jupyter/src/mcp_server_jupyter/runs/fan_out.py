"""Runs a notebook once for each set of parameters, some at a time, and gathers what comes of it in one folder.

Whose is what: the folder of outputs belongs to one call at a time, which holds a lock on it. Notebooks are executed in
a folder below it, hidden and this call's alone; a finished one is moved to its place, and then a line tells of it. So
whatever ends the call, outputs are whole, and a set without a line is run again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ..errors import InvalidRequest, Unavailable
from ..journal import RunRow
from .failures import Refused
from .folders import EXECUTED
from .runner import Runs
from .sets import SUMMARY, ParameterSet, Summary

WORK = ".runs"


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """A folder of outputs, made if need be, for one call alone; what a call that was killed left is removed.

    Raises:
        InvalidRequest: it cannot be made, or another call works in it.
    """
    work = folder / WORK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            try:
                yield
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{folder} cannot be written: {error.strerror or error}.", hint="Give another --output-dir.")


if sys.platform == "win32":

    @contextmanager
    def _locked(folder: Path) -> Iterator[None]:
        yield

else:
    import fcntl

    @contextmanager
    def _locked(folder: Path) -> Iterator[None]:
        """Raises OSError."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                hint = "Wait for it, or give another --output-dir."
                raise InvalidRequest(f"Another call writes to {folder}.", hint=hint) from error
            yield
        finally:
            os.close(descriptor)


class FanOut:
    """One call's sets. `say` is told a line for each that has ended."""

    def __init__(
        self, runs: Runs, sets: Sequence[ParameterSet], folder: Path, kernel: str, say: Callable[[str], object]
    ) -> None:
        self._runs = runs
        self._sets = sets
        self._folder = folder
        self._kernel = kernel
        self._say = say
        self._summary = Summary(folder, sets)

    async def run(self) -> bool:
        """Run what has not been done yet; whether all is done.

        Raises:
            Unavailable: outputs cannot be written.
        """
        await self._write(self._summary.begin)
        waiting = deque(each for each in self._sets if each.key not in self._summary.entries)
        if done := len(self._summary.entries):
            self._say(f"{done} of {len(self._sets)} are done already")
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._runs.workers, len(waiting))):
                tasks.start_soon(self._work, waiting)
        await self._write(self._summary.rewrite)
        failed = sum(entry["status"] != "done" for entry in self._summary.entries.values())
        self._say(f"{len(self._sets) - failed} done, {failed} failed: {self._folder / SUMMARY}")
        return not failed

    async def _work(self, waiting: deque[ParameterSet]) -> None:
        while waiting:
            one = waiting.popleft()
            row: RunRow | None = None
            try:
                row = await self._runs.accept(one.sent, kernel=self._kernel)
                row = await self._runs.settled(row.id)
            except Refused as refused:
                entry = {"status": "failed", "error": refused.failure.body(), "output": None}
            else:
                entry = self._told(one, row)
            with anyio.CancelScope(shield=True):
                await self._keep(one, row, entry)
            self._say(self._line(entry))

    def _told(self, one: ParameterSet, row: RunRow) -> dict[str, Any]:
        outcome = row.outcome or {}
        entry: dict[str, Any] = {"status": row.status, "output": one.name, "warnings": row.warnings}
        entry["seconds"] = round((row.finished_at or 0.0) - (row.started_at or 0.0), 3)
        if "results" in outcome:
            return {**entry, "results": outcome["results"]}
        error = {**outcome["error"]}
        if "output_nb" in error:
            error["output_nb"] = str(self._folder / one.name)
        return {**entry, "error": error}

    async def _keep(self, one: ParameterSet, row: RunRow | None, entry: dict[str, Any]) -> None:
        """Move the executed notebook to its place, and then write down what came of the set."""
        if row is not None:
            folders = self._runs.folders
            self._runs.services.sessions.forget(folders.path(row.id))
            await self._write(os.replace, folders.of(row.id) / EXECUTED, self._folder / one.name)
            await anyio.to_thread.run_sync(folders.remove, row.id)
        told = {"set": one.number, "parameters": one.sent.parameters, **entry, "key": one.key}
        await self._write(self._summary.add, one.key, told)

    async def _write(self, work: Callable[..., object], *arguments: Any) -> None:
        try:
            await anyio.to_thread.run_sync(work, *arguments)
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def _line(self, entry: dict[str, Any]) -> str:
        head = f"[{len(self._summary.entries)}/{len(self._sets)}] {entry['output']}: {entry['status']}"
        if entry["status"] == "done":
            return f"{head} {entry['seconds']:.2f} s"
        return f"{head}: {entry['error']['message']}"
