"""The folder of tasks: every template read once, and each task checked against its own solution."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread

from ..errors import InvalidRequest, NotFound
from ..ownership import owned
from ..services import Services, open_services
from ..settings import Settings
from .blind.fresh import Limits
from .blind.process import Checkers
from .blind.run import examine
from .formats import load_template
from .results import Results
from .template import RefusedTemplate, Task, Template

logger = logging.getLogger(__name__)


class Shelf:
    """The tasks there are, and the templates that were refused."""

    def __init__(self) -> None:
        self.refused: list[RefusedTemplate] = []
        self._tasks: dict[str, tuple[Template, Task]] = {}

    def all(self) -> Iterator[tuple[Template, Task]]:
        """Every task with its template, by name."""
        yield from (self._tasks[name] for name in sorted(self._tasks))

    def find(self, task: str) -> tuple[Template, Task]:
        """A task by its id.

        Raises:
            NotFound: there is none; the message lists those there are.
        """
        if task in self._tasks:
            return self._tasks[task]
        known = ", ".join(sorted(self._tasks)[:50]) or "none"
        refused = f" Refused: {', '.join(each.template for each in self.refused)}." if self.refused else ""
        raise NotFound(f"There is no task {task[:100]!r}.{refused}", hint=f"There are: {known}.")

    def add(self, template: Template) -> None:
        """Add a template's tasks.

        Raises:
            RefusedTemplate: another one has a task of that id.
        """
        for task_id in template.tasks:
            if task_id in self._tasks:
                other = self._tasks[task_id][0].name
                raise RefusedTemplate(template.name, f"the task {task_id!r} is that of {other} as well.")
        self._tasks |= {task_id: (template, task) for task_id, task in template.tasks.items()}

    def refuse(self, error: RefusedTemplate) -> None:
        """A template is not to be used."""
        logger.warning("%s", error)
        self.refused.append(error)
        self._tasks = {key: found for key, found in self._tasks.items() if found[0].name != error.template}


async def open_shelf(settings: Settings, results: Results, limits: Limits, checkers: Checkers) -> Shelf:
    """Read every notebook of the folder `settings.tasks`, and check what has not been checked as it is now.

    Raises:
        InvalidRequest: there is no such folder.
        Unavailable: another server works in it.
    """
    folder = settings.tasks
    if folder is None or not folder.is_dir():
        raise InvalidRequest("There is no folder of tasks.", hint="Name one with --tasks.")
    shelf = Shelf()
    for path in await anyio.to_thread.run_sync(lambda: sorted(folder.glob("*.ipynb"))):
        try:
            shelf.add(await anyio.to_thread.run_sync(load_template, path))
        except RefusedTemplate as error:
            shelf.refuse(error)
    unknown = [found for found in shelf.all() if not results.is_verified(found[1].hash)]
    if unknown:
        own = _own(settings, folder)
        with owned(own):
            async with open_services(own) as services:
                await _verify(services, shelf, results, unknown, limits, checkers)
    return shelf


def _own(settings: Settings, folder: Path) -> Settings:
    """The settings of a place on this machine, in which the solutions of templates are run."""
    return dataclasses.replace(
        settings,
        root=folder.resolve(),
        contents="files",
        kernels="local",
        notebook=None,
        keep_kernels=False,
        jupyter_url=None,
        room_url=None,
        runtime_url=None,
    )


async def _verify(
    services: Services,
    shelf: Shelf,
    results: Results,
    unknown: list[tuple[Template, Task]],
    limits: Limits,
    checkers: Checkers,
) -> None:
    limiter = anyio.CapacityLimiter(os.cpu_count() or 1)

    async def one(template: Template, task: Task) -> None:
        async with limiter:
            try:
                await _verify_one(services, template, task, limits, checkers)
            except RefusedTemplate as error:
                shelf.refuse(error)
            else:
                results.verify(task.hash)

    async with anyio.create_task_group() as tasks:
        for template, task in unknown:
            tasks.start_soon(one, template, task)


async def _verify_one(services: Services, template: Template, task: Task, limits: Limits, checkers: Checkers) -> None:
    """Check a task's own solution.

    Raises:
        RefusedTemplate: it does not reach full points.
    """
    kernel = services.settings.python or template.kernel or services.settings.kernel_name
    try:
        result = await examine(services, kernel, "", task, task.solution, limits, checkers)
    except NotFound as error:
        raise RefusedTemplate(template.name, f"its kernel cannot be had: {error}") from error
    wrong = next((check for check in result.checks if check.state != "passed"), None)
    if wrong is not None:
        reason = f"the solution of {task.id} does not pass {wrong.label!r}: {wrong.state}, {wrong.detail}".rstrip(", ")
        raise RefusedTemplate(template.name, f"{reason}.", cell=wrong.cell)
    if result.state != "passed":
        raise RefusedTemplate(template.name, f"the solution of {task.id} ends as {result.state}: {result.error}.")
