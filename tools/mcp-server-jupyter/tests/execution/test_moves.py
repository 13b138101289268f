"""A notebook that is moved keeps its kernel and its history; copies, swaps and overwriting do not mix them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import nbformat
import pytest

from execution.desk import Desk, open_desk, settings_of, shown
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With the notebooks a and b, each of three cells that print its name."""
    found = settings_of(tmp_path, notebook=None)
    for name in ("a", "b"):
        written(found.root / f"{name}.ipynb", name)
    return found


def written(path: Path, name: str, minor: int = 5) -> None:
    sources = [f"name = {name!r}", "print('I am', name)", f"# {name}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    if minor < 5:
        notebook.nbformat_minor = minor
        for cell in notebook.cells:
            del cell["id"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


async def run(desk: Desk, path: str, index: int = 0) -> Any:
    return await desk.call("execute_cell_with_progress", notebook_path=path, cell_index=index)


async def says(desk: Desk, path: str) -> str:
    """What the kernel of a notebook knows of itself."""
    return (await desk.call("execute_code", notebook_path=path, code="print(name)")).text.splitlines()[-1]


def kernel_id(desk: Desk, path: str) -> str | None:
    session = desk.services.sessions.find(path)
    return None if session is None else session.id


def move(desk: Desk, before: str, to: str) -> None:
    root = desk.services.settings.root
    (root / to).parent.mkdir(parents=True, exist_ok=True)
    os.rename(root / before, root / to)


@pytest.mark.parametrize("minor", [4, 5])
@pytest.mark.parametrize("to", ["c.ipynb", "deep/er/a.ipynb"])
async def test_a_moved_notebook_keeps_kernel_and_history_under_its_new_name(
    settings: Settings, to: str, minor: int
) -> None:
    written(settings.root / "a.ipynb", "a", minor)
    async with open_desk(settings) as desk:
        desk.services.connect("a.ipynb")
        ran = await run(desk, "a.ipynb")
        await desk.call("overwrite_cell_source", notebook_path="a.ipynb", cell_index=2, cell_source="# changed")
        before = kernel_id(desk, "a.ipynb")
        await desk.services.contents.flush()
        move(desk, "a.ipynb", to)

        assert await says(desk, to) == "a"
        assert kernel_id(desk, to) == before
        assert kernel_id(desk, "a.ipynb") is None
        assert desk.services.default_notebook == to
        assert (await desk.call("get_execution", execution_id=ran.data["execution_id"])).data["notebook_path"] == to
        if minor == 5:
            # Below 4.5 a file has no ids by which an edit's cell could be known in another place.
            await desk.call("undo", notebook_path=to)
            assert (await desk.services.contents.read(to)).cells[2].source == "# a"


async def test_a_copy_takes_nothing_from_what_it_was_copied_from(settings: Settings) -> None:
    async with open_desk(settings) as desk:
        await run(desk, "a.ipynb")
        before = kernel_id(desk, "a.ipynb")
        await desk.services.contents.flush()
        shutil.copy2(settings.root / "a.ipynb", settings.root / "copy.ipynb")
        await run(desk, "copy.ipynb")
        assert kernel_id(desk, "a.ipynb") == before
        assert kernel_id(desk, "copy.ipynb") != before
        assert await says(desk, "a.ipynb") == "a"


@pytest.mark.parametrize("first", ["a.ipynb", "b.ipynb"])
async def test_of_two_notebooks_that_were_swapped_each_keeps_its_own(settings: Settings, first: str) -> None:
    async with open_desk(settings) as desk:
        for name in ("a.ipynb", "b.ipynb"):
            await run(desk, name)
        kernels = [kernel_id(desk, name) for name in ("a.ipynb", "b.ipynb")]
        await desk.services.contents.flush()
        move(desk, "a.ipynb", "c.ipynb")
        move(desk, "b.ipynb", "a.ipynb")
        move(desk, "c.ipynb", "b.ipynb")
        second = "b.ipynb" if first == "a.ipynb" else "a.ipynb"
        told = {name: await says(desk, name) for name in (first, second)}
        assert told == {"a.ipynb": "b", "b.ipynb": "a"}
        assert [kernel_id(desk, name) for name in ("b.ipynb", "a.ipynb")] == kernels


async def test_a_notebook_moved_over_another_takes_its_place_and_the_others_kernel_goes_on(settings: Settings) -> None:
    async with open_desk(settings) as desk:
        for name in ("a.ipynb", "b.ipynb"):
            await run(desk, name)
        of_a, of_b = (kernel_id(desk, name) for name in ("a.ipynb", "b.ipynb"))
        await desk.services.contents.flush()
        os.replace(settings.root / "b.ipynb", settings.root / "a.ipynb")
        assert await says(desk, "a.ipynb") == "b"
        assert kernel_id(desk, "a.ipynb") == of_b
        left = desk.services.sessions.get(of_a or "")
        assert (left.notebook or "").startswith("a.ipynb (gone ")
        assert left.death is None


async def test_of_two_copies_of_a_notebook_that_is_gone_the_one_with_its_number_is_it(settings: Settings) -> None:
    async with open_desk(settings) as desk:
        await run(desk, "a.ipynb")
        await desk.services.contents.flush()
        await desk.call("read_cell", notebook_path="a.ipynb", cell_index=0)
        before = kernel_id(desk, "a.ipynb")
        shutil.copy2(settings.root / "a.ipynb", settings.root / "copy.ipynb")
        move(desk, "a.ipynb", "c.ipynb")
        assert await says(desk, "c.ipynb") == "a"
        await run(desk, "copy.ipynb")
        assert kernel_id(desk, "c.ipynb") == before
        assert kernel_id(desk, "copy.ipynb") != before


async def test_a_new_notebook_in_the_place_of_one_that_is_gone_is_not_taken_for_it(settings: Settings) -> None:
    async with open_desk(settings) as desk:
        await run(desk, "a.ipynb")
        before = kernel_id(desk, "a.ipynb")
        await desk.services.contents.flush()
        (settings.root / "a.ipynb").unlink()
        # Its number on the disk may be the one that has just become free.
        written(settings.root / "new.ipynb", "new")
        await run(desk, "new.ipynb")
        assert kernel_id(desk, "new.ipynb") != before
        assert kernel_id(desk, "a.ipynb") == before


@pytest.mark.parametrize("is_killed", [False, True])
async def test_what_was_moved_while_no_server_ran_is_found_again(settings: Settings, is_killed: bool) -> None:
    async with open_desk(settings) as desk:
        for name in ("a.ipynb", "b.ipynb"):
            ran = await run(desk, name, 1)
            await desk.call("overwrite_cell_source", notebook_path=name, cell_index=2, cell_source="# changed")
    if is_killed:
        # Of the last writes a server that is killed leaves no number.
        with sqlite3.connect(settings.root_state / "journal.sqlite3") as journal:
            journal.execute("UPDATE places SET identity = '0:0'")
        journal.close()
    root = settings.root
    os.rename(root / "a.ipynb", root / "c.ipynb")
    os.rename(root / "b.ipynb", root / "a.ipynb")
    shutil.copy2(root / "a.ipynb", root / "copy.ipynb")
    async with open_desk(settings) as desk:
        rows = {name: desk.services.journal.last_runs(name) for name in ("a.ipynb", "b.ipynb", "c.ipynb", "copy.ipynb")}
        assert [len(runs) for runs in rows.values()] == [1, 0, 1, 0]
        assert ran.data["cell_id"] in rows["a.ipynb"]


async def test_a_renamed_folder_takes_its_notebooks_along(settings: Settings) -> None:
    written(settings.root / "old" / "x.ipynb", "x")
    async with open_desk(settings) as desk:
        await run(desk, "old/x.ipynb")
        before = kernel_id(desk, "old/x.ipynb")
        await desk.services.contents.flush()
        os.rename(settings.root / "old", settings.root / "new")
        assert await says(desk, "new/x.ipynb") == "x"
        assert kernel_id(desk, "new/x.ipynb") == before


async def test_what_a_cell_prints_after_its_notebook_was_moved_gets_there_without_a_call(settings: Settings) -> None:
    go = settings.root / "go"
    source = (
        f"import os, time\nprint('begun')\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\nprint('done')"
    )
    async with open_desk(settings) as desk:
        await desk.call("overwrite_cell_source", notebook_path="a.ipynb", cell_index=0, cell_source=source)
        started = await desk.call(
            "execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0, timeout_seconds=0
        )
        execution = desk.execution(started)
        await until_shown(desk, "a.ipynb", "begun")
        await desk.services.contents.flush()
        move(desk, "a.ipynb", "c.ipynb")
        with anyio.fail_after(60):
            while execution.notebook != "c.ipynb":  # noqa: ASYNC110 - told by the system, some time
                await anyio.sleep(0.02)
        go.touch()
        await until_shown(desk, "c.ipynb", "done")
        assert "deleted" not in execution.note
        assert not (settings.root / "a.ipynb").exists()


async def until_shown(desk: Desk, path: str, text: str) -> None:
    with anyio.fail_after(60):
        while text not in shown((await desk.services.contents.read(path)).cells[0]):  # noqa: ASYNC110 - as above
            await anyio.sleep(0.02)
