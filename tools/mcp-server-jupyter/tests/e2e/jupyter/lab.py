"""Jupyters of several kinds, and what other programs do to their files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from a_jupyter import TOKEN, Jupyter
from execution.desk import settings_of
from mcp_server_jupyter.settings import Settings

PATIENCE = 90.0
PACKAGE = Path(__file__).parents[3]
SCRIPT = PACKAGE / "scripts" / "jupyters.py"


def python_of(kind: str) -> str:
    """The Python that has a Jupyter of this kind."""
    made = subprocess.run([sys.executable, SCRIPT, kind], check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


def started(kind: str, folder: Path, *options: str) -> Jupyter:
    # A room is gone with the last who was in it: the next test's notebook of the same path is another one.
    always = ("--ContentsManager.allow_hidden=True", "--YDocExtension.document_cleanup_delay=0")
    return Jupyter(folder, *always, *options, python=python_of(kind), extensions=True).start()


def emptied(server: Jupyter) -> None:
    for each in server.root.iterdir():
        # Its own store of documents is in use.
        if not each.name.startswith("."):
            shutil.rmtree(each) if each.is_dir() else each.unlink()


def settings_for(jupyter: Jupyter, folder: Path, **more: Any) -> Settings:
    return settings_of(folder, kernels="jupyter", jupyter_url=jupyter.url, jupyter_token=TOKEN, **more)


def code_cell(cell_id: str, source: str, **more: Any) -> dict[str, Any]:
    cell = {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    return {**cell, **more}


def write(jupyter: Jupyter, *cells: dict[str, Any], name: str = "a.ipynb", kernel: str = "") -> None:
    """As a program does that knows no rooms: a new file in the place of the old one."""
    metadata = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}} if kernel else {}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": list(cells)}
    draft = jupyter.root / f"{name}.draft"
    draft.write_text(json.dumps(notebook))
    os.replace(draft, jupyter.root / name)


def on_disk(jupyter: Jupyter, name: str = "a.ipynb") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((jupyter.root / name).read_text())
    return found


def sources(jupyter: Jupyter, name: str = "a.ipynb") -> list[str]:
    return ["".join(cell["source"]) for cell in on_disk(jupyter, name)["cells"]]


async def until(true: Callable[[], Awaitable[bool]], now: Callable[[], Awaitable[Any]] | None = None) -> None:
    """Wait for what another program does, which cannot be waited for; `now` says how it is, where it does not come."""
    with anyio.move_on_after(PATIENCE):
        while not await true():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return
    raise AssertionError(f"not within {PATIENCE} s; it is {None if now is None else await now()!r}")


async def is_on_disk(jupyter: Jupyter, *wanted: str) -> None:
    """Wait until the file of a.ipynb has cells of these sources."""

    async def now() -> list[str]:
        # Jupyter writes in place.
        with suppress(ValueError):
            return sources(jupyter)
        return []

    async def so() -> bool:
        return await now() == list(wanted)

    await until(so, now)
