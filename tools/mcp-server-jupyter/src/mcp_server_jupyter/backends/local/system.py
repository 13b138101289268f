"""What local kernels take from the system: folders, ports, sockets, environment."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import Unavailable
from ...folders import runtime_folder
from ..shared.paths import below as below
from . import recorder

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
# What a server knows and code in a notebook must not: tokens of the server and of what started it.
_SECRETS = (
    "MCP_JUPYTER_TOKEN",
    "MCP_JUPYTER_JUPYTER_TOKEN",
    "JUPYTER_TOKEN",
    "ROOM_TOKEN",
    "RUNTIME_TOKEN",
    "JPY_API_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "CONFIGPROXY_AUTH_TOKEN",
)
# Describes the server's process; ipykernel captures no file descriptors where it finds it.
_SERVERS_OWN = ("PYTEST_CURRENT_TEST",)
# Of an editor that has started the server: libraries in a kernel would take it for theirs (plotly picks a renderer by
# VSCODE_PID), and a Node.js that a cell starts its options.
_EDITORS = ("VSCODE_", "ELECTRON_")
_EDITORS_OPTIONS = ("NODE_OPTIONS",)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment a kernel inherits: the one given, else the server's, without what is a server's or editor's."""
    base = os.environ if given is None else given
    left_out = _SECRETS + _SERVERS_OWN + _EDITORS_OPTIONS
    return {name: value for name, value in base.items() if name not in left_out and not name.startswith(_EDITORS)}


def connection(identity: str, epoch: int, name: str, *, ipc: bool) -> tuple[dict[str, Any], list[int]]:
    """A connection file's content for a new process, and the TCP ports in it.

    ipc has no ports to race for and lets no other user in; kernels in other languages may not speak it.
    """
    info: dict[str, Any] = {"signature_scheme": "hmac-sha256", "key": secrets.token_hex(32), "kernel_name": name}
    if ipc:
        info |= {"transport": "ipc", "ip": str(runtime_folder() / f"{identity[:8]}.{epoch}")}
        info |= {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        return info, []
    ports = free_ports(len(CHANNELS))
    info |= {"transport": "tcp", "ip": "127.0.0.1"}
    info |= {f"{channel}_port": port for channel, port in zip(CHANNELS, ports, strict=True)}
    return info, ports


@contextmanager
def disk(what: str) -> Iterator[None]:
    """Translate what the system says of files and descriptors.

    Raises:
        Unavailable: `what` and why.
    """
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{what}: {error.strerror}.", hint=f"See to {error.filename or 'the disk'}, then try again."
        ) from error


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody has now, all different."""
    with _held_ports(count) as ports:
        return ports


@contextmanager
def _held_ports(count: int) -> Iterator[list[int]]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def is_free(port: int) -> bool:
    """Whether a TCP port of 127.0.0.1 could be taken now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def clean(folder: Path, keep: Collection[str]) -> None:
    """Remove what an earlier epoch left in a kernel's folder, but for the files of these names."""
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()


def remove(folder: Path) -> None:
    """Remove a kernel's folder."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_sockets(folder: Path) -> None:
    """Remove the ipc sockets of a kernel that has ended."""
    try:
        info = json.loads((folder / recorder.CONNECTION).read_bytes())
    except (OSError, ValueError):
        return
    if info.get("transport") == "ipc":
        for number in range(1, len(CHANNELS) + 1):
            Path(f"{info['ip']}-{number}").unlink(missing_ok=True)
