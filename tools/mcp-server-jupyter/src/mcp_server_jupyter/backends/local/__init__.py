"""Kernels on this machine: the default `Kernels`."""

from .kernels import LocalKernels, open_kernels

__all__ = ["LocalKernels", "open_kernels"]
