"""What the commands start and talk to. Nothing is imported before the command that needs it: see `--help`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import JupyterMcpError, Unavailable
from ..settings import Settings

if TYPE_CHECKING:
    import socket

    from ..ownership import Held

_START_SECONDS = 20.0
_CALL_SECONDS = 60.0
_END_SECONDS = 30.0


# --------------------------------------------------------------------------- the server of a root


def run_stdio(settings: Settings, asked: Mapping[str, Any]) -> None:
    """Relay the client to its root's server; where that cannot be, serve it here."""
    from ..doors.stdio.relay import Relay  # noqa: PLC0415
    from ..ownership import SocketsForbidden  # noqa: PLC0415

    if settings.embedded and _run_embedded(settings):
        return
    try:
        sys.exit(Relay(settings, serve_detached, asked).run())
    except SocketsForbidden as error:
        click.echo(f"Warning: {error.message} Serving this client alone, as with --embedded.", err=True)
    if not _run_embedded(settings):
        raise Unavailable(
            f"Another process serves {settings.root}, and this system lets us open no socket to it.",
            hint="End that one, or give another --root.",
        )


def _run_embedded(settings: Settings) -> bool:
    """Serve one client in this process, which is the root's server meanwhile; False when there is one already."""
    from ..doors.stdio.wire import claim_stdio  # noqa: PLC0415
    from ..ownership import hold  # noqa: PLC0415

    held = hold(settings)
    if held is None:
        return False
    try:
        with claim_stdio() as wire:
            _serve("serve_embedded", settings, held, _listener(held), wire)
    finally:
        held.retract()
        held.close()
    return True


def run_server(settings: Settings, *, sample: bool) -> None:
    """Serve the root in the foreground."""
    import anyio  # noqa: PLC0415

    from ..commands.sample import copy_sample  # noqa: PLC0415
    from ..commands.welcome import welcome  # noqa: PLC0415
    from ..doors.http.security import refuse_unsafe  # noqa: PLC0415
    from ..ownership import ask_server, make_private, wait_until_free  # noqa: PLC0415

    refuse_unsafe(settings)
    if sample and (shipped := copy_sample(settings.root)):
        settings = dataclasses.replace(settings, notebook=settings.notebook or shipped)
    make_private(settings.root_state)
    # Before another server ends: its clients wait a little for the next, and then start one.
    serving = _loaded(settings)
    serving.load_http()
    # A server that nobody started by hand gives way, and leaves its kernels to us.
    if (ask_server(settings, "hand over") or {}).get("ok"):
        wait_until_free(settings, _END_SECONDS)

    def say(url: str, token: str | None) -> None:
        click.echo(welcome(settings, url, token))

    anyio.run(serving.serve_foreground, settings, _listener, say)


def run_gateway(settings: Settings) -> None:
    """Serve the gateway in the foreground: one for each state folder."""
    import anyio  # noqa: PLC0415

    from ..commands.welcome import gateway_welcome  # noqa: PLC0415
    from ..doors.gateway.serve import gateway_settings, serve_gateway  # noqa: PLC0415
    from ..doors.http.security import refuse_unsafe  # noqa: PLC0415
    from ..ownership import make_private, owned  # noqa: PLC0415

    refuse_unsafe(settings)
    settings = gateway_settings(settings)
    make_private(settings.root_state)
    _configure_logs(settings)
    with owned(settings):
        anyio.run(serve_gateway, settings, lambda url, token: click.echo(gateway_welcome(settings, url, token)))


def run_hub(settings: Settings) -> None:
    """Serve a JupyterHub in the foreground: one service for each state folder."""
    import anyio  # noqa: PLC0415

    from ..commands.welcome import hub_welcome  # noqa: PLC0415
    from ..doors.hub.serve import serve_hub, service_settings  # noqa: PLC0415
    from ..ownership import make_private, owned  # noqa: PLC0415

    settings = service_settings(settings)
    make_private(settings.root_state)
    _configure_logs(settings)
    with owned(settings):
        anyio.run(serve_hub, settings, lambda url, token: click.echo(hub_welcome(settings, url, token)))


def serve_detached(settings: Settings, held: Held, listener: socket.socket) -> None:
    """The root's server, in a process of its own: until nobody needs it."""
    _serve("serve_detached", settings, held, listener)


def serve_if_free(settings: Settings) -> None:
    """The same in a process that was started for it; ends at once when the root has a server."""
    from ..ownership import hold  # noqa: PLC0415

    held = hold(settings)
    if held is not None:
        serve_detached(settings, held, held.listen())


def _serve(shape: str, settings: Settings, *arguments: Any) -> None:
    """Load what a server needs, and be one until it ends."""
    import anyio  # noqa: PLC0415

    anyio.run(getattr(_loaded(settings), shape), settings, *arguments)


def _loaded(settings: Settings) -> Any:
    """The module of everything that a server needs; its import is most of a start."""
    from ..doors.mcp.sdk_compat import quick_import  # noqa: PLC0415

    _configure_logs(settings)
    with quick_import():
        from ..doors import serving  # noqa: PLC0415
    return serving


def _listener(held: Held) -> socket.socket | None:
    try:
        return held.listen()
    except OSError as error:
        click.echo(f"Warning: no client can attach here: {error}.", err=True)
        return None


# --------------------------------------------------------------------------- questions to it


def record_of(settings: Settings, asked: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The record of the root's server, which is started if need be, with its HTTP door open; does it keep its port?"""
    from ..doors.stdio.detach import log_tail  # noqa: PLC0415
    from ..doors.stdio.reach import reach  # noqa: PLC0415
    from ..ownership import ask_server  # noqa: PLC0415

    reach(settings, serve_detached, asked)[0].close()
    answer: Any = ask_server(settings, "record", _START_SECONDS, http=True)
    if answer is None:
        raise Unavailable(f"The server of {settings.root} did not start.", hint=log_tail(settings.root_state))
    return dict(answer["record"]), bool(answer.get("keeps_port"))


def end_left_kernels(settings: Settings) -> int:
    """End the kernels that the root's last server left, when none runs; how many there were.

    Raises:
        Unavailable: a server has just begun to serve the root.
    """
    from ..commands.states import kernel_records  # noqa: PLC0415

    if settings.keep_kernels or not kernel_records(settings.root_state):
        return 0
    # Closing the services ends what they have adopted, and writes down what became of the cells that ran.
    settings = dataclasses.replace(settings, keep_kernels=False, log_level="error", notebook=None)
    return int(_in_services(settings, _count_kernels))


def end_server(settings: Settings) -> bool:
    """End the root's server and its kernels; False when there is none.

    Raises:
        Unavailable: it does not end.
    """
    from ..ownership import LOG, ask_server, is_held, wait_until_gone  # noqa: PLC0415

    ended = ask_server(settings, "down")
    if ended is None and not is_held(settings.root_state):
        return False
    if ended is None or not wait_until_gone(settings, ended["pid"], _END_SECONDS):
        raise Unavailable(
            f"The server of {settings.root} does not end.", hint=f"Its log is {settings.root_state / LOG}."
        )
    return True


def call(settings: Settings, operation: str, arguments: Mapping[str, Any]) -> str:
    """One operation, by the root's server or else on the kernels that the last one left."""
    from ..ownership import ask_server, is_held  # noqa: PLC0415

    answer: Any = ask_server(settings, "call", _CALL_SECONDS, operation=operation, arguments=dict(arguments))
    if answer is None and is_held(settings.root_state):
        raise Unavailable(
            f"Another process holds {settings.root} and answers nobody.",
            hint="It may be starting or ending: try again, or look with `mcp-server-jupyter doctor`.",
        )
    if answer is None:
        settings = dataclasses.replace(settings, keep_kernels=True, log_level="error", notebook=None)
        return str(_in_services(settings, _invoke, operation, arguments))
    if "text" not in answer:
        raise JupyterMcpError(answer["message"], hint=answer["hint"])
    return str(answer["text"])


# --------------------------------------------------------------------------- without one


def run_notebook(settings: Settings, source: Path, output: Path | None, parameters: tuple[str, ...]) -> bool:
    """Execute a notebook beside whatever server there is; whether all went well."""
    from ..commands.run import private_state  # noqa: PLC0415

    with private_state(settings) as apart:
        return bool(_in_services(apart, _run_notebook, source, output, parameters))


def run_sets(
    settings: Settings, source: Path, sets: Path, folder: Path, parameters: tuple[str, ...], *, has_limit: bool
) -> bool:
    """Execute a notebook once for each set of parameters in a file; whether all went well."""
    from ..commands.run import batch_settings, parse_parameters, prepare_sets, private_state  # noqa: PLC0415
    from ..runs.fan_out import output_folder  # noqa: PLC0415

    found = prepare_sets(settings.root, source, sets, folder, parse_parameters(parameters))
    with output_folder(folder), private_state(batch_settings(settings, has_limit=has_limit)) as apart:
        return bool(_in_services(apart, _run_sets, source, found, folder))


def examine(settings: Settings, check: str | None) -> bool:
    """Print what `doctor` finds; whether all is fine."""
    import anyio  # noqa: PLC0415

    from ..commands import doctor  # noqa: PLC0415

    async def report() -> bool:
        fine = True
        async for finding in doctor.examine(settings, check):
            click.echo(str(finding))
            fine = fine and finding.fine
        return fine

    _configure_logs(settings)
    return anyio.run(report)


def _in_services(settings: Settings, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work(services, *arguments)` with services of its own."""
    import anyio  # noqa: PLC0415

    from ..ownership import owned  # noqa: PLC0415
    from ..services import open_services  # noqa: PLC0415

    async def with_services() -> Any:
        async with open_services(settings) as services:
            return await work(services, *arguments)

    _configure_logs(settings)
    with owned(settings):
        return anyio.run(with_services)


async def _run_notebook(services: Any, notebook: Path, output: Path | None, parameters: tuple[str, ...]) -> bool:
    from ..commands.run import parse_parameters, prepare, run_notebook  # noqa: PLC0415

    root = services.settings.root
    values = parse_parameters(parameters)
    path = prepare(root, notebook, output)
    return await run_notebook(services, path, notebook.relative_to(root).as_posix(), values, click.echo)


async def _run_sets(services: Any, source: Path, sets: Any, folder: Path) -> bool:
    from ..commands.run import run_sets  # noqa: PLC0415

    return await run_sets(services, source.relative_to(services.settings.root).as_posix(), sets, folder, click.echo)


async def _count_kernels(services: Any) -> int:
    return sum(session.death is None for session in services.sessions.all())


async def _invoke(services: Any, operation: str, arguments: Mapping[str, Any]) -> str:
    from ..operations import Caller  # noqa: PLC0415
    from ..operations.bind import invoke  # noqa: PLC0415

    return (await invoke(services, operation, arguments, caller=Caller("user"))).text


def _configure_logs(settings: Settings) -> None:
    from ..logs import configure  # noqa: PLC0415

    configure(settings)
