"""Two agents and a typist change one notebook at once, and the window comes and goes: nothing is lost or doubled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.live import open_contents
from mcp_server_jupyter.backends.live.ops import apply_ops, edit_ops
from mcp_server_jupyter.errors import Conflict
from mcp_server_jupyter.settings import Settings
from typist import Typist, code

pytestmark = pytest.mark.anyio


MOST_CELLS = 30


class Ledger:
    """Marks that were written, each once: a cell holds them one a line. What was deleted or overwritten is struck."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.struck: set[str] = set()
        self.number = 0

    @property
    def kept(self) -> set[str]:
        return self.written - self.struck - {""}

    def mark(self, who: str) -> str:
        self.number += 1
        return f"{who}{self.number}"

    def strike(self, source: str) -> None:
        self.struck.update(source.split())


async def agent(contents: Any, name: str, rng: random.Random, edits: int, ledger: Ledger) -> None:
    """Random edits, each of which adds a mark; a refused one has added none."""
    for _ in range(edits):
        mark = ledger.mark(name)
        struck = ""
        try:
            async with contents.edit("a.ipynb", author=name) as notebook:
                count = len(notebook.cells)
                what = rng.random()
                at = rng.randrange(count) if count else 0
                if (what < 0.35 and count < MOST_CELLS) or not count:
                    cell = notebooks.new_cell("code", mark)
                    notebooks.insert_cell(notebook, rng.randint(0, count), cell)
                elif what < 0.75:
                    notebooks.replace_source(notebook, at, f"{notebook.cells[at].source}\n{mark}")
                elif what < 0.87:
                    notebooks.move_cell(notebook, at, rng.randrange(count))
                    mark = ""
                elif count > 5:
                    struck = notebook.cells[at].source
                    notebooks.delete_cell(notebook, at)
                    mark = ""
                else:
                    mark = ""
        except Conflict:
            continue
        ledger.written.add(mark)
        ledger.strike(struck)
        if rng.random() < 0.3:
            await anyio.lowlevel.checkpoint()


async def person(typist: Typist, rng: random.Random, edits: int, ledger: Ledger, *, leaves: bool) -> None:
    """Types, saves, and now and then loses the stream."""
    for _ in range(edits):
        what = rng.random()
        at = rng.randrange(len(typist.cells)) if typist.cells else 0
        typist.lag = rng.choice((0, 0, 3))
        if (what < 0.3 and len(typist.cells) < MOST_CELLS) or not typist.cells:
            mark = ledger.mark("p")
            cell = code(f"p-{mark}", mark)
            typist.typed({"op": "insert", "index": rng.randint(0, len(typist.cells)), "cell": cell})
            ledger.written.add(mark)
        elif what < 0.75:
            mark = ledger.mark("p")
            cell = typist.cells[at]
            typist.typed({"op": "source", "id": cell["id"], "source": f"{cell['source']}\n{mark}"})
            ledger.written.add(mark)
        elif what < 0.85:
            typist.typed({"op": "move", "id": typist.cells[at]["id"], "index": rng.randrange(len(typist.cells))})
        elif what < 0.9 and len(typist.cells) > 5:
            cell = typist.cells[at]
            typist.typed({"op": "delete", "id": cell["id"]})
            ledger.strike(cell["source"])
        elif what < 0.96:
            await typist.save()
        elif leaves:
            typist.leave()
            await anyio.lowlevel.checkpoint()
            typist.join()
            typist.reopen()
        await anyio.lowlevel.checkpoint()


async def changed_by_all(folder: Path, seed: int, edits: int, *, leaves: bool) -> None:
    first = {"cells": [code("c0", "first0")], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    await anyio.Path(folder / "a.ipynb").write_text(json.dumps(first))
    ledger, rng = Ledger(), random.Random(seed)
    ledger.written.add("first0")
    async with open_contents(Settings.load({"root": folder}, {})) as contents:
        typist = Typist(contents, folder / "a.ipynb")
        typist.join()
        await typist.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(typist.run)
            async with anyio.create_task_group() as people:
                for name in ("a", "b"):
                    people.start_soon(agent, contents, name, random.Random(rng.random()), edits // 3, ledger)
                people.start_soon(lambda: person(typist, rng, edits // 3, ledger, leaves=leaves))
            with anyio.fail_after(60):
                while typist.is_behind:
                    await typist.work()
            tasks.cancel_scope.cancel()
        seen = [cell.source for cell in (await contents.read("a.ipynb")).cells]
        assert seen == typist.sources()
        marks = " ".join(seen).split()
        assert sorted(marks) == sorted(ledger.kept)
        assert typist.applied > edits / 3
        assert typist.refused >= edits // 300
        await typist.save()
        typist.end()
    assert ["".join(cell["source"]) for cell in json.loads((folder / "a.ipynb").read_text())["cells"]] == seen


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_doubled_while_two_agents_and_a_person_edit(tmp_path: Path, seed: int) -> None:
    await changed_by_all(tmp_path, seed, 150, leaves=seed > 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
async def test_nothing_of_three_thousand_edits_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    await changed_by_all(tmp_path, 100 + seed, 3_000, leaves=True)


@pytest.mark.parametrize("seed", range(40))
def test_ops_lead_from_one_notebook_to_another(seed: int) -> None:
    rng = random.Random(seed)
    cells = [notebooks.node(code(f"c{n}", f"{n}")) for n in range(rng.randint(0, 8))]
    before = notebooks.shallow(notebooks.new_notebook("python3"), cells=cells)
    after = notebooks.shallow(before, cells=rng.sample(cells, rng.randint(0, len(cells))))
    for _ in range(rng.randint(0, 4)):
        count = len(after.cells)
        what = rng.randrange(4)
        at = rng.randrange(count) if count else 0
        if what == 0 or not count:
            notebooks.insert_cell(after, rng.randint(0, count), notebooks.new_cell("markdown", "new"))
        elif what == 1:
            notebooks.replace_source(after, at, "changed")
        elif what == 2:
            after.cells[at] = notebooks.shallow(after.cells[at], metadata=notebooks.node({"tags": ["x"]}))
        else:
            raw = {key: after.cells[at][key] for key in ("id", "source", "metadata")}
            after.cells[at] = notebooks.node({**raw, "cell_type": "raw"})
    ops = edit_ops(before, after)
    assert apply_ops(before, json.loads(json.dumps(ops))) == after
    assert edit_ops(after, after) == []


def test_moving_one_cell_far_is_one_op() -> None:
    cells = [notebooks.node(code(f"c{n}", f"{n}")) for n in range(50)]
    before = notebooks.shallow(notebooks.new_notebook("python3"), cells=cells)
    assert edit_ops(before, notebooks.shallow(before, cells=[*cells[1:], cells[0]])) == [
        {"op": "move", "id": "c0", "index": 49}
    ]
