"""What the extra `jupyter` installs, and the error that says so where it is absent."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import Unavailable

COMMAND = 'pip install "mcp-server-jupyter[jupyter]"'
_MODULES = ("httpx2", "pycrdt", "websockets")


def require_extra() -> None:
    """Look for the packages without importing them.

    Raises:
        Unavailable: one is missing; the hint is the command that installs it.
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"Work in a Jupyter server needs Python packages that are not installed ({', '.join(missing)}).",
            hint=f"Run: {COMMAND}",
        )
