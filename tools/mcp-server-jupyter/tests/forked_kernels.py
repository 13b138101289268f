"""Kernels on this machine that are all forked, from the first on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from mcp_server_jupyter.backends.local import LocalKernels
from mcp_server_jupyter.backends.local import kernel as local_kernel
from mcp_server_jupyter.backends.local.forking.client import ForkServer
from mcp_server_jupyter.backends.local.forking.forks import Line
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
