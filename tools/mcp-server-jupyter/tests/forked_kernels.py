"""Kernels on this machine that are all forked, from the first on."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from local_kernels import printed, run
from mcp_server_jupyter.backends.local import LocalKernels
from mcp_server_jupyter.backends.local import kernel as local_kernel
from mcp_server_jupyter.backends.local.forking.client import ForkServer
from mcp_server_jupyter.backends.local.forking.forks import Line
from mcp_server_jupyter.backends.local.kernel import LocalKernel
from mcp_server_jupyter.backends.local.kernelspecs import find
from mcp_server_jupyter.backends.local.system import environment
from mcp_server_jupyter.settings import Settings


class ForkedKernels(LocalKernels):
    """Has a fork server of the kernelspec `python3` that is ready."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, fork_kernels=True))

    async def __aenter__(self) -> ForkedKernels:
        await super().__aenter__()
        try:
            await ready_line(self)
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self


def line_of(kernels: LocalKernels, env: Mapping[str, str] | None = None) -> Line:
    """Where kernels of `python3` come from."""
    recipe = find("python3", kernels.settings.root)
    given = recipe.environment(environment(env))
    line = kernels.forks.line(recipe, given) or kernels.forks.line(recipe, given)
    assert line is not None
    return line


async def ready_line(kernels: LocalKernels) -> Line:
    """The same, with a fork server that is ready."""
    line = line_of(kernels)
    with anyio.fail_after(60):
        await line.come_up()
    assert server_of(line).ready.result(), line.unfit
    return line


def server_of(line: Line) -> ForkServer:
    assert line.server is not None
    return line.server


def is_forked(kernel: local_kernel.LocalKernel) -> bool:
    """Whether a kernel has its fork server's program, and not one of its own."""
    return kernel._line is not None


def fork_servers() -> list[int]:
    """Those that this process has, be they zombies."""
    import psutil

    found = []
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE or any("forkserver.py" in each for each in child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def descriptors(pid: int) -> Sequence[str]:
    """What a process has open beyond its standard streams."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        if int(name) > 2:
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except FileNotFoundError:
                continue
    return found


async def told(kernel: LocalKernel, code: str) -> Any:
    """What a cell prints as JSON last."""
    messages = await run(kernel, textwrap.dedent(code))
    errors = [message.content["evalue"] for message in messages if message.msg_type == "error"]
    assert errors == []
    return json.loads(printed(messages).splitlines()[-1])


# What a kernel is, as a cell in it sees that.
SELF = """
import atexit, asyncio, gc, json, locale, logging, os, resource, signal, sys, threading, warnings
def _told():
    status = dict(line.rstrip().partition(":\\t")[::2] for line in open("/proc/self/status"))
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, sys.__stdin__)
    return {
        "argv": [sys.argv[0], *sys.argv[1:2], *sys.argv[3:]],
        "orig_argv": [*sys.orig_argv[:4], *sys.orig_argv[5:]],
        "flags": repr(sys.flags),
        "executable": sys.executable,
        "path": sys.path,
        "meta_path": [repr(type(each)) for each in sys.meta_path],
        "modules": sorted(sys.modules),
        "main": sorted(vars(sys.modules["__main__"])),
        "hooks": [repr(type(each)) for each in (sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile())],
        "streams": [[type(each).__name__, each.encoding, each.errors] for each in streams],
        "environ": {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"},
        "parent": os.environ["JPY_PARENT_PID"] == str(os.getppid()),
        "cwd": os.getcwd(),
        "leads": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
        "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
        "handlers": {str(n): repr(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()},
        "limits": [resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")],
        "status": {name: status[name] for name in ("Umask", "CapEff", "Cpus_allowed", "NoNewPrivs")},
        "nice": os.nice(0),
        "main thread": threading.main_thread().native_id == os.getpid(),
        "warnings": [repr(each) for each in warnings.filters],
        "locale": [locale.setlocale(category) for category in range(6)] + [locale.getpreferredencoding()],
        "loggers": sorted(logging.root.manager.loggerDict),
        "logging": [repr(logging.root.handlers), logging.root.level],
        "atexit": atexit._ncallbacks(),
        "limit of recursion": sys.getrecursionlimit(),
        "gc": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        "loop": [repr(type(asyncio.get_event_loop_policy())), repr(type(asyncio.get_running_loop()))],
    }
print(json.dumps(_told()))
"""
