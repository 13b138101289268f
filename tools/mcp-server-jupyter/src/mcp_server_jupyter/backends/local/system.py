"""What local kernels take from the system: folders, ports, sockets, environment."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import NotFound, OutsideRoot, Unavailable
from . import recorder

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
# What a server knows and code in a notebook must not: tokens of the server and of what started it.
_SECRETS = ("MCP_JUPYTER_TOKEN", "JUPYTER_TOKEN", "JPY_API_TOKEN", "JUPYTERHUB_API_TOKEN", "CONFIGPROXY_AUTH_TOKEN")
# Describes the server's process; ipykernel captures no file descriptors where it finds it.
_SERVERS_OWN = ("PYTEST_CURRENT_TEST",)
# Socket names hold the runtime folder, a prefix and a number; sun_path takes 107 bytes (unix(7)).
_LONGEST_FOLDER = 80


def below(root: Path, cwd: str) -> str:
    """A folder below the root, given relative to it, in its canonical spelling; "" is the root itself."""
    folder = (root / cwd).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise OutsideRoot(f"The folder {cwd!r} is outside the root.", hint="Give a folder relative to the root.")
    if not folder.is_dir():
        raise NotFound(f"There is no folder {cwd!r}.", hint="Give an existing folder relative to the root.")
    relative = folder.relative_to(root.resolve()).as_posix()
    return "" if relative == "." else relative


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment a kernel inherits: the one given, else the server's, without what is only the server's."""
    base = os.environ if given is None else given
    return {name: value for name, value in base.items() if name not in _SECRETS + _SERVERS_OWN}


def fast_request() -> dict[str, Any]:
    """The silent request that makes a kernel a fast one; see `fast_kernel`."""
    source = Path(recorder.__file__).with_name("fast_kernel.py").read_text(encoding="utf-8")
    code = f"exec(compile({source!r}, 'mcp-server-jupyter', 'exec'), {{'__name__': 'fast_kernel'}})"
    return {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "user_expressions": {}}


def runtime_folder() -> Path:
    """A folder for sockets that is ours alone and has a short name."""
    wanted = os.environ.get("XDG_RUNTIME_DIR")
    for base in (wanted, tempfile.gettempdir(), "/tmp"):
        if not base or not os.path.isdir(base):
            continue
        folder = Path(base) / f"mcpj-{os.getuid()}"
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    raise Unavailable("There is no private folder for sockets.", hint="Set XDG_RUNTIME_DIR to a folder of your own.")


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


def clean(folder: Path) -> None:
    """Remove what an earlier epoch left in a kernel's folder."""
    for path in folder.iterdir():
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
