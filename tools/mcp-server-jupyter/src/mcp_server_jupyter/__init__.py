"""One server that gives AI agents and people the same notebooks and the same live kernels."""

from typing import Any

__version__ = "0.1.0"


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext mcp_server_jupyter` calls (IPython's docs, "Writing IPython extensions")."""
    from .magics.shell import McpMagics  # noqa: PLC0415 - in a kernel, and only when it is asked for

    shell.register_magics(McpMagics)


def glue(name: str, value: Any) -> None:
    """Give a value back from a notebook that the gateway runs, under a name: as scrapbook's `glue` does.

    Args:
        value: a pandas DataFrame, a text, or what JSON has a form for.

    Raises:
        TypeError: it is none of these.
    """
    from .gluing import show  # noqa: PLC0415 - a notebook that imports this is to import nothing else

    show(name, value)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """What Jupyter Server asks a package that it has been told to load (its docs, "Server extensions")."""
    # By its name, as an entry point would be: what lies below the doors imports this package, and no door.
    from pkgutil import resolve_name  # noqa: PLC0415 - only inside a Jupyter server

    app = resolve_name(f"{__name__}.doors.server_extension.extension:McpExtension")
    return [{"module": __name__, "app": app}]
