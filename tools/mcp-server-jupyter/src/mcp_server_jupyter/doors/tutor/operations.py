"""What the tutor offers, declared once for both of its doors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from starlette.requests import Request

from ...errors import InvalidRequest
from ...operations import Answer, Operation, Param
from ...operations.bind import check_arguments
from ...tutor.service import Tutor

WAIT_SECONDS = 45.0
Allow = Callable[[Request, str | None], Awaitable[None]]
"""Returns if whoever sent an HTTP request may do this for a learner; None, for more than one.

Raises:
    NotAllowed, Unauthorized
"""


async def list_tasks(tutor: Tutor) -> Answer:
    """The tasks there are, and the templates that were refused, with the reason."""
    tasks = tutor.list_tasks()
    lines = [each.get("refused") or f"{each['task']}: {each['max_points']:g} points" for each in tasks]
    return Answer("\n".join(lines) or "No tasks.", {"tasks": tasks})


async def list_learners(
    tutor: Tutor,
    running: bool = False,
    offset: Annotated[int, Param(ge=0)] = 0,
    limit: Annotated[int, Param(ge=1, le=200)] = 100,
) -> Answer:
    """The learners, whether their servers run, and when they were last there.

    Args:
        running: only those whose server runs.
        offset: how many to leave out.

    Raises:
        NotAllowed: the service's role at the hub lacks the scope list:users.
        Unavailable: the hub does not answer.
    """
    told = await tutor.list_learners(running, offset, limit)
    rows = told["learners"]
    lines = [
        f"{each['learner']}: {'runs' if each['running'] else 'stopped'}, last there {each['last_activity'] or '?'}"
        for each in rows
    ]
    if offset + len(rows) < told["total"] and rows:
        lines.append(f"{told['total']} in all; offset={offset + len(rows)} goes on.")
    return Answer("\n".join(lines) or "No learners.", told)


async def deploy_task(tutor: Tutor, learner: str, task: str, path: str = "", reset: bool = False) -> Answer:
    """Give a learner a task: its notebook without tests and solutions.

    Args:
        path: where it goes; absent, the template's own name.
        reset: begin anew where there is a file already, which is kept as a copy.

    Raises:
        AlreadyExists: there is a file already.
        NotFound: there is no such task.
    """
    told = await tutor.deploy_task(learner, task, path, reset=reset)
    kept = f"; what was there is {told['kept']}" if "kept" in told else ""
    return Answer(f"{learner} has {task} at {told['path']}{kept}.", told)


async def check_task(
    tutor: Tutor,
    learner: str,
    task: str,
    path: str = "",
    again: bool = False,
    wait_seconds: Annotated[float, Param(ge=0, le=600)] = WAIT_SECONDS,
) -> Answer:
    """Check a learner's work as it is now. What was checked already is answered at once.

    Args:
        path: the notebook, where it is not where the task was deployed.
        again: check the same work once more, e.g. after a package was installed.
        wait_seconds: then `state` is "queued" or "running"; the same call later answers the result.

    Raises:
        NotFound: there is no such task, or it was not deployed.
        Unavailable: the learner's server cannot be had now.
    """
    told = await tutor.check_task(learner, task, path, again=again, wait_seconds=wait_seconds)
    return Answer(_shown(told), told)


async def learner_progress(tutor: Tutor, learner: str = "", task: str = "") -> Answer:
    """The last attempts of a learner at every task, or of every learner at a task, with the most points of any.

    Raises:
        InvalidRequest: neither is given.
    """
    rows = tutor.learner_progress(learner or None, task or None)
    lines = [
        f"{each['learner']} {each['task']}: {each['state']}, {each['points']:g}/{each['max_points']:g}, "
        f"attempt {each['attempt']}"
        for each in rows
    ]
    return Answer("\n".join(lines) or "Nothing was checked yet.", {"progress": rows})


_ALL = (
    Operation(list_tasks, "Tasks", "Tasks and their points.", read_only=True),
    Operation(list_learners, "Learners", "Who there is, whose server runs, last activity.", read_only=True),
    Operation(deploy_task, "Deploy task", "To a learner; reset keeps a copy."),
    Operation(check_task, "Check task", "Blind: states, points, messages; no answers.", idempotent=True),
    Operation(learner_progress, "Progress", "By learner, by task, or both.", read_only=True),
)
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}


async def invoke(
    tutor: Tutor, name: str, arguments: Mapping[str, Any], allow: Callable[[str | None], Awaitable[None]]
) -> Answer:
    """Run one operation for whoever is allowed to.

    Raises:
        JupyterMcpError: what went wrong and what to do next.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise InvalidRequest(f"Unknown operation {name[:100]!r}.", hint=f"There are: {', '.join(OPERATIONS)}.")
    checked = check_arguments(operation, arguments)
    # Why a template was refused is not for learners either: it tells of the template.
    await allow(checked.get("learner") or None)
    return await operation.run(tutor, **checked)


def _shown(told: Mapping[str, Any]) -> str:
    head = f"{told['learner']} {told['task']}, attempt {told['attempt']}: {told['state']}"
    if "points" not in told:
        return f"{head}. The same call later answers the result."
    lines = [f"{head}, {told['points']:g} of {told['max_points']:g} points."]
    if "error" in told:
        lines.append(_raised(told["error"]))
    for check in told["checks"]:
        said = [str(check["message"])] if "message" in check else []
        said += [_raised(check["error"])] if "error" in check else []
        lines.append(f"{check['label']}: {check['state']}" + "".join(f"\n  {each}" for each in said))
    return "\n".join(lines)


def _raised(error: Mapping[str, Any]) -> str:
    return "\n  ".join([f"{error['name']}: {error['text']}", *error["where"]])
