"""mcp-server-jupyter under the import names of another project's guide. Nothing is done here."""

from typing import Any

from mcp_server_jupyter import __version__, load_ipython_extension

__all__ = ["__version__", "load_ipython_extension"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """What Jupyter Server asks a package that it has been told to load (its docs, "Server extensions")."""
    from .extension import TKAIExtension  # noqa: PLC0415 - only inside a Jupyter server

    return [{"module": __name__, "app": TKAIExtension}]
