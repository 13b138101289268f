"""Tasks and learners for tests: templates as they are written, and work on them as learners hand it in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp_server_jupyter.services import Services
from mcp_server_jupyter.tutor.blind.fresh import Limits
from mcp_server_jupyter.tutor.blind.run import Result, examine
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
    return await examine(services, "python3", "", task, {first: list(sources)}, limits)
