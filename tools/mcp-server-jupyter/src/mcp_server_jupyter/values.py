"""The values of settings as they are given: text of a variable or an option, made what the setting is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .errors import InvalidRequest

PREFIX = "MCP_JUPYTER_"
"""What the variables begin with that are ours alone."""


def from_environ(field: dataclasses.Field[Any], environ: Mapping[str, str]) -> str | None:
    for name in (PREFIX + field.name.upper(), *field.metadata["aliases"]):
        if environ.get(name):
            return environ[name]
    return None


def convert(name: str, value: Any, hint: Any) -> Any:
    """The value of the setting `name`, as its type hint says.

    Raises:
        InvalidRequest: it cannot be one; the message names the setting.
    """
    if get_origin(hint) in (Union, UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    try:
        return _convert_to(value, hint)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"Setting {name!r} cannot be {value!r}.",
            hint=f"Give it by --{name.replace('_', '-')} or {PREFIX}{name.upper()}.",
        ) from error


def _convert_to(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(value)
        return value
    if get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() for part in parts if part.strip())
    if hint is bool and isinstance(value, str):
        if value.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ValueError(value)
        return value.lower() in ("1", "true", "yes", "on")
    return hint(value)
