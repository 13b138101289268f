"""What every operation is given and what it answers: nothing here knows of a door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..services import Services

Progress = Callable[[float, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Param:
    """Limits of a parameter, for its schema and its check: `Annotated[int, Param(ge=0)]`."""

    ge: float | None = None
    le: float | None = None
    text: str | None = None


def never() -> bool:
    return False


@dataclass(eq=False, slots=True)
class Call:
    """One call of an operation.

    `progress(value, text)` reports to the caller, None when nobody asked. `cancelled_by_caller()` says, once the
    call is being cancelled, whether the caller asked for it (then its cell is interrupted) or merely went away.
    """

    services: Services
    author: str = "user"
    progress: Progress | None = None
    cancelled_by_caller: Callable[[], bool] = never


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

    `doc` is the one line an agent reads; the function's docstring is for the documentation.
    """

    run: Callable[..., Awaitable[Answer]]
    title: str
    doc: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__
