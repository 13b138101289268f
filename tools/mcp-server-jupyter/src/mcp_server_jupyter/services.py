"""Everything an operation may use, and the one place where lifetimes nest."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import anyio
import anyio.lowlevel

from .errors import InvalidRequest, JupyterMcpError, NotFound, Unauthorized, Unavailable
from .events import Events
from .execution.agents import Agents
from .execution.edit import Edit, journaled_edit
from .execution.moves import Moves
from .execution.queue import Executions
from .execution.recovery import recover
from .execution.sessions import Sessions
from .journal import Journal, open_journal
from .notebooks import new_notebook
from .ports import Contents, Editors, Kernels
from .settings import Settings
from .tasks import Tasks, plain_errors
from .terminals import Terminals, has_terminals

logger = logging.getLogger(__name__)

FIRST_PRUNE_SECONDS = 30.0
PRUNE_SECONDS = 3600.0
CALM_SECONDS = 1.0
LEAD_SECONDS = 20.0
_AGAIN_SECONDS = 5.0
SUPERSEDED = 75
"""Exit code of a server whose kernels another one has taken: `EX_TEMPFAIL` of sysexits.h."""


@dataclass(eq=False)
class Services:
    """One server's parts. Made by `open_services`."""

    settings: Settings
    contents: Contents
    kernels: Kernels
    journal: Journal
    events: Events
    sessions: Sessions
    executions: Executions
    editors: Editors
    agents: Agents
    moves: Moves
    terminals: Terminals | None = None
    default_notebook: str | None = None
    retire: Callable[[bool], Awaitable[None]] | None = None
    """End this server, now or once nothing runs, and leave its kernels to the next; None where it is somebody's own."""
    leave_kernels: bool = False
    """Whether the kernels are left to the next server when this one closes, as `keep_kernels` would."""

    def path(self, notebook_path: str | None) -> str:
        """The notebook a call means, in its one canonical spelling.

        Raises:
            InvalidRequest: none was named and there is no default.
        """
        path = notebook_path or self.default_notebook
        if path is None:
            raise InvalidRequest(
                "No notebook_path was given and the server has no default notebook.",
                hint="Give notebook_path; list_notebooks shows what there is, create_notebook makes one.",
            )
        return self.contents.resolve(path)

    def connect(self, notebook: str) -> None:
        """Make a notebook the default of calls that name none."""
        self.default_notebook = self.contents.resolve(notebook)

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path, by which its kernel and its executions are known already."""
        if self.default_notebook == notebook:
            self.default_notebook = to
        self.agents.renamed(notebook, to)

    def kernel_status(self) -> str:
        """One word for health checks: none, starting, idle, busy, or dead when every kernel is."""
        states = {session.kernel.state for session in self.sessions.all()}
        if any(start.goes_on for start in self.sessions.starts.all()):
            states.add("starting")
        for state in ("busy", "starting", "idle", "dead"):
            if state in states:
                return state
        return "none"

    def edit(self, path: str, author: str) -> AbstractAsyncContextManager[Edit]:
        """Change a notebook and journal the change, both or neither: `async with services.edit(...) as edit: ...`

        See `execution.edit.journaled_edit`.
        """
        return journaled_edit(self.contents, self.journal, path, author)

    async def drain(self, seconds: float) -> None:
        """Let running executions finish within `seconds`."""
        await self.executions.drain(seconds)


@asynccontextmanager
async def open_kernels(settings: Settings, kernels: Kernels | None = None) -> AsyncIterator[Kernels]:
    """The kernels of the settings, or these. Before anything is done with them, `lead` says whether they are ours."""
    opened: Kernels = kernels or open_backend("kernels", settings.kernels, settings)
    async with opened:
        yield opened


async def lead(kernels: Kernels, seconds: float = LEAD_SECONDS) -> None:
    """Wait until no other server holds the kernels.

    Raises:
        Unavailable: another one still does after `seconds`.
    """
    said = ["their backend does not say why"]

    def waiting(why: str) -> None:
        said.append(why)
        logger.warning("the kernels cannot be had yet: %s", why)

    with anyio.move_on_after(seconds):
        await kernels.lead(waiting)
        return
    raise Unavailable(f"The kernels cannot be had: {said[-1]}.", hint="Use the server that has them, or end it.")


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    contents: Contents | None = None,
    kernels: Kernels | None = None,
    terminals: Terminals | None = None,
) -> AsyncIterator[Services]:
    """Open backends and journal, take over what an earlier server left, and close all of it in order."""
    with plain_errors():
        async with open_kernels(settings, kernels) as opened:
            await lead(opened)
            async with open_services_over(opened, settings, contents=contents, terminals=terminals) as services:
                yield services


@asynccontextmanager
async def open_services_over(
    kernels: Kernels, settings: Settings, *, contents: Contents | None = None, terminals: Terminals | None = None
) -> AsyncIterator[Services]:
    """The same over kernels that are open, and led."""
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(open_journal(settings.root_state / "journal.sqlite3"))
        below: Contents = contents or open_backend("contents", settings.contents, settings)
        opened_contents = open_backend("contents", "live", settings, below)
        await stack.enter_async_context(opened_contents)
        if terminals is None and has_terminals(settings):
            terminals = open_backend("terminals", settings.kernels, settings)
        if terminals is not None:
            await stack.enter_async_context(terminals)
        group = await stack.enter_async_context(anyio.create_task_group())
        tasks = Tasks(group)
        tasks.start_soon(_end_when_superseded, kernels)
        events = Events()
        tasks.start_soon(_tell_changes, opened_contents.changes(), events)
        sessions = Sessions(
            kernels, journal, events, tasks, settings.python or settings.kernel_name, settings.cull_idle_seconds
        )
        executions = Executions(opened_contents, journal, events, tasks, settings.max_output_bytes or None)
        editors: Editors = opened_contents.windows
        agents = Agents(journal, events, tasks, executions)
        moves = Moves(below, journal, sessions, executions)
        services = Services(
            settings, opened_contents, kernels, journal, events, sessions, executions, editors, agents, moves, terminals
        )
        moves.tell = services.renamed
        try:
            await moves.find()
            if settings.notebook:
                services.connect(settings.notebook)
            stack.callback(editors.listen(partial(_keep_leases, journal)))
            async with editors.recovering(journal.leases()):
                unsaved = await recover(opened_contents, editors, kernels, journal, sessions, executions)
            for each in unsaved:
                tasks.start_soon(each.confirm, opened_contents, journal)
            if settings.notebook:
                await _open_default(services, tasks)
        except BaseException:
            # Kernels that an earlier server left are as they were: a start that fails takes nothing from anybody.
            with anyio.CancelScope(shield=True):
                await kernels.release()
            raise
        tasks.start_soon(_keep_small, journal, settings)
        tasks.start_soon(_follow, moves, events)
        try:
            yield services
        finally:
            with anyio.CancelScope(shield=True):
                await _close(services)
            group.cancel_scope.cancel()


async def _end_when_superseded(kernels: Kernels) -> None:
    holder = await kernels.superseded()
    logger.critical("another server, %s, has taken over: this one ends, and its kernels run on", holder)
    logging.shutdown()
    # The other one writes journal and notebooks by now: nothing here may still be finished, flushed or closed.
    os._exit(SUPERSEDED)


async def _tell_changes(changes: AsyncIterator[str], events: Events) -> None:
    """The one reader of the contents' changes, ours and other programs': whoever is to hear of them hears events."""
    async for path in changes:
        events.publish("notebook.changed", notebook=path)
        await anyio.lowlevel.checkpoint()  # a checkout of a thousand notebooks lets others take their turn


def _keep_leases(journal: Journal, kind: str, data: Mapping[str, Any], _window: str | None) -> None:
    """Write down who owns what, for the next server."""
    if kind != "lease":
        return
    try:
        journal.lease(data["path"], data["owner"])
    except Unavailable as error:
        logger.warning("a server after this one would not wait for the editor of %s: %s", data["path"], error)


async def _follow(moves: Moves, events: Events) -> None:
    with events.subscribe() as subscription:
        await moves.follow(subscription)


async def _open_default(services: Services, tasks: Tasks) -> None:
    """Make the configured notebook an empty one if it is not there; where nobody answers yet, as soon as they do."""
    try:
        await _make_default(services)
    except (Unavailable, Unauthorized) as error:
        if not services.settings.jupyters:
            raise
        logger.warning("the default notebook is not open yet: %s", error)
        tasks.start_soon(_make_default_later, services)


async def _make_default_later(services: Services) -> None:
    while True:
        await anyio.sleep(_AGAIN_SECONDS)
        try:
            return await _make_default(services)
        except Unavailable:
            continue
        except JupyterMcpError as error:
            logger.warning("the default notebook is not open: %s", error)
            return None


async def _make_default(services: Services) -> None:
    path, runtime = services.path(None), services.settings.runtime_id
    try:
        present = await services.contents.list(path.rpartition("/")[0])
    except NotFound:
        present = ()
    if not any(entry.path == path for entry in present):
        await services.contents.create(path, new_notebook(services.settings.kernel_name))
    if runtime and services.sessions.find(path) is None:
        await services.sessions.choose(path, runtime)


async def _close(services: Services) -> None:
    if services.settings.keep_kernels or services.leave_kernels:
        services.editors.hand_over()
        await services.kernels.release()
    else:
        await services.executions.abandon("The server was stopped while this cell ran, and its kernel with it.")
        services.sessions.stop()
    await services.executions.settle()
    try:
        await services.contents.flush()
    except JupyterMcpError as error:
        services.events.publish("notebook.unwritten", error=str(error))
    services.moves.remember()


async def _keep_small(journal: Journal, settings: Settings) -> None:
    """Prune the journal and its log while it grows, once it has grown, and now and then."""
    pause = FIRST_PRUNE_SECONDS
    while True:
        with anyio.move_on_after(pause) as waiting:
            await journal.growth()
        calm = waiting.cancelled_caught
        pause = PRUNE_SECONDS
        try:
            await journal.prune(max_age_days=settings.journal_days, max_bytes=settings.journal_megabytes * 2**20)
            if not await journal.checkpoint(empty=calm) or not calm:
                pause = CALM_SECONDS
        except Unavailable as error:
            pause = FIRST_PRUNE_SECONDS
            logger.warning("%s", error)


def open_backend(port: str, name: str, settings: Settings, *below: Any) -> Any:
    """Open a backend by the name of its entry point, over another one if it is given that."""
    group = f"mcp_server_jupyter.{port}"
    for point in entry_points(group=group, name=name):
        return point.load()(settings, *below)
    known = ", ".join(sorted(point.name for point in entry_points(group=group)))
    raise InvalidRequest(f"No {port} backend {name!r}.", hint=f"Installed: {known}.")
