"""The commands' options: every setting is one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from ..errors import InvalidRequest
from ..settings import Settings, given_names
from ..values import PREFIX

Command = Callable[..., Any]


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    flag = field.name.replace("_", "-")
    text = f"{field.metadata['help']}  [{', '.join((PREFIX + field.name.upper(), *field.metadata['aliases']))}]"
    if hint is bool:
        opposite = "--auth" if field.name == "no_auth" else f"--no-{flag}"
        return click.option(f"--{flag}/{opposite}", field.name, default=None, help=text)
    metavar = "|".join(get_args(hint)) if get_origin(hint) is Literal else _METAVARS.get(hint, "TEXT")
    return click.option(f"--{flag}", field.name, default=None, help=text, metavar=metavar)


_ANSWERS = {"max_chars", "max_images", "max_image_bytes", "wait_seconds"}
_METAVARS = {Path: "DIR", int: "INTEGER", float: "NUMBER"}


class GroupedOptions(click.Command):
    """Shows the options of the settings under their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = {field.name: field.metadata["group"] for field in dataclasses.fields(Settings)}
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows.setdefault(groups.get(parameter.name or "", "Options"), []).append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


class GroupedGroup(GroupedOptions, click.Group):
    """The same for the bare command, whose commands come after."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


def with_settings(*groups: str) -> Callable[[Command], Command]:
    """Options for the settings of some groups; by default for all but those of the gateway and the hub."""
    hints = get_type_hints(Settings)
    chosen = groups or {field.metadata["group"] for field in dataclasses.fields(Settings)} - {"Gateway", "Hub"}
    fields = [field for field in dataclasses.fields(Settings) if field.metadata["group"] in chosen]

    def decorate(command: Command) -> Command:
        for field in reversed(fields):
            command = _option(field, hints[field.name])(command)
        return command

    return decorate


def merged_options(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command over those given before it."""
    merged = dict(options)
    outer: click.Context | None = context
    while outer is not None:
        merged = given(outer.params) | given(merged)
        outer = outer.parent
    return merged


def load_settings(context: click.Context, options: Mapping[str, Any], *, make_root: bool = False) -> Settings:
    """The settings of a command."""
    merged = merged_options(context, options)
    if make_root:
        _make_root(merged.get("root") or os.environ.get(f"{PREFIX}ROOT"))
    return Settings.load(merged)


def _make_root(root: str | None) -> None:
    """Whatever serves a root makes it: on a fresh volume of a container nobody else can."""
    if root and not (folder := Path(root).expanduser()).exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise InvalidRequest(f"The root {folder} cannot be made: {error.strerror}.") from error
        click.echo(f"Made the root {folder.resolve()}.", err=True)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def asked(settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody gave of the settings that concern every client of a server, in JSON's types."""
    own = {"root", "state_dir", "notebook", "embedded", "transport"}
    groups = {field.name: field.metadata["group"] for field in dataclasses.fields(Settings)}
    names = {name for name in given_names(options) - own if groups[name] != "HTTP"} - _ANSWERS
    return {name: getattr(settings, name) for name in sorted(names)}
