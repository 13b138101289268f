"""Kernels that one server at a time leads, by the word of files in a folder: a backend for tests of that.

`holder` names who has them, while it is there; whoever writes `taken` takes them from the server that runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio

from mcp_server_jupyter.backends.local.kernels import LocalKernels
from mcp_server_jupyter.backends.memory.kernels import MemoryKernels
from mcp_server_jupyter.settings import Settings

FOLDER = "LED_KERNELS"


class _Led:
    async def lead(self, waiting: Callable[[str], None]) -> None:
        said = ""
        while holder := _read("holder"):
            if holder != said:
                said = holder
                waiting(f"held by {holder}")
            await anyio.sleep(0.02)

    async def superseded(self) -> str:
        while True:
            if holder := _read("taken"):
                return holder
            await anyio.sleep(0.02)


class LedKernels(_Led, MemoryKernels):
    """In memory."""


class LedLocalKernels(_Led, LocalKernels):
    """Real ones."""


def open_memory(settings: Settings) -> LedKernels:
    return LedKernels(settings)


def open_local(settings: Settings) -> LedLocalKernels:
    return LedLocalKernels(settings)


def installed(folder: Path) -> dict[str, str]:
    """The environment in which a server finds these backends, as `led` and `led-local`."""
    package = folder / "site" / "led_kernels-1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: led-kernels\nVersion: 1\n")
    points = "led = led_kernels:open_memory\nled-local = led_kernels:open_local\n"
    (package / "entry_points.txt").write_text(f"[mcp_server_jupyter.kernels]\n{points}")
    here = str(Path(__file__).parent)
    return {"PYTHONPATH": os.pathsep.join((here, str(package.parent))), FOLDER: str(folder)}


def _read(name: str) -> str:
    try:
        return (Path(os.environ[FOLDER]) / name).read_text()
    except FileNotFoundError:
        return ""
