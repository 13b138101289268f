"""Everything in memory: test double, and the reference of what a backend must do."""

from __future__ import annotations

from ...settings import Settings
from .contents import MemoryContents
from .kernels import MemoryKernels


def open_contents(settings: Settings) -> MemoryContents:
    """The backend `memory`: notebooks that end with the process."""
    return MemoryContents(settings)


def open_kernels(settings: Settings) -> MemoryKernels:
    """The backend `memory`: kernels inside this process."""
    return MemoryKernels(settings)
