"""The sample notebooks of `serve --sample`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

WELCOME = "welcome.ipynb"
DEMONSTRATION = "analysis-demo.ipynb"
"""What `scripts/demo.py` writes."""


def copy_sample(root: Path) -> str | None:
    """Copy the shipped notebooks and data that a root does not have yet; nothing is ever overwritten.

    A folder with notebooks of its owner's is left alone: what the sample or its demonstration left is not theirs.

    Returns:
        The path of the welcome notebook relative to the root, None when the root has none.
    """
    shipped = {source.name: source for source in files("mcp_server_jupyter").joinpath("sample").iterdir()}
    notebooks = {path.name for path in root.glob("*.ipynb")}
    if notebooks <= {DEMONSTRATION, *shipped}:
        for name, source in shipped.items():
            if source.is_file() and not name.startswith("_") and not (root / name).exists():
                (root / name).write_bytes(source.read_bytes())
    return WELCOME if (root / WELCOME).exists() else None
