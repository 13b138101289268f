"""`doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from .. import __version__
from ..errors import InvalidRequest, JupyterMcpError
from ..operations import Caller
from ..operations.bind import invoke
from ..ownership import LOG, ask_server, is_held
from ..ports import Finding, Interpreters, Kernelspec
from ..services import Services, open_services
from ..settings import Settings
from ..tokens import TOKEN
from .kernel_checks import check_interpreters, check_kernelspecs
from .states import without_root

_PACKAGES = ("mcp", "jupyter_client", "ipykernel", "nbformat", "pyzmq", "starlette", "uvicorn")
_INSTANCE = "doctor"
_CHECKS = "mcp_server_jupyter.checks"


def examine(settings: Settings, check: str | None = None) -> AsyncIterator[Finding]:
    """Look at everything a server needs, or at one thing more closely.

    Args:
        check: the name of an entry point of the group `mcp_server_jupyter.checks`.

    Raises:
        InvalidRequest: there is no such check.
    """
    if check is None:
        return _examine(settings)
    for point in importlib.metadata.entry_points(group=_CHECKS, name=check):
        findings: AsyncIterator[Finding] = point.load()(settings)
        return findings
    known = ", ".join(sorted(point.name for point in importlib.metadata.entry_points(group=_CHECKS)))
    raise InvalidRequest(f"There is no check {check!r}.", hint=f"Name one of these, or none: {known}.")


async def _examine(settings: Settings) -> AsyncIterator[Finding]:
    """The quick things first."""
    yield Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()} at {sys.executable}")
    yield _packages()
    yield _root(settings)
    yield _state_dir(settings)
    for finding in _left(settings):
        yield finding
    async for finding in _server(settings):
        yield finding
    async for finding in _kernels(settings):
        yield finding


def _packages() -> Finding:
    versions, missing = [f"mcp-server-jupyter {__version__}"], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"Install again: {', '.join(missing)} missing." if missing else ""
    return Finding(not missing, ", ".join(versions), advice)


def _root(settings: Settings) -> Finding:
    writable = os.access(settings.root, os.R_OK | os.W_OK)
    count = sum(1 for _ in settings.root.glob("*.ipynb"))
    advice = "" if writable else "Give a --root that you may write."
    return Finding(writable, f"Root {settings.root}: {count} notebook(s) at its top", advice)


def _state_dir(settings: Settings) -> Finding:
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(False, f"State directory {folder}: {error.strerror}", "Give another --state-dir.")
    token = folder / TOKEN
    if token.exists() and stat.S_IMODE(token.stat().st_mode) & 0o077:
        return Finding(False, f"{token} can be read by others", f"chmod 600 {token}")
    return Finding(True, f"State directory {folder} can be written")


def _left(settings: Settings) -> Iterator[Finding]:
    """States that nothing will use again are worth a word, not a failure."""
    for folder, root in without_root(settings):
        yield Finding(True, f"Left by {root}, which is gone: {folder}", f"rm -r {folder}")


async def _server(settings: Settings) -> AsyncIterator[Finding]:
    try:
        answer: Any = await anyio.to_thread.run_sync(ask_server, settings, "record")
    except (JupyterMcpError, OSError) as error:
        yield Finding(False, f"The root's server: {error}", f"See {settings.root_state / LOG}, or end its process.")
        return
    if answer is not None:
        record = answer["record"]
        where = f" at {record['url']}" if record["url"] else ""
        yield Finding(
            True, f"Server {record['version']} answers{where}, process {record['pid']}, root {record['root']}"
        )
        return
    if is_held(settings.root_state):
        yield Finding(False, "Another process holds the root and answers nobody", f"See {settings.root_state / LOG}.")
        return
    taken = _port_taken(settings)
    text = f"Port {settings.port} on {settings.host} is {'taken by another program' if taken else 'free'}"
    yield Finding(not taken, text, "Serve on another --port; --port 0 takes a free one." if taken else "")


def _port_taken(settings: Settings) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            return True
    return False


async def _kernels(settings: Settings) -> AsyncIterator[Finding]:
    """Start the default kernel apart from every server's, and let it add."""
    advice = "Set TMPDIR to a folder that you may write."
    try:
        folder = tempfile.mkdtemp(prefix="doctor-")
    except OSError as error:
        yield Finding(False, f"Temporary files: {error.strerror or error}", advice)
        return
    # In a cluster, an installation of its own: the server's kernels have a server.
    apart = dataclasses.replace(settings, state_dir=Path(folder), keep_kernels=False, notebook=None, instance=_INSTANCE)
    findings: list[Finding] = []
    try:
        async with open_services(apart) as services:
            findings += [await _specs(services), await _sum(services), *await check_interpreters(services)]
            findings += await check_kernelspecs(services.kernels, await _others(services))
    except* JupyterMcpError as errors:
        by_hand = f"Start it by hand to see why: {sys.executable} -m ipykernel_launcher"
        findings += [Finding(False, str(error), by_hand) for error in errors.exceptions]
    except* OSError as errors:
        findings += [Finding(False, f"Files of kernels: {error}", advice) for error in errors.exceptions]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for finding in findings:
        yield finding


async def _specs(services: Services) -> Finding:
    specs = await services.kernels.specs()
    names = ", ".join(f"{spec.name} ({spec.language})" for spec in specs)
    return Finding(bool(specs), f"Kernelspecs: {names or 'none'}", "" if specs else "pip install ipykernel")


async def _others(services: Services) -> list[Kernelspec]:
    """Kernelspecs of this machine besides the one that adds: of environments, no program is run."""
    settings, specs = services.settings, await services.kernels.specs()
    added = settings.python or settings.kernel_name
    told = await services.kernels.flaws() if isinstance(services.kernels, Interpreters) else {}
    return [spec for spec in specs if spec.source == "jupyter" and spec.argv and spec.name not in {added, *told}]


async def _sum(services: Services) -> Finding:
    name = services.settings.kernel_name
    started = time.perf_counter()
    session = await services.sessions.start(None).wait()
    ready = time.perf_counter()
    arguments = {"code": "print(1 + 1)", "kernel_id": session.id}
    answer = await invoke(services, "execute_code", arguments, caller=Caller("doctor"))
    done = time.perf_counter()
    if answer.data.get("status") != "ok" or "2" not in answer.text.split():
        return Finding(False, f"Kernel {name} cannot add: {answer.text}")
    return Finding(True, f"Kernel {name} starts in {ready - started:.2f} s and adds in {(done - ready) * 1e3:.0f} ms")
