"""Tasks and learners for tests: templates as they are written, and work on them as learners hand it in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel

from mcp_server_jupyter.errors import AlreadyExists, JupyterMcpError, NotFound
from mcp_server_jupyter.notebooks import node
from mcp_server_jupyter.ports import Message
from mcp_server_jupyter.services import Services
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.tutor.blind.fresh import Limits
from mcp_server_jupyter.tutor.blind.process import open_checkers
from mcp_server_jupyter.tutor.blind.run import Result, examine
from mcp_server_jupyter.tutor.formats import load_template
from mcp_server_jupyter.tutor.results import open_results
from mcp_server_jupyter.tutor.service import Tutor, open_tutor
from mcp_server_jupyter.tutor.template import Task

PATIENT = Limits(check_seconds=60, task_seconds=120)
"""Limits that a busy machine does not reach."""


def code(source: str, *tags: str, id: str | None = None, **metadata: Any) -> dict[str, Any]:
    return _cell("code", source, id, {"tags": list(tags), **metadata}, execution_count=None, outputs=[])


def text(source: str, *tags: str, id: str | None = None, **metadata: Any) -> dict[str, Any]:
    return _cell("markdown", source, id, {"tags": list(tags), **metadata})


def raw(source: str) -> dict[str, Any]:
    return _cell("raw", source, None, {})


def graded(source: str, grade_id: str, points: float | None = None, **more: bool) -> dict[str, Any]:
    """A code cell as nbgrader marks it."""
    said: dict[str, Any] = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    said |= {"grade_id": grade_id, **more}
    return code(source, nbgrader=said if points is None else {**said, "points": points})


def _cell(kind: str, source: str, id: str | None, metadata: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = {"cell_type": kind, "metadata": metadata, "source": source, **more}
    return made if id is None else {**made, "id": id}


def notebook(*cells: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    numbered = [{"id": f"c{at}", **cell} for at, cell in enumerate(cells)]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {**spec, **metadata}, "cells": numbered}


def write(path: Path, made: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return path


def squares(test: str = "assert square(12) == 144, 'Square 12.'", setup: str = "import math") -> dict[str, Any]:
    """A template of one task, `squares`."""
    return notebook(
        text("# Squares", "task:squares"),
        code(setup, "setup"),
        code("def square(x):\n    return x * x", "task:squares", "solution"),
        code(test, "task:squares", "hidden-test", label="squares numbers"),
    )


async def handed_in(services: Services, task: Task, *sources: str, limits: Limits = PATIENT) -> Result:
    """What a task comes to with these as the cells of the learner."""
    first = next(at for at, step in enumerate(task.steps) if step.own)
    async with open_checkers() as checkers:
        return await examine(services, "python3", "", task, {first: list(sources)}, limits, checkers)


# --------------------------------------------------------------------------- learners without a server each


class FakeKernel:
    """Runs code in this process, at once: thousands of learners' kernels cannot exist on a test's machine."""

    def __init__(self, place: FakePlace) -> None:
        self.id = f"kernel-{place.kernels_started}"
        self._place = place
        self._user: dict[str, Any] = {"__name__": "__main__"}

    async def request(self, _kind: str, content: Mapping[str, Any], **_: Any) -> AsyncIterator[Message]:
        await self._place.gate.wait()
        reply: dict[str, Any] = {"status": "ok", "user_expressions": {}}
        if content["silent"]:
            for name, expression in content["user_expressions"].items():
                text = repr(eval(expression, self._user))
                reply["user_expressions"][name] = {"status": "ok", "data": {"text/plain": text}}
        else:
            try:
                exec(content["code"], self._user)
            except Exception as error:  # noqa: BLE001  (whatever a cell raises is its result)
                reply |= {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
        await anyio.lowlevel.checkpoint()
        yield Message("shell", "execute_reply", "", "", reply)

    async def shutdown(self) -> None:
        self._place.kernels_running -= 1


class FakePlace:
    """A learner's place: notebooks in a dictionary, kernels in this process, held back while `gate` is unset."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notebooks: dict[str, Any] = {}
        self.gate = anyio.Event()
        self.gate.set()
        self.kernels_running = self.kernels_started = self.most_at_once = 0
        self.broken: JupyterMcpError | None = None
        self.contents = self.kernels = self

    def resolve(self, path: str) -> str:
        return path

    async def read(self, path: str) -> Any:
        if path not in self.notebooks:
            raise NotFound(f"There is no {path}.")
        return self.notebooks[path]

    async def create(self, path: str, made: Any) -> None:
        if path in self.notebooks:
            raise AlreadyExists(f"There is {path}.")
        self.notebooks[path] = made

    async def start(self, _name: str, *, cwd: str = "") -> FakeKernel:
        if self.broken is not None:
            raise self.broken
        self.kernels_running += 1
        self.kernels_started += 1
        self.most_at_once = max(self.most_at_once, self.kernels_running)
        return FakeKernel(self)

    def writes(self, source: str, path: str = "squares.ipynb") -> None:
        """The learner's solution is this from now on."""
        made = node(self.notebooks[path])
        made.cells[2]["source"] = source
        self.notebooks[path] = made


class Learners:
    """Learners by name, each with a fake place of their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.places: dict[str, FakePlace] = {}

    def __getitem__(self, learner: str) -> FakePlace:
        return self.places.setdefault(learner, FakePlace(self._settings))

    @asynccontextmanager
    async def place_of(self, learner: str) -> AsyncIterator[Services]:
        await anyio.lowlevel.checkpoint()
        yield cast(Services, self[learner])


def tutor_settings(folder: Path, **more: Any) -> Settings:
    """Settings of a tutor with the task `squares`."""
    write(folder / "tasks" / "squares.ipynb", squares())
    (folder / "root").mkdir(exist_ok=True)
    options = {"root": folder / "root", "state_dir": folder / "state", "tasks": folder / "tasks", **more}
    return Settings.load(options, environ={})


@asynccontextmanager
async def fake_tutor(settings: Settings, learners: Learners) -> AsyncIterator[Tutor]:
    """A tutor over fake learners, whose templates are taken to have passed their own checks."""
    assert settings.tasks is not None
    with open_results(settings.state_dir / "tutor" / "results.sqlite3") as results:
        for path in settings.tasks.glob("*.ipynb"):
            for task in load_template(path).tasks.values():
                results.verify(task.hash)
    async with open_tutor(settings, learners.place_of, PATIENT) as tutor:
        yield tutor
