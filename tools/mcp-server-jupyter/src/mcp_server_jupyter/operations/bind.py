"""From an operation's signature to a schema and a checked call: what every door shares."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InvalidRequest, JupyterMcpError, KernelDead, Unsupported
from ..services import Services
from ..settings import Settings
from . import ALIASES, ARGUMENT_ALIASES, OF_SOME_PLACES, OPERATIONS, Answer, Call, Caller, Operation, Param
from .call import Progress, never
from .interpreter import add_missing_modules
from .notices import add_notice, from_outside, heard
from .permit import permit

logger = logging.getLogger(__name__)

NO_LIMITS = Param()
MOST = 2**63
LONGEST_NAME = 4096
TEXTS = frozenset({"cell_source", "code", "old_string", "new_string", "text", "command"})
"""Arguments that are a cell's or a program's text, kept whatever is in it; all others are names of something."""
_NOT_IN_NAMES = re.compile("[\0\ud800-\udfff]")
JSON_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of an operation: its JSON type, its limits and whether it must be given."""

    name: str
    kind: Any
    required: bool
    nullable: bool
    choices: tuple[str, ...] = ()
    limits: Param = NO_LIMITS

    def schema(self) -> dict[str, Any]:
        """Its JSON schema (2020-12), as short as it can be."""
        schema: dict[str, Any] = {"type": JSON_TYPES[self.kind]}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.limits.ge is not None:
            schema["minimum"] = self.limits.ge
        if self.limits.le is not None:
            schema["maximum"] = self.limits.le
        return schema

    def check(self, value: Any) -> Any:
        """The value, if it is right.

        Raises:
            InvalidRequest: says what it should be.
        """
        if value is None and (self.nullable or not self.required):
            return None
        if self.kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = number if self.kind is float else isinstance(value, self.kind) and (self.kind is not int or number)
        if not right:
            raise InvalidRequest(
                f"{self.name} must be {_article(JSON_TYPES[self.kind])}, not {_article(_json_type(value))}."
            )
        if self.choices and value not in self.choices:
            raise InvalidRequest(f"{self.name} must be one of {', '.join(self.choices)}, not {_short(value)}.")
        if number:
            self._check_limits(value)
        elif isinstance(value, str) and self.name not in TEXTS:
            self._check_name(value)
        return value

    def _check_name(self, value: str) -> None:
        if len(value) > LONGEST_NAME:
            raise InvalidRequest(f"{self.name} has {len(value)} characters; at most {LONGEST_NAME} are taken.")
        if _NOT_IN_NAMES.search(value):
            raise InvalidRequest(f"{self.name} holds a character that no name has: {_short(value)}.")

    def _check_limits(self, value: float) -> None:
        # JSON has no limits and no NaN, yet parsers let both through; and 10**5000 cannot even be shown.
        if not -MOST <= value <= MOST:
            raise InvalidRequest(f"{self.name} must be a number from -2**63 to 2**63.")
        if self.limits.ge is not None and value < self.limits.ge:
            raise InvalidRequest(f"{self.name} must be at least {self.limits.ge:g}, not {value}.")
        if self.limits.le is not None and value > self.limits.le:
            raise InvalidRequest(f"{self.name} must be at most {self.limits.le:g}, not {value}.")


def _short(value: str) -> str:
    """A text of the caller's, quoted and bounded, for a message."""
    return repr(value) if len(value) <= 100 else f"{value[:100]!r}…"


def _article(word: str) -> str:
    return word if word == "null" else f"{'an' if word[0] in 'aeio' else 'a'} {word}"


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "object"
    return JSON_TYPES.get(type(value), "array")


@functools.cache
def parameters(operation: Operation) -> dict[str, Parameter]:
    """The operation's arguments, in order."""
    hints = get_type_hints(operation.run, include_extras=True)
    found = {}
    for name, parameter in list(inspect.signature(operation.run).parameters.items())[1:]:
        found[name] = _parameter(name, hints[name], parameter.default is inspect.Parameter.empty)
    return found


def _parameter(name: str, hint: Any, required: bool) -> Parameter:
    limits, nullable = NO_LIMITS, False
    if get_origin(hint) in (Union, UnionType):
        nullable = NoneType in get_args(hint)
        hint = next(arg for arg in get_args(hint) if arg is not NoneType)
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        limits = next((note for note in notes if isinstance(note, Param)), limits)
    if get_origin(hint) is Literal:
        return Parameter(name, str, required, nullable, get_args(hint), limits)
    return Parameter(name, hint, required, nullable, (), limits)


def input_schema(operation: Operation) -> dict[str, Any]:
    """The JSON schema of the operation's arguments."""
    known = parameters(operation)
    schema: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema() for p in known.values()}}
    required = [p.name for p in known.values() if p.required]
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return schema


def resolve(name: str) -> Operation | None:
    """The operation of a name or of another server's name for it."""
    return OPERATIONS.get(ALIASES.get(name, name)) or OF_SOME_PLACES.get(name)


def require_offered(operation: Operation, settings: Settings) -> None:
    """Refuse an operation that a place with these settings does not offer.

    Raises:
        Unsupported
    """
    if operation.is_offered(settings):
        return
    allowed = dataclasses.replace(settings, allow_terminal=True)
    hint = "Whoever starts the server allows it: --allow-terminal." if operation.is_offered(allowed) else None
    raise Unsupported(f"{operation.name} is not offered here.", hint=hint)


def check_arguments(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the operation takes them.

    Raises:
        InvalidRequest: an unknown, missing or wrong one; the message names what is allowed.
    """
    known = parameters(operation)
    if not isinstance(arguments, Mapping):
        raise InvalidRequest(f"The arguments must be an object, not {_article(_json_type(arguments))}.")
    checked: dict[str, Any] = {}
    meant: dict[str, str] = {}
    for given, value in arguments.items():
        name = _own_name(given, known, arguments)
        if name is None:
            raise InvalidRequest(
                f"{operation.name} has no argument {_short(given)}.", hint=f"It takes: {', '.join(known) or 'none'}."
            )
        if name in meant:
            raise InvalidRequest(f"{meant[name]} and {given} both mean {name}.", hint="Give one of them.")
        meant[name] = given
        value = known[name].check(value)
        if value is not None or known[name].nullable:
            checked[name] = value
    missing = [p.name for p in known.values() if p.required and p.name not in checked]
    if missing:
        raise InvalidRequest(f"{operation.name} needs {', '.join(missing)}.", hint=f"It takes: {', '.join(known)}.")
    return checked


def _own_name(given: str, known: Mapping[str, Parameter], arguments: Mapping[str, Any]) -> str | None:
    if given in known:
        return given
    for name in ARGUMENT_ALIASES.get(given, ()):
        if name in known and name not in arguments:
            return name
    return None


async def _follow_moves(call: Call, arguments: Mapping[str, Any]) -> None:
    """Whoever names a notebook that was moved means it with its kernel and its history."""
    path = arguments.get("notebook_path") or call.default_notebook
    if path:
        with suppress(JupyterMcpError):
            await call.services.moves.look(call.services.contents.resolve(path))


async def invoke(
    services: Services,
    name: str,
    arguments: Mapping[str, Any],
    *,
    caller: Caller,
    progress: Progress | None = None,
    cancelled_by_caller: Callable[[], bool] = never,
) -> Answer:
    """Run one operation for one caller, and log it as one event.

    Raises:
        JupyterMcpError: what went wrong and what to do next.
    """
    operation = resolve(name)
    if operation is None:
        raise InvalidRequest(f"Unknown operation {_short(name)}.", hint=f"There are: {', '.join(OPERATIONS)}.")
    started = time.perf_counter()
    outcome = "cancelled"
    call = Call(services, caller, progress, cancelled_by_caller)
    try:
        require_offered(operation, services.settings)
        checked = check_arguments(operation, arguments)
        await _follow_moves(call, checked)
        permit(call, operation, checked)
        answer = await operation.run(call, **checked)
        await add_notice(call, answer)
        await add_missing_modules(call, answer)
        outcome = "error" if answer.is_error else "ok"
        return answer
    except JupyterMcpError as error:
        outcome = error.code
        if isinstance(error, KernelDead):
            heard(call)
        if text := await from_outside(call):
            error.hint = f"{error.hint}\n! {text}" if error.hint else f"\n! {text}"
        raise
    finally:
        seconds = time.perf_counter() - started
        services.events.publish(
            "operation.finished",
            name=operation.name,
            author=caller.author,
            seconds=seconds,
            ok=outcome == "ok",
            outcome=outcome,
        )
        logger.info(
            "operation",
            extra={"operation": operation.name, "author": caller.author, "outcome": outcome, "seconds": seconds},
        )
