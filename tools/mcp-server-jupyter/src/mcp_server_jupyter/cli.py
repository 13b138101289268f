"""The commands. Each reads the settings, opens what it needs and hands over to a door."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import click

from . import __version__
from .errors import JupyterMcpError, NotFound, Unavailable
from .settings import PREFIX, Settings, remote_jupyter

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from .services import Services

Command = Callable[..., Any]


# --------------------------------------------------------------------------- options from the settings


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    flag = field.name.replace("_", "-")
    text = f"{field.metadata['help']}  [{', '.join((PREFIX + field.name.upper(), *field.metadata['aliases']))}]"
    if hint is bool:
        opposite = "--auth" if field.name == "no_auth" else f"--no-{flag}"
        return click.option(f"--{flag}/{opposite}", field.name, default=None, help=text)
    metavar = "|".join(get_args(hint)) if get_origin(hint) is Literal else _METAVARS.get(hint, "TEXT")
    return click.option(f"--{flag}", field.name, default=None, help=text, metavar=metavar)


CLIENTS = ("vscode", "claude", "claude-desktop", "cursor", "windsurf", "generic")
_METAVARS = {Path: "DIR", int: "INTEGER", float: "NUMBER"}


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


def _with_settings(*groups: str) -> Callable[[Command], Command]:
    """Options for every setting, or for those of some groups."""
    hints = get_type_hints(Settings)
    fields = [field for field in dataclasses.fields(Settings) if not groups or field.metadata["group"] in groups]

    def decorate(command: Command) -> Command:
        for field in reversed(fields):
            command = _option(field, hints[field.name])(command)
        return command

    return decorate


def _settings(context: click.Context, options: Mapping[str, Any]) -> Settings:
    """Options of the command over those given before it."""
    merged = dict(options)
    outer: click.Context | None = context
    while outer is not None:
        merged = _given(outer.params) | _given(merged)
        outer = outer.parent
    for name in remote_jupyter():
        click.echo(f"Warning: {name} is not used: this server works in its own notebooks and kernels.", err=True)
    return Settings.load(merged)


# --------------------------------------------------------------------------- commands


@click.group(cls=_GroupedGroup, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="mcp-server-jupyter")
@_with_settings()
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
@_with_settings()
@click.pass_context
def serve(context: click.Context, /, *, sample: bool, **options: Any) -> None:
    """Serve streamable HTTP, REST, health and metrics."""
    _run_server(_settings(context, options), sample=sample)


@commands.command(cls=_GroupedOptions)
@click.argument("source", metavar="NOTEBOOK", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter; may be given again.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Execute a copy at this path.")
@_with_settings("Root", "Backends", "Kernels", "Server")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    source: Path,
    parameters: tuple[str, ...],
    output: Path | None,
    **options: Any,
) -> None:
    """Execute NOTEBOOK and write its outputs; exit code 1 when a cell fails."""
    source = source.resolve()
    if not (options["root"] or context.find_root().params.get("root") or source.is_relative_to(Path.cwd())):
        options["root"] = str(source.parent)
    settings = _settings(context, {"log_level": "warning", **_given(options)})
    sys.exit(0 if _in_services(settings, _run_notebook, source, output and output.resolve(), parameters) else 1)


@commands.command(cls=_GroupedOptions)
@_with_settings()
@click.pass_context
def doctor(context: click.Context, /, **options: Any) -> None:
    """Say what works here, what does not, and what to do about it; exit code 1 when something does not."""
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    settings = _settings(context, {"log_level": "error", **_given(options)})

    async def report() -> bool:
        from .commands.doctor import examine  # noqa: PLC0415

        findings = [finding async for finding in _said(examine(settings))]
        return all(finding.fine for finding in findings)

    _configure_logs(settings)
    sys.exit(0 if anyio.run(report) else 1)


@commands.group(cls=_GroupedGroup, invoke_without_command=True)
@_with_settings("Root", "Server")
@click.pass_context
def kernels(context: click.Context, /, **options: Any) -> None:
    """List the kernels of the running server, or those that a server left running."""
    if context.invoked_subcommand is None:
        click.echo(_call(_settings(context, options), "list_kernels", {}))


@kernels.command()
@click.argument("kernel_id")
@click.pass_context
def stop(context: click.Context, /, *, kernel_id: str) -> None:
    """Shut down the kernel KERNEL_ID (the beginning of an id will do)."""
    click.echo(_call(_settings(context, {}), "shutdown_kernel", {"kernel_id": kernel_id}))


@commands.command(cls=_GroupedOptions)
@click.argument("client", type=click.Choice(CLIENTS))
@click.option("--http", is_flag=True, help="For the running server, with its token, instead of stdio.")
@_with_settings()
@click.pass_context
def config(context: click.Context, /, *, client: str, http: bool, **options: Any) -> None:
    """Print the configuration that CLIENT takes, ready to paste; where it goes is said on standard error."""
    import json  # noqa: PLC0415 - see `_run_stdio`

    from .commands import config  # noqa: PLC0415
    from .ownership import find_server  # noqa: PLC0415

    settings = _settings(context, options)
    if http:
        server = find_server(settings) or find_server(settings, any_root=True)
        if server is None:
            raise NotFound("No server runs.", hint="Start one with `mcp-server-jupyter serve`.")
        entry = config.http_config(client, server.url, server.token)
    else:
        entry = config.stdio_config(client, settings)
    click.echo(f"For {config.CLIENTS[client]}:", err=True)
    click.echo(json.dumps(entry, indent=2))


# --------------------------------------------------------------------------- composition


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _configure_logs(settings: Settings) -> None:
    from .logs import configure  # noqa: PLC0415 - only for what runs services

    configure(settings)


async def _said(findings: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for finding in findings:
        click.echo(str(finding))
        yield finding


def _in_services(settings: Settings, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work(services, *arguments)` with services of its own."""
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    from .ownership import own_state_dir  # noqa: PLC0415
    from .services import open_services  # noqa: PLC0415

    async def main(owned: Settings) -> Any:
        async with open_services(owned) as services:
            return await work(services, *arguments)

    _configure_logs(settings)
    with own_state_dir(settings) as owned:
        return anyio.run(main, owned)


async def _run_notebook(services: Any, notebook: Path, output: Path | None, parameters: tuple[str, ...]) -> bool:
    from .commands.run import parse_parameters, prepare, run_notebook  # noqa: PLC0415 - see `_run_stdio`

    root = services.settings.root
    values = parse_parameters(parameters)
    path = prepare(root, notebook, output)
    return await run_notebook(services, path, notebook.relative_to(root).as_posix(), values, click.echo)


def _call(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> str:
    """One operation, by the running server or else on the kernels that the last one left."""
    from .ownership import find_server, is_owned  # noqa: PLC0415 - see `_run_stdio`

    server = find_server(settings) or find_server(settings, any_root=True)
    if server is None and is_owned(settings):
        raise Unavailable(
            "The server that owns these kernels serves one client on standard input and output alone.",
            hint="Run `mcp-server-jupyter serve` before its client starts: then both see the same kernels.",
        )
    if server is None:
        settings = dataclasses.replace(settings, keep_kernels=True, log_level="error")
        return str(_in_services(settings, _invoke, operation, arguments))
    import httpx2  # noqa: PLC0415 - only to ask a running server

    headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
    try:
        url = f"{server.address}/api/operations/{operation}"
        answer = httpx2.post(url, json=arguments, headers=headers, timeout=60, trust_env=False).json()
    except httpx2.HTTPError as error:
        raise Unavailable(f"The server at {server.address} does not answer: {error}.") from error
    if "text" not in answer:
        raise JupyterMcpError(answer["message"], hint=answer["hint"])
    return str(answer["text"])


async def _invoke(services: Any, operation: str, arguments: Mapping[str, Any]) -> str:
    from .operations import Caller  # noqa: PLC0415 - see `_run_stdio`
    from .operations.bind import invoke  # noqa: PLC0415 - see `_run_stdio`

    return (await invoke(services, operation, arguments, caller=Caller("user"))).text


def _run_stdio(settings: Settings) -> None:
    import anyio  # noqa: PLC0415 - `--help` and the printing commands need no event loop

    from .doors.stdio.wire import claim_stdio  # noqa: PLC0415

    async def serve_client() -> None:
        from .doors.stdio.embedded import serve_stdio  # noqa: PLC0415
        from .ownership import find_server, is_owned  # noqa: PLC0415

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
            await serve_stdio(
                wire, lambda: find_server(settings), lambda: not is_owned(settings), lambda: _embedded(settings)
            )
            tasks.cancel_scope.cancel()

    with claim_stdio() as wire:
        anyio.run(serve_client)


@asynccontextmanager
async def _embedded(settings: Settings) -> AsyncIterator[MCPServer]:
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    from .doors.mcp.sdk_compat import quick_import  # noqa: PLC0415 - the SDK takes 0.4 s: not before it is needed
    from .logs import configure  # noqa: PLC0415
    from .ownership import own_state_dir  # noqa: PLC0415

    configure(settings)
    with quick_import():
        from .doors.mcp.server import create_mcp  # noqa: PLC0415
        from .services import open_services  # noqa: PLC0415

    with own_state_dir(settings) as owned:
        async with open_services(owned) as services, anyio.create_task_group() as tasks:
            if owned.share:
                tasks.start_soon(_share, services)
            yield create_mcp(services)
            tasks.cancel_scope.cancel()


async def _share(services: Services) -> None:
    """Open the door for this user's other clients, once the one on stdio has had its first answers."""
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    await anyio.sleep(0.5)
    from .doors.http.serve import share_http  # noqa: PLC0415 - see `_run_stdio`

    await share_http(services)


def _run_server(settings: Settings, *, sample: bool) -> None:
    import anyio  # noqa: PLC0415 - see `_run_stdio`

    from .commands.welcome import welcome  # noqa: PLC0415
    from .doors.http.security import refuse_unsafe  # noqa: PLC0415
    from .doors.mcp.sdk_compat import quick_import  # noqa: PLC0415
    from .logs import configure  # noqa: PLC0415
    from .ownership import own_state_dir  # noqa: PLC0415

    refuse_unsafe(settings)
    if sample:
        settings = _with_sample(settings)
    with quick_import():
        from .doors.http.serve import serve_http  # noqa: PLC0415
    with own_state_dir(settings) as owned:
        configure(owned)
        anyio.run(serve_http, owned, lambda url, token: click.echo(welcome(settings, url, token)))


def _with_sample(settings: Settings) -> Settings:
    from .commands.sample import copy_sample  # noqa: PLC0415 - only for `--sample`

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
