"""What windows say, read: the bodies of `POST /api/editor/{window}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ...errors import InvalidRequest
from ...services import Services

T = TypeVar("T")
Answer = dict[str, Any]


async def said(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    """Take in what a window says, and answer it.

    Raises:
        InvalidRequest: it is none of what docs/editor-protocol.md lists.
        Stale: it does not fit what the server knows.
        NotFound, OutsideRoot, InvalidNotebook
    """
    kind = field(body, "type", str)
    take = _KINDS.get(kind)
    if take is None:
        raise InvalidRequest(f"type cannot be {kind[:80]!r}.", hint=f"Give one of {', '.join(_KINDS)}.")
    return await take(services, window, body)


def field(body: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """A field of this type; `default` where it is absent or null.

    Raises:
        InvalidRequest
    """
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(f"{name} must be {_NAMES[kind]}.")
    return value


_NAMES: dict[type, str] = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


async def _open(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    path, shared = field(body, "path", str), field(body, "shared", bool, True)
    notebook = field(body, "notebook", dict) if field(body, "dirty", bool, False) else None
    return await services.editors.open(window, path, shared=shared, notebook=notebook)


async def _change(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    path, base, version = field(body, "path", str), field(body, "base", int), field(body, "version", int)
    ops = field(body, "ops", list)
    if not all(isinstance(op, dict) for op in ops):
        raise InvalidRequest("ops must be a list of objects.")
    return {"version": await services.editors.change(window, path, base=base, version=version, ops=ops)}


async def _saved(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    path, version = field(body, "path", str), field(body, "version", int)
    return {"version": await services.editors.saved(window, path, version)}


async def _renamed(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    path, to = field(body, "path", str), field(body, "to", str)
    before, after = await services.editors.renamed(window, path, to)
    if before != after:
        services.sessions.renamed(before, after)
        services.executions.renamed(before, after)
        services.renamed(before, after)
    return {"path": after}


async def _close(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    await services.editors.close(window, field(body, "path", str))
    return {}


async def _reply(services: Services, window: str, body: Mapping[str, Any]) -> Answer:
    request, status = field(body, "request", str), field(body, "status", str)
    if status not in ("applied", "refused"):
        raise InvalidRequest("status must be applied or refused.")
    version = field(body, "version", int)
    known = services.editors.reply(window, request, is_applied=status == "applied", version=version)
    return {"version": known}


_KINDS: dict[str, Callable[[Services, str, Mapping[str, Any]], Awaitable[Answer]]] = {
    "open": _open,
    "change": _change,
    "saved": _saved,
    "renamed": _renamed,
    "close": _close,
    "reply": _reply,
}
