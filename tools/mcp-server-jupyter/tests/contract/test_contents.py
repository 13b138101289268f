"""What every contents backend must do. A new backend adds its name to `BACKENDS` and a way to open it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anyio
import pytest

from a_jupyter import TOKEN, Jupyter, managers
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.in_process.contents import open_contents as open_managed_contents
from mcp_server_jupyter.errors import AlreadyExists, InvalidRequest, NotFound, OutsideRoot
from mcp_server_jupyter.settings import Settings

# One Jupyter for all: those who need it run where it is.
REMOTE = pytest.param("jupyter", marks=pytest.mark.xdist_group("jupyter-contents"))
BACKENDS = ("memory", "files", "live", REMOTE, "serverapp")
pytestmark = pytest.mark.anyio


def open_backend(name: str, root: Path, **more: Any) -> Any:
    (point,) = entry_points(group="mcp_server_jupyter.contents", name=name)
    return point.load()(Settings.load({"root": str(root), **more}, {}))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter"), "--ContentsManager.allow_hidden=True")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """One that is not open yet, over nothing."""
    if request.param == "serverapp":
        async with managers(tmp_path) as app:
            app.contents_manager.allow_hidden = True
            yield open_managed_contents(Settings.load({"root": str(tmp_path)}, {}), app)
        return
    if request.param != "jupyter":
        yield open_backend(request.param, tmp_path)
        return
    server = request.getfixturevalue("jupyter")
    for each in server.root.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    yield open_backend("jupyter", tmp_path, jupyter_url=server.url, jupyter_token=TOKEN)


@pytest.fixture
async def contents(backend: Any) -> AsyncIterator[Any]:
    async with backend as opened:
        yield opened


async def create(contents: Any, path: str = "a.ipynb", *sources: str) -> None:
    notebook = notebooks.new_notebook("python3")
    for source in sources:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", source))
    await contents.create(path, notebook)


async def edit(contents: Any, path: str, *changes: Callable[[Any], object], durable: bool = True) -> None:
    async with contents.edit(path, durable=durable) as notebook:
        for change in changes:
            change(notebook)


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells]


async def test_a_created_notebook_is_read_back(contents: Any) -> None:
    await create(contents, "sub/folder/a.ipynb", "1 + 1", "print('é')\nlast")
    notebook = await contents.read("sub/folder/a.ipynb")
    assert sources(notebook) == ["1 + 1", "print('é')\nlast"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


async def test_create_does_not_overwrite(contents: Any) -> None:
    await create(contents, "a.ipynb", "kept")
    with pytest.raises(AlreadyExists):
        await create(contents, "a.ipynb", "lost")
    assert sources(await contents.read("a.ipynb")) == ["kept"]


async def test_an_edit_is_seen_by_the_next_read(contents: Any) -> None:
    await create(contents, "a.ipynb", "one", "two")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "changed")
        notebooks.insert_cell(notebook, 0, notebooks.new_cell("markdown", "# title"))
        notebook.metadata["author"] = {"name": "someone"}
    notebook = await contents.read("a.ipynb")
    assert sources(notebook) == ["# title", "one", "changed"]
    assert notebook.metadata.author.name == "someone"


async def test_a_deferred_edit_is_seen_at_once_and_lasts_after_flush(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    output = {"output_type": "stream", "name": "stdout", "text": "hello\n"}
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.set_outputs(notebook, 0, [output], 1)
    assert (await contents.read("a.ipynb")).cells[0].outputs[0].text == "hello\n"
    await contents.flush("a.ipynb")
    await contents.flush()
    assert (await contents.read("a.ipynb")).cells[0].execution_count == 1


async def test_an_edit_that_raises_changes_nothing(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")

    def fail(notebook: Any) -> None:
        notebooks.delete_cell(notebook, 0)
        notebook.metadata["broken"] = True
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await edit(contents, "a.ipynb", fail)
    notebook = await contents.read("a.ipynb")
    assert sources(notebook) == ["one"]
    assert "broken" not in notebook.metadata


async def test_what_was_read_does_not_change_with_later_edits(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    before = await contents.read("a.ipynb")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "two")
    assert sources(before) == ["one"]


async def test_unchanged_cells_stay_the_same_objects(contents: Any) -> None:
    await create(contents, "a.ipynb", "one", "two")
    before = await contents.read("a.ipynb")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "changed")
    assert (await contents.read("a.ipynb")).cells[1] is before.cells[1]


async def test_edits_of_one_notebook_wait_for_each_other(contents: Any) -> None:
    await create(contents)

    async def append(source: str) -> None:
        async with contents.edit("a.ipynb", durable=len(source) % 2 == 0) as notebook:
            await anyio.lowlevel.checkpoint()
            notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", source))

    wanted = ["x" * length for length in range(30)]
    async with anyio.create_task_group() as tasks:
        for source in wanted:
            tasks.start_soon(append, source)
    assert sorted(sources(await contents.read("a.ipynb"))) == wanted


async def test_every_cell_has_an_id_of_its_own_after_any_edit(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    async with contents.edit("a.ipynb") as notebook:
        notebook.cells.append(notebook.cells[0])
        notebook.cells.append(notebooks.shallow({"cell_type": "raw", "source": "no id", "metadata": {}}))
    ids = [cell.id for cell in (await contents.read("a.ipynb")).cells]
    assert len(set(ids)) == 3


async def test_what_is_no_cell_is_refused_and_nothing_is_written(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    wrong = notebooks.node({"cell_type": "code", "source": 7, "metadata": {}})
    with pytest.raises(InvalidRequest):
        await edit(contents, "a.ipynb", lambda notebook: notebook.cells.append(wrong))
    assert sources(await contents.read("a.ipynb")) == ["one"]


@pytest.mark.parametrize("durable", [True, False])
async def test_an_edit_of_a_missing_notebook_says_so(contents: Any, durable: bool) -> None:
    with pytest.raises(NotFound):
        await edit(contents, "missing.ipynb", durable=durable)
    with pytest.raises(NotFound):
        await contents.read("missing.ipynb")


@pytest.mark.parametrize("path", ["../a.ipynb", "/etc/a.ipynb", "x/../../a.ipynb", "a/b/../../../c.ipynb"])
async def test_paths_outside_the_root_are_refused(contents: Any, path: str) -> None:
    for use in (contents.read(path), create(contents, path), contents.list(path.rpartition("/")[0])):
        with pytest.raises(OutsideRoot):
            await use
    with pytest.raises(OutsideRoot):
        await edit(contents, path)


@pytest.mark.parametrize("path", ["", " ", "a\0.ipynb", "notes.txt", "folder"])
async def test_paths_that_cannot_be_notebooks_are_refused(contents: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await contents.read(path)
    assert caught.value.hint


IMPOSSIBLE = {
    "5,000 characters": "x" * 5_000 + ".ipynb",
    "5,000 characters in folders": "folder/" * 700 + "a.ipynb",
    "2,000 levels": "a/" * 2_000 + "a.ipynb",
    "a name of 300 bytes": "x" * 300 + ".ipynb",
    "a name of 300 bytes in 150 characters": "é" * 150 + ".ipynb",
    "half a character": "\ud800.ipynb",
    "NUL": "a\0.ipynb",
}


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
async def test_paths_no_disk_can_have_are_refused_by_everything_and_nothing_is_made(
    contents: Any, tmp_path: Path, path: str
) -> None:
    folder = path.removesuffix(".ipynb")
    for use in (contents.read(path), create(contents, path), contents.list(folder), edit(contents, path)):
        with pytest.raises(InvalidRequest) as caught:
            await use
        assert caught.value.hint
        assert len(str(caught.value)) < 500
    with pytest.raises(InvalidRequest):
        contents.resolve(path)
    assert await contents.list("", recursive=True) == []


async def test_half_characters_in_cells_are_kept_or_refused(contents: Any, request: pytest.FixtureRequest) -> None:
    if {"jupyter", "serverapp"} & set(request.node.callspec.params.values()):
        # It writes files as UTF-8, which has none.
        with pytest.raises(InvalidRequest, match="half a character"):
            await create(contents, "a.ipynb", "x = '\ud800'")
        assert await contents.list() == []
        return
    await create(contents, "a.ipynb", "x = '\ud800'")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "é \udfff"))
        notebooks.set_outputs(notebook, 0, [{"output_type": "stream", "name": "stdout", "text": "\udbff"}], 1)
        notebook.metadata["\ud801"] = {"a": ["\ud802"]}
    notebook = await contents.read("a.ipynb")
    assert sources(notebook) == ["x = '\ud800'", "é \udfff"]
    assert notebook.cells[0].outputs[0].text == "\udbff"
    assert notebook.metadata["\ud801"] == {"a": ["\ud802"]}


async def test_an_edit_is_durable_for_those_in_no_hurry_too(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.replace_source(notebook, 0, "two")
    with anyio.fail_after(60):
        await contents.flush("a.ipynb", urgent=False)
        await contents.flush(urgent=False)
    assert sources(await contents.read("a.ipynb")) == ["two"]


async def test_a_notebook_has_one_identity_however_it_is_spelled(contents: Any, tmp_path: Path) -> None:
    await create(contents, "sub/a.ipynb", "one")
    spellings = ["sub/a.ipynb", "./sub/a.ipynb", "sub/../sub/a.ipynb", "sub//a.ipynb", str(tmp_path / "sub/a.ipynb")]
    for number, spelling in enumerate(spellings):
        async with contents.edit(spelling, durable=False) as notebook:
            notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", str(number)))
    assert {contents.resolve(spelling) for spelling in spellings} == {"sub/a.ipynb"}
    assert sources(await contents.read("sub/a.ipynb")) == ["one", "0", "1", "2", "3", "4"]


async def test_list_shows_notebooks_and_folders_sorted_and_leaves_hidden_ones_out(contents: Any) -> None:
    for path in ("b.ipynb", "a.ipynb", "sub/c.ipynb", "sub/.ipynb_checkpoints/c.ipynb", ".hidden.ipynb"):
        await create(contents, path)
    assert [(entry.path, entry.kind) for entry in await contents.list()] == [
        ("a.ipynb", "notebook"),
        ("b.ipynb", "notebook"),
        ("sub", "directory"),
    ]
    recursive = [entry.path for entry in await contents.list("", recursive=True)]
    assert recursive == ["a.ipynb", "b.ipynb", "sub", "sub/c.ipynb"]
    assert [entry.path for entry in await contents.list("sub")] == ["sub/c.ipynb"]


async def test_list_of_a_missing_folder_says_so(contents: Any) -> None:
    with pytest.raises(NotFound):
        await contents.list("missing")


async def test_changes_are_told_once_each_and_slow_subscribers_do_not_pile_them_up(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    await create(contents, "b.ipynb", "one")
    changes = contents.changes()
    for path in ("a.ipynb", "./a.ipynb", "b.ipynb"):
        async with contents.edit(path, durable=False) as notebook:
            notebooks.replace_source(notebook, 0, path)
    with anyio.fail_after(60):
        assert [await anext(changes), await anext(changes)] == ["a.ipynb", "b.ipynb"]
    with anyio.move_on_after(0) as scope:
        await anext(changes)
    assert scope.cancelled_caught


async def test_changes_end_with_the_backend(backend: Any) -> None:
    async with contextlib.AsyncExitStack() as stack:
        contents = await stack.enter_async_context(backend)
        changes = contents.changes()
        await stack.aclose()
        with anyio.fail_after(60):
            assert [path async for path in changes] == []


# ------------------------------------------------------------------ outputs of running cells


def stream(text: str) -> Any:
    return notebooks.node({"output_type": "stream", "name": "stdout", "text": text})


async def test_outputs_are_in_their_cell_once_they_are_shown(contents: Any) -> None:
    await create(contents, "a.ipynb", "one", "two")
    cell_id = (await contents.read("a.ipynb")).cells[1].id
    sink = contents.outputs("a.ipynb", cell_id)
    sink.append(stream("a"))
    sink.append(stream("?"))
    assert (await contents.read("a.ipynb")).cells[1].outputs == []
    sink.text(0, "b", stream("ab"))
    sink.replace(1, stream("c"))
    cell = await sink.show(3)
    assert cell == (await contents.read("a.ipynb")).cells[1]
    assert ([output.text for output in cell.outputs], cell.execution_count) == (["ab", "c"], 3)
    sink.clear()
    await sink.show(None)
    await contents.flush("a.ipynb")
    cell = (await contents.read("a.ipynb")).cells[1]
    assert (cell.outputs, cell.execution_count) == ([], None)


async def test_a_first_show_replaces_what_the_cell_had(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    await edit(contents, "a.ipynb", lambda notebook: notebooks.set_outputs(notebook, 0, [stream("old")], 1))
    await contents.outputs("a.ipynb", (await contents.read("a.ipynb")).cells[0].id).show(None)
    assert (await contents.read("a.ipynb")).cells[0].outputs == []


async def test_outputs_are_not_shown_in_a_cell_that_is_anothers_now(contents: Any) -> None:
    await create(contents, "a.ipynb", "one")
    await edit(contents, "a.ipynb", lambda n: notebooks.insert_cell(n, -1, notebooks.new_cell("markdown", "text")))
    code, text = (await contents.read("a.ipynb")).cells
    sink = contents.outputs("a.ipynb", code.id)
    sink.append(stream("a"))
    assert await sink.show(1, unless=lambda cell: cell.source == "one") is None
    assert await contents.outputs("a.ipynb", text.id).show(1) is None
    assert (await contents.read("a.ipynb")).cells[0].outputs == []
    with pytest.raises(NotFound):
        await contents.outputs("a.ipynb", "gone").show(1)
    with pytest.raises(NotFound):
        await contents.outputs("gone.ipynb", "gone").show(1)
