"""The commands. Each reads the settings, opens what it needs and hands over to a door."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import click

from . import __version__
from .errors import JupyterMcpError
from .settings import PREFIX, Settings

if TYPE_CHECKING:
    from mcp.server import MCPServer

Command = Callable[..., Any]


# --------------------------------------------------------------------------- options from the settings


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    flag = field.name.replace("_", "-")
    text = f"{field.metadata['help']}  [{', '.join((PREFIX + field.name.upper(), *field.metadata['aliases']))}]"
    if hint is bool:
        opposite = "--auth" if field.name == "no_auth" else f"--no-{flag}"
        return click.option(f"--{flag}/{opposite}", field.name, default=None, help=text)
    metavar = "|".join(get_args(hint)) if get_origin(hint) is not None and field.name in _CHOICES else None
    return click.option(f"--{flag}", field.name, default=None, help=text, metavar=metavar or _METAVARS.get(field.name))


_CHOICES = ("log_level", "transport")
_METAVARS = {"root": "DIR", "state_dir": "DIR", "notebook": "PATH"}


class _GroupedOptions(click.Command):
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


class _GroupedGroup(_GroupedOptions, click.Group):
    """The same for the bare command, whose commands come after."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


def _with_settings(command: Command) -> Command:
    hints = get_type_hints(Settings)
    for field in reversed(dataclasses.fields(Settings)):
        command = _option(field, hints[field.name])(command)
    return command


def _settings(context: click.Context, options: Mapping[str, Any]) -> Settings:
    """Options of the command over those given before it."""
    outer = context.find_root().params if context.parent else {}
    names = [field.name for field in dataclasses.fields(Settings)]
    merged = {name: options.get(name) if options.get(name) is not None else outer.get(name) for name in names}
    return Settings.load(merged)


# --------------------------------------------------------------------------- commands


@click.group(cls=_GroupedGroup, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="mcp-server-jupyter")
@_with_settings
@click.pass_context
def commands(context: click.Context, /, **options: Any) -> None:
    """Notebooks and live kernels for AI agents and people.

    Without a command: MCP on standard input and output, attached to your running server of the same root if there is
    one.
    """
    if context.invoked_subcommand is not None:
        return
    settings = _settings(context, options)
    if settings.transport == "streamable-http":
        _run_server(settings, sample=False)
    else:
        _run_stdio(settings)


@commands.command(cls=_GroupedOptions)
@click.option("--sample", is_flag=True, help="Copy the sample notebooks into the root if it has no notebook.")
@_with_settings
@click.pass_context
def serve(context: click.Context, /, *, sample: bool, **options: Any) -> None:
    """Serve streamable HTTP, REST, health and metrics."""
    _run_server(_settings(context, options), sample=sample)


# --------------------------------------------------------------------------- composition


def _run_stdio(settings: Settings) -> None:
    import anyio  # noqa: PLC0415 - `--help` and the printing commands need no event loop

    from .frontends._wire import claim_stdio  # noqa: PLC0415

    async def serve_client() -> None:
        from .frontends.stdio import serve_stdio  # noqa: PLC0415
        from .runtime import find_server  # noqa: PLC0415

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
            await serve_stdio(wire, lambda: find_server(settings), lambda: _embedded(settings))
            tasks.cancel_scope.cancel()

    with claim_stdio() as wire:
        anyio.run(serve_client)


@asynccontextmanager
async def _embedded(settings: Settings) -> AsyncIterator[MCPServer]:
    from .frontends._sdk_compat import quick_import  # noqa: PLC0415 - the SDK takes 0.4 s: not before it is needed
    from .logs import configure  # noqa: PLC0415
    from .runtime import own_state_dir  # noqa: PLC0415

    configure(settings)
    with quick_import():
        from .frontends.mcp import create_mcp  # noqa: PLC0415
        from .services import open_services  # noqa: PLC0415

    with own_state_dir(settings) as owned:
        async with open_services(owned) as services:
            yield create_mcp(services)


def _run_server(settings: Settings, *, sample: bool) -> None:
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    from .frontends._sdk_compat import quick_import  # noqa: PLC0415
    from .frontends._security import refuse_unsafe  # noqa: PLC0415
    from .logs import configure  # noqa: PLC0415
    from .runtime import own_state_dir  # noqa: PLC0415

    refuse_unsafe(settings)
    if sample:
        settings = _with_sample(settings)
    with quick_import():
        from .frontends.http import serve_http  # noqa: PLC0415
    with own_state_dir(settings) as owned:
        configure(owned)
        anyio.run(serve_http, owned, click.echo)


def _with_sample(settings: Settings) -> Settings:
    from .frontends._sample import copy_sample  # noqa: PLC0415 - only for `--sample`

    welcome = copy_sample(settings.root)
    return dataclasses.replace(settings, notebook=settings.notebook or welcome) if welcome else settings


async def _cancel_on_signal(scope: Any) -> None:
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def main() -> None:
    """The entry point: known errors become one line and exit code 2."""
    try:
        commands.main(standalone_mode=True)
    except* JupyterMcpError as errors:
        for line in _messages(errors):
            click.echo(f"Error: {line}", err=True)
        sys.exit(2)


def _messages(errors: BaseExceptionGroup[Any]) -> Iterator[str]:
    """A failing part of a task group arrives in a group, perhaps of groups."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _messages(error)
        else:
            yield str(error)
