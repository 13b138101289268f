"""`mcpb.py DIST`: put the wheel in DIST into a bundle for Claude Desktop (MCPB, manifest version 0.3).

The bundle holds the wheel and no package of others: compiled ones differ from machine to machine, so uv fetches those
that this machine needs at the first start. The same wheel gives the same bytes.
"""

from __future__ import annotations

import json
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
REPOSITORY = PROJECT.parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)


def main(dist: Path) -> Path:
    """The bundle that was written.

    Raises:
        SystemExit: DIST does not hold this version's wheel.
    """
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    wheel = dist / f"mcp_server_jupyter-{version}-py3-none-any.whl"
    if not wheel.exists():
        sys.exit(f"There is no {wheel}: make package writes it.")
    bundle = dist / f"mcp-server-jupyter-{version}.mcpb"
    contents = {
        "manifest.json": json.dumps(manifest(wheel), indent=2).encode() + b"\n",
        wheel.name: wheel.read_bytes(),
        "README.md": (PROJECT / "README.md").read_bytes(),
        "LICENSE": (REPOSITORY / "LICENSE").read_bytes(),
    }
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return bundle


def manifest(wheel: Path) -> dict[str, Any]:
    """What Claude Desktop reads: how the server is started, and what it asks its user for."""
    start = ["tool", "run", "--python", ">=3.11", "--from", f"${{__dirname}}/{wheel.name}", "mcp-server-jupyter"]
    return {
        "manifest_version": "0.3",
        "name": "mcp-server-jupyter",
        "display_name": "Jupyter",
        "version": _version(wheel),
        "description": "Notebooks and live kernels for AI agents and people.",
        "author": {"name": "The mcp-server-jupyter authors"},
        "license": "BSD-3-Clause",
        "keywords": ["jupyter", "notebook", "python", "kernel"],
        "server": {
            "type": "python",
            "entry_point": wheel.name,
            "mcp_config": {"command": "uv", "args": [*start, "--root", "${user_config.root}"], "env": {}},
        },
        "user_config": {
            "root": {
                "type": "directory",
                "title": "Folder of the notebooks",
                "description": "Nothing outside it is read or written.",
                "required": True,
                "default": "${HOME}/Documents",
            }
        },
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": ">=3.11"}},
    }


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
