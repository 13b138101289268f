"""When kernels are forked: a fork server for each interpreter and environment in use.

The first kernel of an interpreter is spawned, and its fork server started a moment later, or with the next kernel if
that comes sooner. Whatever goes wrong with a fork server, the kernel is spawned instead, which is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ....settings import Settings
from ..kernelspecs import Recipe
from .client import Forked, ForkServer, NotForked
from .fitness import interpreter, why_spawned

logger = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
"""How long a start waits for a fork server that is coming up."""
_PAUSE_SECONDS = 1.0
_IDLE_SECONDS = 600.0
_MOST_SERVERS = 4
_MOST_FAILURES = 3
# matplotlib reads it from the kernel's folder, and only when it is imported.
_RC = "matplotlibrc"


class Line:
    """One interpreter in one environment, and its fork server if there is one."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], preload: Sequence[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._env = dict(env)
        self._preload = list(preload)
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._said: set[str] = set()
        self._living: set[ForkServer] = set()
        self.server: ForkServer | None = None
        self.refused: dict[str, str] = {}
        self.unfit = ""

    @property
    def is_given_up(self) -> bool:
        """Whether its kernels are spawned for good."""
        return bool(self.unfit) or self._failures >= _MOST_FAILURES

    def begin(self) -> None:
        """Have a fork server a moment later: the first kernel is to be there before."""
        self._later(_PAUSE_SECONDS, self.launch)

    async def fork(self, folder: Path, cwd: Path) -> Forked | None:
        """Fork a recorder for a kernel's folder; None if the kernel is to be spawned."""
        if self.is_given_up:
            return None
        self._later(_IDLE_SECONDS, self.rest)
        server = await self._current()
        if server is None or not await server.is_ready_by(server.launched + WAIT_SECONDS):
            return None
        if _is_read_late(server, cwd):
            return None
        try:
            return await server.fork(folder)
        except NotForked as error:
            self._failed(error.message)
            return None

    async def is_still(self, server: ForkServer, cwd: Path) -> bool:
        """Whether a kernel that a fork server forked a while ago is what would be forked now, for this folder."""
        if self.is_given_up or server is not self.server or server.ended.is_set() or _is_read_late(server, cwd):
            return False
        self._later(_IDLE_SECONDS, self.rest)
        return not await server.is_stale() and server is self.server

    async def _current(self) -> ForkServer | None:
        """The fork server to wait for; None while a new one takes the place of one that has ended."""
        server = self.server
        if server is None:
            self.launch()
            return self.server
        if server.ended.is_set():
            self.launch()
            return None
        if server.ready.done() and await server.is_stale() and server is self.server:
            logger.info("packages have changed: kernels come from a new fork server", extra=self._facts)
            self.rest()
            self.launch()
        return self.server

    def launch(self) -> None:
        """Start a fork server, in the background. One that cannot be started now may be at the next kernel's start."""
        if self._closed or (self.server is not None and not self.server.ended.is_set()):
            return
        self._later(_IDLE_SECONDS, self.rest)
        try:
            self.server = ForkServer.launch(self._command, self._env, self._preload, self._has_ended)
        except OSError as error:
            self._failed(f"it could not be started: {error.strerror}")
        else:
            self._living.add(self.server)

    async def come_up(self) -> None:
        """Start a fork server if there is none, and wait until one is ready or no other follows it."""
        self.launch()
        server = None
        while self.server is not None and self.server is not server:
            server = self.server
            await asyncio.wait([server.ready])

    def rest(self) -> None:
        """Have none for a while."""
        if self.server is not None:
            server, self.server = self.server, None
            server.end()

    async def close(self) -> None:
        """End what it has started and wait until it has ended."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for server in list(self._living):
            server.end()
            await server.ended.wait()

    def succeeded(self) -> None:
        """A kernel that was forked answers."""
        self._failures = 0

    def blame(self) -> None:
        """A kernel that was forked did not come up, and one that was spawned in its place did."""
        self._failed("a kernel that was forked did not come up")

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call)

    def _has_ended(self, server: ForkServer) -> None:
        self._living.discard(server)
        if self._closed or server is not self.server:
            return
        if server.unfit:
            self.unfit = server.unfit
            self._say(f"kernels of this interpreter are spawned, not forked: {self.unfit}")
        elif server.refused or server.importing:
            name, why = server.refused or (server.importing, "its import ends the process")
            self.refused[name] = why
            self._preload.remove(name)
            self._say(f"{name} cannot be preloaded: {why}")
            self.launch()
        elif not server.was_killed:
            # What was printed while it came up says why it did not.
            printed = "" if server.version else server.printed()
            self._failed(f"it ended{printed and ': '}{printed}")

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._say(f"a fork server failed, and the kernel was spawned instead: {why}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning(text, extra=self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        return {"python": self._command[0]}


def _is_read_late(server: ForkServer, cwd: Path) -> bool:
    """Whether a folder has what a preloaded module would have read there."""
    return "matplotlib" in server.modules and (cwd / _RC).exists()


class Forks:
    """The fork servers of one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lines: dict[object, Line] = {}

    async def close(self) -> None:
        """End them all. The kernels they have forked go on."""
        for line in self._lines.values():
            await line.close()

    def line(self, recipe: Recipe, env: Mapping[str, str]) -> Line | None:
        """Where a kernel of this kernelspec and environment may be forked; None if it is spawned, as the first is."""
        if not self._settings.fork_kernels or why_spawned(recipe, env):
            return None
        command = interpreter(recipe)
        key = (*command, *sorted(env.items()))
        line = self._lines.pop(key, None)
        if line is None:
            line = Line(command, env, self._settings.preload)
            line.begin()
            self._lines[key] = line
            self._rest_oldest()
            return None
        self._lines[key] = line
        return line

    def _rest_oldest(self) -> None:
        for old in list(self._lines.values())[:-_MOST_SERVERS]:
            old.rest()
