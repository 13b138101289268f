"""A window of an editor with a person who types in it, over contents at hand: what the extension does, in short."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.errors import Stale


class Typist:
    """A window that has one notebook open. Cells are plain dictionaries; edits come by `heard`, and are answered by
    `run`, which also posts what was typed, in order."""

    def __init__(self, contents: Any, file: Path, window: str = "w1") -> None:
        self.contents, self.windows, self.file, self.window = contents, contents.windows, file, window
        self.path = file.name
        self.cells: list[dict[str, Any]] = []
        self.version = 0
        self.base = 0
        self.dirty = False
        self.leases: dict[str, str | None] = {}
        self.answers = True
        """Whether it answers edits at all."""
        self.lag = 0
        """How many turns others have before it looks at an edit: what is typed meanwhile may be in its way."""
        self.edits: list[dict[str, Any]] = []
        self.applied = 0
        self.refused = 0
        self._unsaid: list[tuple[list[Any], int]] = []
        self._wake = anyio.Event()
        self._stop = self.windows.listen(self.heard)
        self._posting = anyio.Lock()
        self._must_open = False

    # ------------------------------------------------------------------ the wire

    def heard(self, kind: str, data: dict[str, Any], window: str | None) -> None:
        data = json.loads(json.dumps(data))
        if kind == "lease":
            self.leases[data["path"]] = data["owner"]
        elif window == self.window:
            self.edits.append(data)
        self._wake.set()

    def join(self) -> None:
        self.windows.joined(self.window)

    def leave(self) -> None:
        """The stream is lost."""
        self.edits.clear()
        self.windows.left(self.window)

    def reopen(self) -> None:
        """Open the notebook again as soon as there is time."""
        self._must_open = True
        self._wake.set()

    @property
    def is_behind(self) -> bool:
        """Whether something is to be said, or to be answered."""
        return bool(self._must_open or self._unsaid or self.edits)

    def end(self) -> None:
        self._stop()

    async def open(self) -> dict[str, Any]:
        async with self._posting:
            return await self._open()

    async def _open(self) -> dict[str, Any]:
        self._must_open = False
        self._unsaid.clear()
        if not self.dirty:
            self.cells = _read(self.file)
        given = self.notebook() if self.dirty else None
        before = copy.deepcopy(self.cells)
        answer = json.loads(json.dumps(await self.windows.open(self.window, self.path, notebook=given)))
        if self.cells != before:
            # Typed while the answer was on its way: what was asked is not what there is.
            self._must_open = True
            self.dirty = True
            return answer
        self.base = self.version = answer["version"]
        if answer["owner"] == self.window:
            self._apply(answer["ops"])
            self.dirty = self.dirty or bool(answer["ops"])
        return answer

    def notebook(self) -> dict[str, Any]:
        return {"cells": copy.deepcopy(self.cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}

    async def run(self) -> None:
        """Answer edits and tell what was typed, until cancelled."""
        while True:
            await self.work()
            self._wake = anyio.Event()
            if not self.edits and not self._unsaid:
                await self._wake.wait()

    async def work(self) -> None:
        """Do what there is to do."""
        async with self._posting:
            try:
                if self._must_open:
                    await self._open()
                await self._say()
                while self.edits and self.answers:
                    await self._answer(self.edits.pop(0))
            except Stale:
                self._must_open = True
                self._wake.set()

    async def _say(self) -> None:
        while self._unsaid:
            ops, version = self._unsaid[0]
            await self.windows.change(self.window, self.path, base=self.base, version=version, ops=ops)
            if self._unsaid:
                self._unsaid.pop(0)
            self.base = version

    async def _answer(self, edit: dict[str, Any]) -> None:
        for _ in range(self.lag):
            await anyio.lowlevel.checkpoint()
        if time.time() > edit["deadline"]:
            return
        before = copy.deepcopy(self.cells)
        is_applied = self._apply(edit["ops"])
        if is_applied:
            self.applied += 1
            self.version += 1
            self.dirty = True
            version = self.version
            await self._say()
        else:
            self.refused += 1
            self.cells = before
            await self._say()
            version = self.base
        self.windows.reply(self.window, edit["request"], is_applied=is_applied, version=version)
        self.base = version

    # ------------------------------------------------------------------ what is typed

    def typed(self, *ops: dict[str, Any]) -> None:
        """The person changes the notebook; it is told by `run`."""
        assert self._apply(list(ops))
        self.version += 1
        self.dirty = True
        self._unsaid.append((json.loads(json.dumps(ops)), self.version))
        self._wake.set()

    async def save(self) -> None:
        async with self._posting:
            try:
                await self._say()
                version = self.version
                self.file.write_text(json.dumps(self.notebook()))
                self.dirty = False
                await self.windows.saved(self.window, self.path, version)
            except Stale:
                self._must_open = True

    def index(self, cell_id: str) -> int:
        return next(number for number, cell in enumerate(self.cells) if cell["id"] == cell_id)

    def sources(self) -> list[str]:
        return [cell["source"] for cell in self.cells]

    def _apply(self, ops: list[dict[str, Any]]) -> bool:
        """All of them or nothing."""
        cells = copy.deepcopy(self.cells)
        for op in ops:
            if not _applied(cells, op):
                return False
        self.cells = cells
        return True


def _applied(cells: list[dict[str, Any]], op: dict[str, Any]) -> bool:
    if op["op"] == "insert":
        if op["index"] > len(cells):
            return False
        cells.insert(op["index"], copy.deepcopy(op["cell"]))
        return True
    if op["op"] == "metadata" and op["id"] is None:
        return True
    at = next((number for number, cell in enumerate(cells) if cell["id"] == op["id"]), None)
    if at is None or op.get("hash") not in (None, notebooks.source_hash(cells[at])):
        return False
    cell = cells[at]
    match op["op"]:
        case "delete":
            del cells[at]
        case "move":
            if op["index"] >= len(cells):
                return False
            cells.insert(op["index"], cells.pop(at))
        case "source":
            cell["source"] = op["source"]
        case "metadata":
            cell["metadata"] = op["metadata"]
        case "outputs":
            cell |= {"outputs": op["outputs"], "execution_count": op["execution_count"]}
        case "type":
            cell["cell_type"] = op["cell_type"]
    return True


def _read(file: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(file.read_text())["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


def code(cell_id: str, source: str) -> dict[str, Any]:
    """A code cell."""
    rest = {"metadata": {}, "outputs": [], "execution_count": None}
    return {"cell_type": "code", "id": cell_id, "source": source, **rest}
