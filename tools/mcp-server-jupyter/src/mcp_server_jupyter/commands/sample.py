"""The sample notebooks of `serve --sample`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

WELCOME = "welcome.ipynb"


def copy_sample(root: Path) -> str | None:
    """Copy the shipped notebooks and data into a root without notebooks; nothing is ever overwritten.

    Returns:
        The path of the welcome notebook relative to the root, None when the root has notebooks of its own.
    """
    notebooks = {path.name for path in root.glob("*.ipynb")}
    if notebooks:
        return WELCOME if WELCOME in notebooks else None
    for source in files("mcp_server_jupyter").joinpath("sample").iterdir():
        target = root / source.name
        if source.is_file() and not source.name.startswith("_") and not target.exists():
            target.write_bytes(source.read_bytes())
    return WELCOME
