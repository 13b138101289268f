"""The commands. Each reads the settings, opens what it needs and hands over to a door."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import JupyterMcpError
from ..settings import given_names
from . import servers
from .options import (
    GroupedGroup,
    GroupedOptions,
    asked,
    given,
    load_settings,
    merged_options,
    with_settings,
)

CLIENTS = ("vscode", "claude", "claude-desktop", "codex", "cursor", "windsurf", "zed", "generic")
_PORT_CHANGES = (
    "Warning: this server takes any free port, another one when it is started again. `mcp-server-jupyter serve --port "
    "PORT` in the foreground keeps its port: run it and then this again, or leave --http out."
)


@click.group(cls=GroupedGroup, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="mcp-server-jupyter")
@with_settings()
@click.pass_context
def commands(context: click.Context, /, **options: Any) -> None:
    """Notebooks and live kernels for AI agents and people.

    Without a command: MCP on standard input and output, from the server of the root, which is started if need be and
    which all clients of the root share.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(context, options, make_root=True)
    if settings.transport == "streamable-http":
        servers.run_server(settings, sample=False)
    else:
        servers.run_stdio(settings, asked(settings, options))


@commands.command(cls=GroupedOptions)
@click.option("--sample", is_flag=True, help="Copy the sample notebooks into the root if it has none of its own.")
@with_settings()
@click.pass_context
def serve(context: click.Context, /, *, sample: bool, **options: Any) -> None:
    """Serve streamable HTTP, REST, health and metrics."""
    servers.run_server(load_settings(context, options, make_root=True), sample=sample)


@commands.command(cls=GroupedOptions)
@with_settings()
@click.pass_context
def up(context: click.Context, /, **options: Any) -> None:
    """Start the root's server, if none runs, and print where it is, as JSON."""
    import json  # noqa: PLC0415 - `--help` loads nothing it does not need

    settings = load_settings(context, options, make_root=True)
    record, _ = servers.record_of(settings, asked(settings, merged_options(context, options)))
    click.echo(json.dumps(record, indent=2))


@commands.command(cls=GroupedOptions)
@with_settings("Root", "Server")
@click.pass_context
def down(context: click.Context, /, **options: Any) -> None:
    """End the root's server and its kernels, or those that it left running; what is written stays."""
    settings = load_settings(context, options)
    if servers.end_server(settings):
        click.echo(f"The server of {settings.root} has ended.")
        return
    click.echo(f"No server of {settings.root} runs.")
    if left := servers.end_left_kernels(settings):
        click.echo(f"Ended {left} kernel{'s' if left > 1 else ''} that the last one left.")


@commands.command(cls=GroupedOptions)
@click.argument("source", metavar="NOTEBOOK", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter; may be given again.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Execute a copy at this path.")
@click.option(
    "--each",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Execute it once for each line of this file, a JSON object of parameters, into --output-dir.",
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the outputs of --each and their summary.jsonl. Given again, what is done there is not repeated.",
)
@click.option("--workers", type=click.IntRange(0), help="Of --each: notebooks that run at once; 0, the CPUs.")
@click.option("--execution-timeout", type=click.FloatRange(0, min_open=True), help="Of --each: seconds for one set.")
@with_settings("Root", "Backends", "Kernels", "Server")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    source: Path,
    parameters: tuple[str, ...],
    output: Path | None,
    each: Path | None,
    output_dir: Path | None,
    **options: Any,
) -> None:
    """Execute NOTEBOOK and write its outputs; exit code 1 when a cell fails."""
    if (each is None) != (output_dir is None) or (each and output):
        raise click.UsageError("--each and --output-dir go together, without --output.")
    source = source.resolve()
    if not (options["root"] or context.find_root().params.get("root") or source.is_relative_to(Path.cwd())):
        options["root"] = str(source.parent)
    # The first kernel is spawned in any case: a fork server would come too late for the only one.
    own = {"log_level": "warning"} if each is not None else {"log_level": "warning", "fork_kernels": False}
    settings = load_settings(context, {**own, **given(options)})
    if each is not None and output_dir is not None:
        has_limit = "execution_timeout" in given_names(options)
        try:
            fine = servers.run_sets(settings, source, each, output_dir.resolve(), parameters, has_limit=has_limit)
        except KeyboardInterrupt:
            click.echo("Interrupted. The same command goes on with the sets that are not done.", err=True)
            sys.exit(130)
        sys.exit(0 if fine else 1)
    fine = servers.run_notebook(settings, source, output and output.resolve(), parameters)
    sys.exit(0 if fine else 1)


@commands.command(cls=GroupedOptions)
@with_settings("Gateway", "Backends", "Kernels", "HTTP", "Server", "Kubernetes")
@click.pass_context
def gateway(context: click.Context, /, **options: Any) -> None:
    """Serve notebooks as an API: POST one to /run and get its results; see docs/gateway.md."""
    servers.run_gateway(load_settings(context, options))


@commands.command(cls=GroupedOptions)
@with_settings("Hub", "HTTP", "Server", "Answers")
@click.pass_context
def hub(context: click.Context, /, **options: Any) -> None:
    """Serve a JupyterHub's users: MCP for each one's own server; see docs/jupyterhub.md."""
    servers.run_hub(load_settings(context, options))


@commands.command(cls=GroupedOptions)
@click.argument("check", required=False)
@with_settings()
@click.pass_context
def doctor(context: click.Context, /, *, check: str | None, **options: Any) -> None:
    """Say what works here, what does not, and what to do about it; exit code 1 when something does not.

    CHECK looks at one thing more closely: `doctor kubernetes` at the cluster that kernels are to run in, `doctor forks`
    at which kernels are forked and what they may have preloaded.
    """
    settings = load_settings(context, {"log_level": "error", **given(options)})
    sys.exit(0 if servers.examine(settings, check) else 1)


@commands.group(cls=GroupedGroup, invoke_without_command=True)
@click.option("--all", "every", is_flag=True, help="Those of every root.")
@with_settings("Root", "Server")
@click.pass_context
def kernels(context: click.Context, /, *, every: bool, **options: Any) -> None:
    """List the kernels of the root's server, or those that it left running."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(context, options)
    if not every:
        click.echo(servers.call(settings, "list_kernels", {}))
        return
    from ..commands.states import kernels_of_all  # noqa: PLC0415 - `--help` loads nothing it does not need

    for text in kernels_of_all(settings, lambda one: servers.call(one, "list_kernels", {})):
        click.echo(text)


@kernels.command()
@click.argument("kernel_id")
@click.pass_context
def stop(context: click.Context, /, *, kernel_id: str) -> None:
    """Shut down the kernel KERNEL_ID (the beginning of an id will do)."""
    click.echo(servers.call(load_settings(context, {}), "shutdown_kernel", {"kernel_id": kernel_id}))


@kernels.command(cls=GroupedOptions)
@click.argument("profile")
@click.option("--name", help="Of the kernelspec; absent, pod-PROFILE.")
@click.option("--sys-prefix", is_flag=True, help="For this Python environment alone, not for the user.")
@with_settings("Kubernetes")
@click.pass_context
def install(context: click.Context, /, *, profile: str, name: str | None, sys_prefix: bool, **options: Any) -> None:
    """Write a kernelspec that starts the kernel profile PROFILE in a pod, for any Jupyter application."""
    from ..commands.kernelspecs import install_kernelspec  # noqa: PLC0415 - `--help` loads nothing it does not need

    click.echo(
        install_kernelspec(load_settings(context, options), profile, name or f"pod-{profile}", sys_prefix=sys_prefix)
    )


@commands.command(cls=GroupedOptions)
@click.argument("client", type=click.Choice(CLIENTS))
@click.option("--http", is_flag=True, help="For the root's server, with a token for /mcp alone, instead of stdio.")
@click.option("--docker", is_flag=True, help="For a server in a container, beside a Jupyter on this machine.")
@click.option(
    "--jupyter",
    is_flag=True,
    help="For the extension in a Jupyter server: --jupyter-url, or the one of a hub this is run in.",
)
@click.option("--command", metavar="PROGRAM", help="What starts the server, instead of this interpreter.")
@with_settings()
@click.pass_context
def config(
    context: click.Context,
    /,
    *,
    client: str,
    http: bool,
    docker: bool,
    jupyter: bool,
    command: str | None,
    **options: Any,
) -> None:
    """Print the configuration that CLIENT takes, ready to paste; where it goes is said on standard error."""
    from ..commands import config  # noqa: PLC0415

    if (docker or jupyter) and (http or command or (docker and jupyter)):
        raise click.UsageError("--docker and --jupyter go alone, without --http and --command.")
    settings = load_settings(context, options)
    keeps_port = True
    if docker:
        entry = config.docker_config(client, settings)
    elif jupyter:
        entry = config.jupyter_config(client, settings)
    elif http:
        record, keeps_port = servers.record_of(settings, asked(settings, merged_options(context, options)))
        entry = config.http_config(client, record["url"], record["token"])
    else:
        entry = config.stdio_config(client, settings, command)
    click.echo(f"For {config.CLIENTS[client]}:", err=True)
    if not keeps_port:
        click.echo(_PORT_CHANGES, err=True)
    if line := config.as_command(client, entry):
        click.echo(f"(or run: {line})", err=True)
    click.echo(config.as_text(client, entry))


# --------------------------------------------------------------------------- the entry point


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
