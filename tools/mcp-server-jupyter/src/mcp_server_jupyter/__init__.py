"""One server that gives AI agents and people the same notebooks and the same live kernels."""

__version__ = "0.1.0"
