"""What every operation is given and what it answers: nothing here knows of a door."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidRequest
from ..execution.session import Session
from ..services import Services
from ..settings import Settings

Progress = Callable[[float, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Param:
    """Limits of a parameter, for its schema and its check: `Annotated[int, Param(ge=0)]`."""

    ge: float | None = None
    le: float | None = None


def never() -> bool:
    return False


def everywhere(settings: Settings) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Answers:
    """How much a client wants in one answer, and how long it waits. Named and bounded as in `Settings`."""

    max_chars: int
    max_images: int
    max_image_bytes: int
    wait_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Answers:
        """Those of a server, for a client that brings none of its own."""
        return cls(settings.max_chars, settings.max_images, settings.max_image_bytes, settings.wait_seconds)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls, and what travels with its connection rather than with the server.

    `author` is who its edits are journaled for: a client's name and, where the connection has one, an id that is stable
    for that client's life. `environment` is what a kernel it starts inherits; None, the server's own. What agents may
    do their person decides (`execution.agents`). Where nobody `answers_input`, code that asks for some raises at once.
    """

    author: str = "user"
    answers: Answers | None = None
    notebook: str | None = None
    environment: Mapping[str, str] | None = None
    is_agent: bool = False
    answers_input: bool = True
    kernel_id: str | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One call of an operation.

    `progress(value, text)` reports to the caller, None when nobody asked. `cancelled_by_caller()` says, once the
    call is being cancelled, whether the caller asked for it (then its cell is interrupted) or merely went away.
    `notebook` and `kernel_id` are what it is about, as far as it has named them: the fate of that kernel is added to
    the answer (see `notices`).
    """

    services: Services
    caller: Caller
    progress: Progress | None = None
    cancelled_by_caller: Callable[[], bool] = never
    notebook: str | None = None
    kernel_id: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _reported: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    async def report(self, text: str) -> None:
        """Tell the caller, if it listens: the seconds of this call so far, rising, and this text."""
        if self.progress is not None:
            self._reported = max(self._reported + 0.001, round(self.seconds, 3))
            await self.progress(self._reported, text)

    @property
    def author(self) -> str:
        return self.caller.author

    @property
    def answers(self) -> Answers:
        return self.caller.answers or Answers.of(self.services.settings)

    @property
    def default_notebook(self) -> str | None:
        """What a call that names no notebook means: the client's own default, else the server's."""
        return self.caller.notebook or self.services.default_notebook

    def path(self, notebook_path: str | None) -> str:
        """The notebook this call means, in its one canonical spelling.

        Raises:
            InvalidRequest: none was named and there is no default.
        """
        self.notebook = self.services.path(notebook_path or self.caller.notebook)
        return self.notebook

    def kernel(self, kernel_id: str) -> Session:
        """The session of the kernel this call means.

        Raises:
            NotFound
            InvalidRequest: it is the caller's own.
        """
        session = self.other(self.services.sessions.get(kernel_id))
        self.notebook, self.kernel_id = session.notebook, session.id
        return session

    def other(self, session: Session) -> Session:
        """A session that can answer while this call is waited for.

        Raises:
            InvalidRequest: its kernel is the one whose code calls, and would wait for itself.
        """
        if session.id == self.caller.kernel_id:
            raise InvalidRequest(
                "This kernel is running the very cell that asks.",
                hint="Name another notebook or kernel; what is meant for this one is a cell of its own.",
            )
        return session


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of an answer, base64."""

    data: str
    mime_type: str


@dataclass(frozen=True, slots=True)
class Link:
    """A handle to more: a resource the caller can read."""

    uri: str
    name: str


@dataclass(slots=True)
class Answer:
    """What an operation says: text for a reader, `data` for a program."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    images: list[Picture] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: a typed async function `(call, ...) -> Answer` and what a door must tell of it.

    `doc` is the one line an agent reads; the function's docstring is for the documentation. Where it `is_offered`, by
    the settings of a place, it is listed.
    """

    run: Callable[..., Awaitable[Answer]]
    title: str
    doc: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    is_offered: Callable[[Settings], bool] = everywhere

    @property
    def name(self) -> str:
        return self.run.__name__
