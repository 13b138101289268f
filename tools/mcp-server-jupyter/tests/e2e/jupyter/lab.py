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
import pytest

from a_jupyter import TOKEN, Jupyter
from execution.desk import settings_of
from mcp_server_jupyter.settings import Settings
from support import Refused, Server, eventually, outputs_text

PATIENCE = 90.0
PACKAGE = Path(__file__).parents[3]
SCRIPT = PACKAGE / "scripts" / "jupyters.py"


def python_of(kind: str) -> str:
    """The Python that has a Jupyter of this kind."""
    made = subprocess.run([sys.executable, SCRIPT, kind], check=False, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        pytest.fail(f"There is no Jupyter of the kind {kind!r}; {SCRIPT.name} says why.", pytrace=False)
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
    """A notebook's file, once it is whole: Jupyter writes in place, and may do so again at any time."""

    def whole() -> dict[str, Any] | None:
        with suppress(ValueError):
            found: dict[str, Any] = json.loads((jupyter.root / name).read_text())
            return found
        return None

    return eventually(whole, PATIENCE, f"{name} is JSON")


def sources(jupyter: Jupyter, name: str = "a.ipynb") -> list[str]:
    return ["".join(cell["source"]) for cell in on_disk(jupyter, name)["cells"]]


async def until(true: Callable[[], Awaitable[bool]], now: Callable[[], Awaitable[Any]] | None = None) -> None:
    """Wait for what another program does, which cannot be waited for; `now` says how it is, where it does not come."""
    with anyio.move_on_after(PATIENCE):
        while not await true():  # noqa: ASYNC110
            await anyio.sleep(0.05)
        return
    raise AssertionError(f"not within {PATIENCE} s; it is {None if now is None else await now()!r}")


async def is_on_disk(jupyter: Jupyter, *wanted: str, name: str = "a.ipynb") -> None:
    """Wait until a notebook's file has cells of these sources."""

    async def now() -> list[str]:
        return sources(jupyter, name)

    async def so() -> bool:
        return await now() == list(wanted)

    await until(so, now)


async def is_shown_on_disk(jupyter: Jupyter, index: int, text: str) -> None:
    """Wait until a cell in the file of a.ipynb shows this: outputs get there after the answer that tells them."""

    async def now() -> str:
        return outputs_text(on_disk(jupyter)["cells"][index])

    async def so() -> bool:
        return await now() == text

    await until(so, now)


class Beside(Server):
    """Our server beside a Jupyter: what it keeps is of that Jupyter."""

    def __init__(self, folder: Path, jupyter: Jupyter) -> None:
        super().__init__(folder, f"--jupyter-url={jupyter.url}", f"--jupyter-token={TOKEN}")
        self._url = jupyter.url

    @property
    def root_state(self) -> Path:
        given = {"root": self.root, "state_dir": self.state, "jupyter_url": self._url, "jupyter_token": TOKEN}
        return Settings.load(given, environ={}).root_state


class Agent:
    """Who calls our server's operations on a.ipynb."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer = await anyio.to_thread.run_sync(
            lambda: self._server.call(name, timeout=PATIENCE, notebook_path="a.ipynb", **arguments)
        )
        assert not answer["is_error"], answer["text"]
        return answer

    async def refused(self, name: str, **arguments: Any) -> str:
        """What a call says that is refused."""
        with pytest.raises(Refused) as told:
            await self.call(name, **arguments)
        return str(told.value)

    async def answered(self) -> None:
        """Return once the notebook can be read: a busy Jupyter that has just begun takes its time."""

        async def so() -> bool:
            with suppress(Refused):
                await self.call("read_all_cells")
                return True
            return False

        await until(so)

    async def sees(self, text: str) -> None:
        """Return once reading the notebook shows it."""

        async def so() -> bool:
            return text in await self._text()

        await until(so, self._text)

    async def _text(self) -> str:
        return str((await self.call("read_all_cells"))["text"])
