"""Notebooks of a real Jupyter server, where others write as well."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from a_jupyter import TOKEN, Jupyter
from execution.desk import Desk, open_desk, settings_of, shown
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.backends.jupyter.contents_listing import list_entries
from mcp_server_jupyter.errors import Conflict, InvalidNotebook, InvalidRequest, NotFound, TooLarge, Unavailable
from mcp_server_jupyter.ports import Listing
from mcp_server_jupyter.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("jupyter-contents")]
PATIENCE = 60.0

# As hooks do that keep outputs out of git.
HOOK = "c.ContentsManager.pre_save_hook = lambda model, **_: [c.update(outputs=[]) for c in model['content']['cells']]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    jupyter = Jupyter(tmp_path_factory.mktemp("jupyter"))
    try:
        yield jupyter.start()
    finally:
        jupyter.close()


@pytest.fixture
def jupyter(server: Jupyter) -> Jupyter:
    """One whose notebooks are ours alone to write, until the test does it."""
    for each in sorted(server.root.rglob("*"), reverse=True):
        each.rmdir() if each.is_dir() else each.unlink()
    return server


def settings_for(jupyter: Jupyter, folder: Path, **more: Any) -> Settings:
    return settings_of(folder, kernels="jupyter", jupyter_url=jupyter.url, jupyter_token=TOKEN, **more)


@pytest.fixture
async def contents(jupyter: Jupyter, tmp_path: Path) -> AsyncIterator[JupyterContents]:
    async with JupyterContents(settings_for(jupyter, tmp_path)) as opened:
        yield opened


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


def write(jupyter: Jupyter, *cells: dict[str, Any], name: str = "a.ipynb", minor: int = 5) -> None:
    """As another program does: a new file in the place of the old one."""
    notebook = {"nbformat": 4, "nbformat_minor": minor, "metadata": {}, "cells": list(cells)}
    draft = jupyter.root / f"{name}.draft"
    draft.write_text(json.dumps(notebook))
    draft.replace(jupyter.root / name)


def on_disk(jupyter: Jupyter, name: str = "a.ipynb") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((jupyter.root / name).read_text())
    return found


def sources(jupyter: Jupyter) -> list[str]:
    return ["".join(cell["source"]) for cell in on_disk(jupyter)["cells"]]


async def replace(contents: JupyterContents, source: str, act: Callable[[], Any] = lambda: None) -> None:
    """Give the first cell another source while somebody else acts."""
    async with contents.edit("a.ipynb") as notebook:
        act()
        notebooks.replace_source(notebook, 0, source)


def meanwhile(contents: JupyterContents, monkeypatch: pytest.MonkeyPatch, when: str, act: Any) -> None:
    """Have somebody else act once: "before" or "after" Jupyter has written what we put."""
    put, acts = contents._api.put, [act]

    async def interfered(name: str, data: bytes) -> None:
        if when == "before" and acts:
            acts.pop()()
        await put(name, data)
        if when == "after" and acts:
            acts.pop()()

    monkeypatch.setattr(contents._api, "put", interfered)


# ------------------------------------------------------------------ others write too


async def test_what_somebody_else_wrote_while_an_edit_was_made_is_merged(
    jupyter: Jupyter, contents: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    async with contents.edit("a.ipynb") as notebook:
        write(jupyter, code_cell("one", "1"), code_cell("two", "theirs"), code_cell("three", "3"))
        notebooks.replace_source(notebook, 0, "ours")

    assert sources(jupyter) == ["ours", "theirs", "3"]
    assert [cell.source for cell in (await contents.read("a.ipynb")).cells] == ["ours", "theirs", "3"]


async def test_the_same_cell_changed_by_two_is_a_conflict_and_theirs_stays(
    jupyter: Jupyter, contents: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "1"))
    with pytest.raises(Conflict) as caught:
        await replace(contents, "ours", lambda: write(jupyter, code_cell("one", "theirs")))

    assert "-theirs\n+ours" in caught.value.diff
    assert sources(jupyter) == ["theirs"]
    assert (await contents.read("a.ipynb")).cells[0].source == "theirs"


async def test_what_somebody_writes_over_ours_at_the_same_moment_is_merged_too(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    # They had read it before we wrote.
    meanwhile(contents, monkeypatch, "after", lambda: write(jupyter, code_cell("one", "1"), code_cell("two", "theirs")))
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "ours")

    assert sources(jupyter) == ["ours", "theirs"]


async def test_whoever_writes_the_same_cell_over_ours_is_told_of(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(jupyter, code_cell("one", "1"))
    meanwhile(contents, monkeypatch, "after", lambda: write(jupyter, code_cell("one", "theirs")))
    with pytest.raises(Conflict):
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 0, "ours")

    assert sources(jupyter) == ["theirs"]
    assert (await contents.read("a.ipynb")).cells[0].source == "theirs"


async def test_outputs_and_what_somebody_types_meanwhile_are_both_in_the_file(
    jupyter: Jupyter, contents: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    sink = contents.outputs("a.ipynb", "one")
    sink.append(notebooks.node({"output_type": "stream", "name": "stdout", "text": "ours\n"}))
    await sink.show(7)
    write(jupyter, code_cell("one", "1"), code_cell("two", "theirs"))
    await contents.flush("a.ipynb")

    cells = on_disk(jupyter)["cells"]
    assert cells[0]["outputs"][0]["text"] == ["ours\n"]
    assert "".join(cells[1]["source"]) == "theirs"


async def test_a_deleted_notebook_is_not_made_again(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    with pytest.raises(NotFound):
        await replace(contents, "ours", (jupyter.root / "a.ipynb").unlink)
    assert not (jupyter.root / "a.ipynb").exists()
    with pytest.raises(NotFound):
        await contents.read("a.ipynb")


async def test_what_others_change_in_a_notebook_in_use_is_told_without_a_call(
    jupyter: Jupyter, contents: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "1"))
    changes = contents.changes()
    await contents.read("a.ipynb")
    write(jupyter, code_cell("one", "theirs"))
    with anyio.fail_after(PATIENCE):
        assert await anext(changes) == "a.ipynb"


# ------------------------------------------------------------------ what Jupyter does with a notebook


async def test_a_jupyter_that_alters_what_it_saves_is_taken_at_its_word(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(HOOK)
    jupyter = Jupyter(tmp_path, f"--config={tmp_path / 'config.py'}")
    try:
        jupyter.start()
        async with JupyterContents(settings_for(jupyter, tmp_path)) as contents:
            write(jupyter, code_cell("one", "1"))
            async with contents.edit("a.ipynb") as notebook:
                notebooks.replace_source(notebook, 0, "ours")
                notebooks.set_outputs(notebook, 0, [{"output_type": "stream", "name": "stdout", "text": "x"}], 1)
            assert sources(jupyter) == ["ours"]
            assert (await contents.read("a.ipynb")).cells[0].outputs == []
            jupyter.kill()
    finally:
        jupyter.close()


async def test_ids_are_not_written_into_a_format_that_has_none(jupyter: Jupyter, contents: JupyterContents) -> None:
    cells = [code_cell("", "1"), code_cell("", "2")]
    for cell in cells:
        del cell["id"]
    write(jupyter, *cells, minor=4)
    before = await contents.read("a.ipynb")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "ours")
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "3"))
    after = await contents.read("a.ipynb")

    assert [cell.id for cell in after.cells[:2]] == [cell.id for cell in before.cells]
    assert after.cells[1] is before.cells[1]
    assert on_disk(jupyter)["nbformat_minor"] == 4
    assert not any("id" in cell for cell in on_disk(jupyter)["cells"])


async def test_an_old_format_is_read_and_not_edited(jupyter: Jupyter, contents: JupyterContents) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "v3.ipynb"
    (jupyter.root / "a.ipynb").write_bytes(fixture.read_bytes())
    assert (await contents.read("a.ipynb")).cells
    with pytest.raises(InvalidNotebook, match="old format 3"):
        async with contents.edit("a.ipynb") as notebook:
            notebook.cells.clear()
    assert (jupyter.root / "a.ipynb").read_bytes() == fixture.read_bytes()


async def test_what_is_no_notebook_is_refused(jupyter: Jupyter, contents: JupyterContents) -> None:
    (jupyter.root / "a.ipynb").write_text("no JSON")
    with pytest.raises(InvalidNotebook):
        await contents.read("a.ipynb")
    (jupyter.root / "b.ipynb").mkdir()
    with pytest.raises(InvalidNotebook):
        await contents.read("b.ipynb")


async def test_half_a_character_in_outputs_is_shown_as_such(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    async with contents.edit("a.ipynb") as notebook:
        notebooks.set_outputs(notebook, 0, [{"output_type": "stream", "name": "stdout", "text": "a\ud800b"}], 1)
    with pytest.raises(InvalidRequest):
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 0, "\ud800")
    [cell] = on_disk(jupyter)["cells"]
    assert cell["outputs"][0]["text"] == ["a\ufffdb"]
    assert "".join(cell["source"]) == "1"


async def test_a_notebook_that_was_trusted_stays_so(jupyter: Jupyter, contents: JupyterContents) -> None:
    html = {"output_type": "display_data", "data": {"text/html": "<b>x</b>"}, "metadata": {}}
    one = code_cell("one", "1", outputs=[html], metadata={"trusted": True})
    model = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [one]}
    body = {"type": "notebook", "format": "json", "content": model}
    await contents.client.call("PUT", "api/contents/a.ipynb", body)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "2"))
        notebooks.set_outputs(notebook, 1, [html], 2)
    content = (await contents.client.get("api/contents/a.ipynb"))["content"]
    assert [cell["metadata"].get("trusted") for cell in content["cells"]] == [True, True]

    # What nobody here has run, or has seen trusted, is not.
    write(jupyter, code_cell("strange", "1", outputs=[html]))
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "2"))
    content = (await contents.client.get("api/contents/a.ipynb"))["content"]
    assert content["cells"][0]["metadata"].get("trusted") is False


async def test_a_notebook_over_the_limit_is_neither_read_nor_written(jupyter: Jupyter, tmp_path: Path) -> None:
    async with JupyterContents(settings_for(jupyter, tmp_path, max_notebook_bytes=2_000)) as contents:
        write(jupyter, code_cell("one", "1"))
        with pytest.raises(TooLarge):
            async with contents.edit("a.ipynb") as notebook:
                notebooks.replace_source(notebook, 0, "x" * 3_000)
        assert sources(jupyter) == ["1"]
        write(jupyter, code_cell("one", "x" * 3_000))
        with pytest.raises(TooLarge):
            await contents.read("a.ipynb")


# ------------------------------------------------------------------ lists


async def test_a_list_that_would_take_too_long_is_cut_and_says_so(jupyter: Jupyter, contents: JupyterContents) -> None:
    for number in range(8):
        (jupyter.root / f"f{number}" / "below").mkdir(parents=True)
        write(jupyter, name=f"f{number}/below/a.ipynb")
    whole = await contents.list(recursive=True)
    assert isinstance(whole, Listing)
    assert (len(whole), whole.cut) == (24, "")
    few = await list_entries(contents._api, "", recursive=True, folders=5)
    assert 8 < len(few) < 24
    assert "after 5 folders" in few.cut
    none = await list_entries(contents._api, "", recursive=True, seconds=0)
    assert "after 0 s" in none.cut
    assert "f7" in [entry.path for entry in none]


async def test_list_notebooks_says_that_it_was_cut(
    jupyter: Jupyter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def few(*_: Any, **__: Any) -> Listing:
        return Listing([], "This list is not whole: it was cut after 5 s.")

    async with open_desk(settings_for(jupyter, tmp_path)) as desk:
        monkeypatch.setattr("mcp_server_jupyter.backends.jupyter.contents.list_entries", few)
        assert "not whole" in (await desk.call("list_notebooks")).text


# ------------------------------------------------------------------ Jupyter goes away


async def test_a_jupyter_that_is_away_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    jupyter = Jupyter(tmp_path)
    try:
        jupyter.start()
        async with JupyterContents(settings_for(jupyter, tmp_path)) as contents:
            write(jupyter, code_cell("one", "1"))
            await contents.read("a.ipynb")
            jupyter.kill()
            with pytest.raises(Unavailable):
                await contents.read("a.ipynb")
            with pytest.raises(Unavailable):
                await replace(contents, "lost")
            write(jupyter, code_cell("one", "1"), code_cell("two", "theirs"))
            jupyter.start()
            await replace(contents, "ours")
            assert sources(jupyter) == ["ours", "theirs"]
            jupyter.kill()
    finally:
        jupyter.close()


async def test_outputs_that_cannot_be_written_are_written_later(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unsent(name: str, data: bytes) -> None:
        raise Unavailable("Nothing came.")

    write(jupyter, code_cell("one", "1"))
    sink = contents.outputs("a.ipynb", "one")
    sink.append(notebooks.node({"output_type": "stream", "name": "stdout", "text": "ours\n"}))
    with monkeypatch.context() as patched:
        patched.setattr(contents._api, "put", unsent)
        await sink.show(1)
        with pytest.raises(Unavailable):
            await contents.flush("a.ipynb")
        assert (await contents.read("a.ipynb")).cells[0].execution_count == 1
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    assert on_disk(jupyter)["cells"][0]["execution_count"] == 1


async def test_a_write_whose_answer_is_lost_is_looked_after(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(jupyter, code_cell("one", "1"))
    put = contents._api.put

    async def unanswered(name: str, data: bytes) -> None:
        await put(name, data)
        raise Unavailable("Nothing came.")

    async def unsent(name: str, data: bytes) -> None:
        raise Unavailable("Nothing came.")

    monkeypatch.setattr(contents._api, "put", unanswered)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "written")
    assert sources(jupyter) == ["written"]
    monkeypatch.setattr(contents._api, "put", unsent)
    with pytest.raises(Unavailable):
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 0, "lost")
    assert (await contents.read("a.ipynb")).cells[0].source == "written"


# ------------------------------------------------------------------ the whole server over it


async def code(desk: Desk, source: str) -> Any:
    answer = await desk.call("append_execute_code_cell", cell_source=source)
    execution = desk.execution(answer)
    await execution.wait_finished(PATIENCE)
    return await desk.call("get_execution", execution_id=execution.id)


async def test_with_a_jupyter_url_notebooks_are_that_jupyters_files(jupyter: Jupyter, tmp_path: Path) -> None:
    settings = settings_for(jupyter, tmp_path)
    assert (settings.contents, settings.kernels) == ("jupyter", "jupyter")
    async with open_desk(settings) as desk:
        answer = await code(desk, "import os\nprint(6 * 7, os.getcwd())")
        await desk.services.contents.flush()
        [cell] = on_disk(jupyter)["cells"]
        assert shown(cell).split() == ["42", str(jupyter.root)]
        assert "42" in answer.text
        assert "a.ipynb" in (await desk.call("list_notebooks")).text
        assert "os.getcwd" in (await desk.call("read_all_cells")).text

        await desk.call("overwrite_cell_source", cell_index=0, cell_source="changed")
        assert sources(jupyter) == ["changed"]
        await desk.call("undo")
        assert sources(jupyter) == ["import os\nprint(6 * 7, os.getcwd())"]
    assert list((tmp_path / "root").iterdir()) == []
