"""Notebooks on disk: bytes, other writers, formats, failures."""

from __future__ import annotations

import difflib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import contents as files
from mcp_server_jupyter.backends.files import disk, locks, paths
from mcp_server_jupyter.backends.files import notebook as notebook_module
from mcp_server_jupyter.errors import (
    Conflict,
    InvalidNotebook,
    InvalidRequest,
    NotFound,
    OutsideRoot,
    TooLarge,
    Unavailable,
)
from mcp_server_jupyter.settings import Settings

FIXTURES = Path(__file__).parents[2] / "fixtures"
EDITABLE = ["modern", "colab", "vscode", "compact", "one_line_ascii", "tabs", "doubled_ids"]
INDENTED = ["modern", "colab", "vscode", "tabs", "doubled_ids"]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def contents(tmp_path: Path) -> AsyncIterator[files.FilesContents]:
    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as opened:
        yield opened


async def edit(contents: Any, path: str, *changes: Callable[[Any], object], durable: bool = True) -> None:
    async with contents.edit(path, durable=durable) as notebook:
        for change in changes:
            change(notebook)


def source(index: int, text: str) -> Callable[[Any], object]:
    return lambda notebook: notebooks.replace_source(notebook, index, text)


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def put(tmp_path: Path, name: str = "modern") -> Path:
    return Path(shutil.copy(FIXTURES / f"{name}.ipynb", tmp_path / "a.ipynb"))


def changed_lines(before: bytes, after: bytes) -> list[str]:
    old, new = before.decode().split("\n"), after.decode().split("\n")
    return [line for line in difflib.ndiff(old, new) if line[0] in "+-"]


def as_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8-sig"))


def in_place(path: Path, mode: str = "wb") -> IO[bytes]:
    """What a program does that does not write beside and rename."""
    return open(path, mode)  # type: ignore[return-value]


def rewrite(path: Path, change: Any) -> None:
    """What a person's editor does: read, change, replace."""
    value = as_json(path)
    change(value)
    temp = path.with_suffix(".person")
    temp.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    temp.replace(path)


# --------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", EDITABLE)
async def test_an_edit_that_changes_nothing_leaves_every_byte(contents: Any, tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name)
    before = path.read_bytes()
    async with contents.edit("a.ipynb") as notebook:
        notebook.cells[:] = [notebooks.shallow(cell) for cell in notebook.cells]
        notebook.metadata["x"] = 1
        del notebook.metadata["x"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", INDENTED)
async def test_one_changed_line_is_a_one_line_diff(contents: Any, tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name)
    before = path.read_bytes()
    async with contents.edit("a.ipynb") as notebook:
        notebooks.edit_source(notebook, 2, "range(3)", "range(4)")
    removed, added = changed_lines(before, path.read_bytes())
    assert removed[1:].replace("range(3)", "range(4)") == added[1:]


@pytest.mark.parametrize("name", ["compact", "one_line_ascii"])
async def test_on_one_line_only_the_changed_characters_change(contents: Any, tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name)
    before = path.read_bytes()
    async with contents.edit("a.ipynb") as notebook:
        notebooks.edit_source(notebook, 2, "range(3)", "range(4)")
    assert path.read_bytes() == before.replace(b"range(3)", b"range(4)")


@pytest.mark.parametrize("name", EDITABLE)
async def test_every_kind_of_edit_and_its_reverse_restore_the_bytes(contents: Any, tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name)
    before = path.read_bytes()
    original = await contents.read("a.ipynb")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 2, notebooks.new_cell("code", "new\n# 数据"))
        notebooks.insert_cell(notebook, 0, notebooks.new_cell("markdown", "first"))
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("raw", "last"))
        notebooks.replace_source(notebook, 3, "changed")
    as_json(path)
    async with contents.edit("a.ipynb") as notebook:
        for index in (-1, 3, 0):
            notebooks.delete_cell(notebook, index)
        notebooks.replace_source(notebook, 1, original.cells[1].source)
        notebooks.move_cell(notebook, 1, 4)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.move_cell(notebook, 4, 1)
    if name != "doubled_ids":
        assert [cell.id for cell in (await contents.read("a.ipynb")).cells] == [cell.id for cell in original.cells]
    expected = as_json(FIXTURES / f"{name}.ipynb")
    assert as_json(path) == expected
    if name in INDENTED:
        assert path.read_bytes() == before


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_line_ends_byte_order_mark_and_last_newline_are_kept(
    contents: Any, tmp_path: Path, newline: str, bom: bytes, end: bytes
) -> None:
    path = put(tmp_path)
    text = path.read_bytes().rstrip(b"\n") + end
    before = bom + text.replace(b"\n", newline.encode())
    path.write_bytes(before)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.edit_source(notebook, 2, "range(3)", "range(4)")
    assert path.read_bytes() == before.replace(b"range(3)", b"range(4)")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 1, notebooks.new_cell("code", "a\nb"))
    after = path.read_bytes()
    assert after.startswith(bom)
    assert after.count(b"\n") == after.count(newline.encode())


async def test_a_new_cell_is_laid_out_as_nbformat_does(contents: Any, tmp_path: Path) -> None:
    import nbformat

    path = put(tmp_path)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 1, notebooks.new_cell("code", "a = 1\nprint(a)"))
        outputs = [
            {"output_type": "stream", "name": "stdout", "text": "1\n2\n"},
            {
                "output_type": "display_data",
                "metadata": {},
                "data": {"text/plain": "a\nb", "image/png": "aGk=", "application/json": {"b": [1], "a": {}}},
            },
        ]
        notebooks.set_outputs(notebook, 1, outputs, 8)
        notebooks.set_outputs(notebook, 2, outputs, 9)
        notebook.metadata["new"] = {"z": [], "a": ["x"]}
    assert path.read_text() == nbformat.writes(nbformat.reads(path.read_text(), as_version=4)) + "\n"


async def test_a_created_file_is_what_nbformat_would_write(contents: Any, tmp_path: Path) -> None:
    import nbformat

    notebook = nbformat.read(FIXTURES / "modern.ipynb", as_version=4)
    await contents.create("a.ipynb", notebook)
    assert (tmp_path / "a.ipynb").read_bytes() == (FIXTURES / "modern.ipynb").read_bytes()


async def test_emptying_and_filling_a_notebook_gives_json_again(contents: Any, tmp_path: Path) -> None:
    for name in EDITABLE:
        path = put(tmp_path, name)
        async with contents.edit("a.ipynb") as notebook:
            notebook.cells.clear()
        assert as_json(path)["cells"] == []
        async with contents.edit("a.ipynb") as notebook:
            for source in ("a", "b"):
                notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", source))
        assert [cell["source"] for cell in as_json(path)["cells"]] == [["a"], ["b"]]


@pytest.mark.parametrize("name", EDITABLE)
async def test_cells_read_as_nbformat_reads_them(contents: Any, tmp_path: Path, name: str) -> None:
    import nbformat

    put(tmp_path, name)
    ours = await contents.read("a.ipynb")
    theirs = nbformat.from_dict(as_json(tmp_path / "a.ipynb"))
    theirs = nbformat.v4.rwbase.rejoin_lines(theirs)
    without_id = [{k: v for k, v in cell.items() if k != "id"} for cell in ours.cells]
    assert without_id == [{k: v for k, v in cell.items() if k != "id"} for cell in theirs.cells]
    assert ours.metadata == theirs.metadata


HALF = b'{"cells": [{"cell_type": "code", "id": "a", "metadata": {"tags": ["\\ud801"]}, \
"source": "x = 1 # \\uD83D \xc3\xa9", \
"execution_count": 1, "outputs": [{"output_type": "stream", "name": "stdout", "text": "\\ud800 end"}]}, \
{"cell_type": "raw", "id": "b", "metadata": {}, "source": "raw"}], \
"metadata": {"\\udc00": 1}, "nbformat": 4, "nbformat_minor": 5}'


async def test_half_characters_stay_the_escapes_they_are_byte_for_byte(contents: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(HALF)
    notebook = await contents.read("a.ipynb")
    assert notebook.cells[0].source == "x = 1 # \ud83d é"
    assert notebook.cells[0].outputs[0].text == "\ud800 end"
    await edit(contents, "a.ipynb", source(1, "changed"))
    assert path.read_bytes() == HALF.replace(b'"raw"}', b'"changed"}')


@pytest.mark.parametrize("name", EDITABLE)
async def test_half_characters_are_written_as_escapes_and_the_rest_as_the_file_does(
    contents: Any, tmp_path: Path, name: str
) -> None:
    path = put(tmp_path, name)
    text = "broken \udce9 but kept, é too\nand \ud83d"
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, text)
        notebooks.set_outputs(notebook, 1, [{"output_type": "stream", "name": "stdout", "text": text}], 1)
        notebook.metadata["half \ud800"] = text
    cell = as_json(path)["cells"][1]
    assert ["".join(cell["source"]), "".join(cell["outputs"][0]["text"])] == [text, text]
    assert as_json(path)["metadata"]["half \ud800"] == text
    assert (b"\\udce9 but kept, \xc3\xa9" in path.read_bytes()) is (name != "one_line_ascii")


# --------------------------------------------------------------------------- formats and ids


@pytest.mark.parametrize("name", ["colab", "vscode", "doubled_ids"])
async def test_made_up_ids_last_over_changes_on_disk_and_are_never_written(
    contents: Any, tmp_path: Path, name: str
) -> None:
    path = put(tmp_path, name)
    raw_ids = [cell.get("id") for cell in as_json(path)["cells"]]
    before = [cell.id for cell in (await contents.read("a.ipynb")).cells]
    assert len(set(before)) == len(before)
    rewrite(path, lambda value: value["cells"].insert(1, {"cell_type": "raw", "metadata": {}, "source": "person's"}))
    after = [cell.id for cell in (await contents.read("a.ipynb")).cells]
    assert [after[0], *after[2:]] == before
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 3, "changed")
    written = [cell.get("id") for cell in as_json(path)["cells"]]
    assert [written[0], *written[2:]] == raw_ids


async def test_a_new_cell_has_an_id_in_the_file_only_where_the_format_has_them(contents: Any, tmp_path: Path) -> None:
    for name, has_ids in (("vscode", False), ("modern", True)):
        path = put(tmp_path, name)
        async with contents.edit("a.ipynb") as notebook:
            notebooks.insert_cell(notebook, 0, notebooks.new_cell("code", "x"))
        assert ("id" in as_json(path)["cells"][0]) is has_ids
        assert as_json(path)["nbformat_minor"] == as_json(FIXTURES / f"{name}.ipynb")["nbformat_minor"]


async def test_an_old_format_is_read_but_not_edited(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "v3")
    before = path.read_bytes()
    notebook = await contents.read("a.ipynb")
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "markdown"]
    for durable in (True, False):
        with pytest.raises(InvalidNotebook, match="nbconvert"):
            await edit(contents, "a.ipynb", durable=durable)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"cells": []}',
        b'{"cells": {}, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [], "nbformat": 5, "nbformat_minor": 0, "metadata": {}}',
        b'{"cells": [], "nbformat": "4", "nbformat_minor": 0, "metadata": {}}',
        b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": []}',
        b'{"cells": [], "cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [1], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [{"cell_type": "code", "source": [1]}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}} x',
        b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {"a": "\xff"}}',
        b'{"nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": [{}]}]}',
        b'{"a":' * 100_000,
        b"<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> b\n",
    ],
)
async def test_what_is_no_notebook_is_refused_and_left_alone(contents: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(data)
    os.utime(path, (1, 1))
    for durable in (True, False):
        with pytest.raises(InvalidNotebook) as caught:
            await edit(contents, "a.ipynb", durable=durable)
        assert caught.value.hint
    assert path.read_bytes() == data


async def test_a_notebook_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path)
    before = path.read_bytes()
    limit = len(before) + 100
    async with files.open_contents(Settings.load({"root": str(tmp_path), "max_notebook_bytes": limit}, {})) as contents:
        with pytest.raises(TooLarge, match="max_notebook_bytes"):
            await edit(contents, "a.ipynb", source(1, "x" * 1000))
        assert path.read_bytes() == before
        path.write_bytes(before + b" " * 200)
        with pytest.raises(TooLarge):
            await contents.read("a.ipynb")


# --------------------------------------------------------------------------- other writers


async def test_a_persons_change_on_disk_is_seen_by_the_next_read(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    before = await contents.read("a.ipynb")
    changes = contents.changes()
    rewrite(path, lambda value: value["cells"][1].update(source="person's"))
    after = await contents.read("a.ipynb")
    assert after.cells[1].source == "person's"
    assert after.cells[3] is before.cells[3]
    with anyio.fail_after(60):
        assert await anext(changes) == "a.ipynb"


async def test_a_persons_change_during_an_edit_is_merged(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "ours")
        rewrite(path, lambda value: value["cells"][2].update(source="person's"))
    assert [cell["source"] for cell in as_json(path)["cells"][1:3]] == [["ours"], "person's"]


async def test_the_same_cell_changed_by_a_person_meanwhile_is_a_conflict_and_nothing_is_written(
    contents: Any, tmp_path: Path
) -> None:
    path = put(tmp_path)

    def persons(value: Any) -> None:
        value["cells"][1]["source"] = "person's"

    with pytest.raises(Conflict) as caught:
        await edit(contents, "a.ipynb", source(1, "ours"), source(4, "ours too"), lambda _: rewrite(path, persons))
    assert "-person's\n+ours" in caught.value.diff
    assert as_json(path)["cells"][1]["source"] == "person's"
    notebook = await contents.read("a.ipynb")
    assert [notebook.cells[1].source, notebook.cells[4].source] == ["person's", "1 / 0"]


def stream(text: str) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": "stdout", "text": text}]


async def test_pending_outputs_and_a_persons_source_both_stay(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.set_outputs(notebook, 1, stream("ours"), 77)
    rewrite(path, lambda value: value["cells"][1].update(source="person's", outputs=[]))
    await contents.flush()
    cell = as_json(path)["cells"][1]
    assert (cell["source"], cell["execution_count"], cell["outputs"][0]["text"]) == ("person's", 77, ["ours"])


async def test_a_pending_source_that_clashes_is_given_up_loudly_and_the_rest_is_kept(
    contents: Any, tmp_path: Path
) -> None:
    path = put(tmp_path)
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.replace_source(notebook, 1, "ours")
        notebooks.set_outputs(notebook, 1, stream("ours"), 77)
        notebooks.replace_source(notebook, 2, "ours 2")
    rewrite(path, lambda value: value["cells"][1].update(source="person's"))
    with pytest.raises(Conflict):
        await contents.flush()
    cells = as_json(path)["cells"]
    assert (cells[1]["source"], cells[1]["execution_count"], cells[2]["source"]) == ("person's", 77, ["ours 2"])
    await contents.flush()


async def test_a_deleted_file_is_not_written_again(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.set_outputs(notebook, 1, stream("lost"), 77)
    path.unlink()
    with pytest.raises(NotFound, match="deleted"):
        await contents.flush()
    with pytest.raises(NotFound):
        await contents.read("a.ipynb")
    await contents.flush()
    assert names(tmp_path) == []
    with pytest.raises(NotFound):
        await edit(contents, "a.ipynb")
    put(tmp_path)
    assert (await contents.read("a.ipynb")).cells[1].execution_count == 1


async def test_a_file_deleted_during_an_edit_is_answered_as_missing(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    with pytest.raises(NotFound):
        await edit(contents, "a.ipynb", source(1, "ours"), lambda _: path.unlink())
    assert names(tmp_path) == []


@pytest.mark.parametrize("start", [b"", b'{"cells": [{"cell'])
async def test_a_file_being_written_in_place_is_waited_for(
    contents: Any, tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook_module, "HALF_WRITTEN_SECONDS", 60.0)
    path = put(tmp_path)
    whole = path.read_bytes()
    await contents.read("a.ipynb")
    with in_place(path) as file:
        file.write(start)
        file.flush()
        async with anyio.create_task_group() as tasks:

            async def change() -> None:
                async with contents.edit("a.ipynb") as notebook:
                    notebooks.replace_source(notebook, 1, "ours")

            tasks.start_soon(change)
            await anyio.sleep(0.1)
            assert path.read_bytes() == start
            file.write(whole[len(start) :] if whole.startswith(start) else whole)
            if start and not whole.startswith(start):
                file.seek(0)
                file.write(whole)
                file.truncate()
            file.flush()
    assert as_json(path)["cells"][1]["source"] == ["ours"]
    assert as_json(path)["cells"][2] == json.loads(whole)["cells"][2]


async def test_a_file_that_stays_half_written_is_refused_and_pending_outputs_are_kept(
    contents: Any, tmp_path: Path
) -> None:
    path = put(tmp_path)
    whole = path.read_bytes()
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.set_outputs(notebook, 1, stream("pending"), 77)
    path.write_bytes(whole[:100])
    with pytest.raises(InvalidNotebook):
        await contents.flush()
    assert path.read_bytes() == whole[:100]
    path.write_bytes(whole)
    await contents.flush()
    assert as_json(path)["cells"][1]["execution_count"] == 77


async def test_a_streamed_output_reaches_the_disk_by_itself(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.set_outputs(notebook, 1, stream("soon"), 77)
    with anyio.fail_after(60):
        for _ in iter(lambda: as_json(path)["cells"][1]["execution_count"] == 77, True):
            await anyio.sleep(0.005)


async def test_many_streamed_outputs_cost_few_writes(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)
    writes = []
    replace = disk.replace
    monkeypatch.setattr(disk, "replace", lambda *args, **how: writes.append(1) or replace(*args, **how))
    started = anyio.current_time()
    for number in range(300):
        async with contents.edit("a.ipynb", durable=False) as notebook:
            notebooks.set_outputs(notebook, 1, stream("x\n" * number), number)
        await anyio.sleep(0.001)
    await contents.flush()
    assert len(writes) <= (anyio.current_time() - started) / notebook_module.DELAY_SECONDS + 1


async def test_leaving_the_context_writes_what_is_pending(tmp_path: Path) -> None:
    path = put(tmp_path)
    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as contents:
        await edit(contents, "a.ipynb", lambda nb: notebooks.set_outputs(nb, 1, stream("last"), 77), durable=False)
    assert as_json(path)["cells"][1]["execution_count"] == 77


async def test_reading_does_not_wait_for_a_write(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook_module, "INLINE_BYTES", 0)
    put(tmp_path)
    await contents.read("a.ipynb")
    writing, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        writing.set()
        assert go_on.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)

    async def change() -> None:
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "ours")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(change)
        await anyio.to_thread.run_sync(writing.wait)
        with anyio.fail_after(60):
            assert (await contents.read("a.ipynb")).cells[1].source != "ours"
        go_on.set()
    assert (await contents.read("a.ipynb")).cells[1].source == "ours"


async def test_a_cancelled_edit_is_written_whole_or_not_at_all(contents: Any, tmp_path: Path) -> None:
    put(tmp_path)
    with anyio.CancelScope() as scope:
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "never")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert (await contents.read("a.ipynb")).cells[1].source != "never"
    with anyio.CancelScope() as scope:
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "written")
            scope.cancel()
    assert (await contents.read("a.ipynb")).cells[1].source == "written"
    assert as_json(tmp_path / "a.ipynb")["cells"][1]["source"] == ["written"]


# --------------------------------------------------------------------------- paths and failures


async def test_links_that_leave_the_root_are_refused(contents: Any, tmp_path_factory: Any, tmp_path: Path) -> None:
    outside = tmp_path_factory.mktemp("outside")
    put(outside)
    (tmp_path / "link.ipynb").symlink_to(outside / "a.ipynb")
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "new.ipynb").symlink_to(outside / "new.ipynb")
    for path in ("link.ipynb", "folder/a.ipynb"):
        with pytest.raises(OutsideRoot):
            await contents.read(path)
    for path in ("new.ipynb", "folder/new.ipynb"):
        with pytest.raises(OutsideRoot):
            await contents.create(path, notebooks.new_notebook("python3"))
    assert await contents.list(recursive=True) == []
    assert names(outside) == ["a.ipynb"]


async def test_a_link_inside_the_root_stays_a_link_and_is_the_same_notebook(contents: Any, tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "link.ipynb").symlink_to("a.ipynb")
    async with contents.edit("link.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "ours")
    assert (tmp_path / "link.ipynb").is_symlink()
    assert as_json(tmp_path / "a.ipynb")["cells"][1]["source"] == ["ours"]
    assert contents.resolve("link.ipynb") == "a.ipynb"


async def test_a_root_that_is_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    put(tmp_path / "real")
    async with files.open_contents(Settings(root=tmp_path / "root")) as contents:
        for path in ("a.ipynb", str(tmp_path / "root" / "a.ipynb"), str(tmp_path / "real" / "a.ipynb")):
            assert contents.resolve(path) == "a.ipynb"


async def test_what_is_not_a_regular_file_is_refused(contents: Any, tmp_path: Path) -> None:
    (tmp_path / "folder.ipynb").mkdir()
    os.mkfifo(tmp_path / "pipe.ipynb")
    for path in ("folder.ipynb", "pipe.ipynb"):
        with anyio.fail_after(60), pytest.raises(InvalidRequest):
            await contents.read(path)
    (tmp_path / "loop.ipynb").symlink_to("loop.ipynb")
    with pytest.raises((InvalidRequest, Unavailable, NotFound)):
        await contents.read("loop.ipynb")
    with pytest.raises((InvalidRequest, Unavailable)):
        await contents.read("x" * 300 + ".ipynb")


async def test_mode_bits_are_kept(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    path.chmod(0o640)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "ours")
    assert path.stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("writev", errno.ENOSPC, Unavailable),
        ("fsync", errno.EIO, Unavailable),
        ("replace", errno.EACCES, InvalidRequest),
        ("open", errno.EROFS, InvalidRequest),
    ],
)
async def test_a_failing_disk_is_told_and_leaves_the_file_as_it_was(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, error: Any
) -> None:
    path = put(tmp_path)
    before = path.read_bytes()
    await contents.read("a.ipynb")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(error, match=os.strerror(code)):
            await edit(contents, "a.ipynb", source(1, "ours"))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.ipynb"]
    assert (await contents.read("a.ipynb")).cells[1].source != "ours"
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "ours")
    assert as_json(path)["cells"][1]["source"] == ["ours"]


async def test_a_read_only_file_is_not_replaced(contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "access", lambda *args, **how: False)
    with pytest.raises(InvalidRequest, match="ermission"):
        await edit(contents, "a.ipynb", source(1, "ours"))
    assert path.read_bytes() == before


async def test_a_lock_held_by_another_program_is_waited_for(contents: Any, tmp_path: Path) -> None:
    import fcntl

    path = put(tmp_path)
    await contents.read("a.ipynb")
    with in_place(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(0.2, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        timer.start()
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "ours")
        timer.join()
    assert as_json(path)["cells"][1]["source"] == ["ours"]


async def test_temporary_files_of_a_killed_server_are_swept(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    left = [tmp_path / f"{locks.TEMP_PREFIX}{name}{locks.TEMP_SUFFIX}" for name in ("young", "younger")]
    for place in left:
        place.touch()
    with paths.opened(tmp_path, path) as place, locks.temporary(place) as (ours, _):
        await contents.read("a.ipynb")
        assert names(tmp_path) == [ours.name, "a.ipynb"]


async def test_a_temporary_file_that_is_swept_before_it_is_locked_is_made_anew(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path)
    real_open, swept = os.open, []

    def open_and_sweep(name: Any, flags: int, *args: Any, **how: Any) -> int:
        descriptor = real_open(name, flags, *args, **how)
        if flags & os.O_EXCL and not swept:
            swept.append(name)
            locks.sweep(tmp_path, tmp_path)
        return descriptor

    await contents.read("a.ipynb")
    monkeypatch.setattr(os, "open", open_and_sweep)
    await edit(contents, "a.ipynb", source(1, "ours"))
    assert swept
    assert as_json(path)["cells"][1]["source"] == ["ours"]


# --------------------------------------------------------------------------- size and crashes


@pytest.mark.timeout(180)
async def test_two_thousand_cells_and_50_mb_are_handled(contents: Any, tmp_path: Path) -> None:
    line = "    " + "x" * 96 + "\n"
    cells = [
        {
            "cell_type": "code",
            "execution_count": number,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": stream(line * 250),
            "source": [f"print({number})"],
        }
        for number in range(2_000)
    ]
    path = tmp_path / "a.ipynb"
    value = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(value, indent=1) + "\n")
    before = path.read_bytes()
    assert len(before) > 50e6
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1_000, "print('changed')")
    assert path.read_bytes() == before.replace(b"print(1000)", b"print('changed')")
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.delete_cell(notebook, 0)
    await contents.flush()
    assert len(as_json(path)["cells"]) == 1_999


_WRITER = """
import sys, anyio
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import open_contents
from mcp_server_jupyter.settings import Settings

async def main():
    async with open_contents(Settings.load({"root": sys.argv[1]}, {})) as contents:
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            async with contents.edit("a.ipynb", durable=number % 3 != 0) as notebook:
                notebooks.replace_source(notebook, 1, "x" * (number * 7_919 % 500_000))
            if number == 3:
                print("writing", flush=True)

anyio.run(main)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, text=True)


async def test_a_kill_in_the_middle_of_writing_never_damages_the_file(tmp_path: Path) -> None:
    path = put(tmp_path)
    rest = as_json(path)["cells"][2:]
    for delay in (0.0, 0.003, 0.007, 0.013, 0.021, 0.034):
        process = start_writer(tmp_path)
        assert process.stdout is not None
        with process, process.stdout as lines:
            assert [lines.readline(), lines.readline()] == ["ready\n", "writing\n"]
            await anyio.sleep(delay)
            process.send_signal(signal.SIGKILL)
        cells = as_json(path)["cells"]
        assert cells[2:] == rest
        assert set("".join(cells[1]["source"])) <= {"x"}


# --------------------------------------------------------------------------- whose file it is


async def test_a_notebook_is_taken_over_until_somebody_else_writes_it(contents: Any, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "modern.ipynb", tmp_path / "a.ipynb")
    unread = contents.taken_over("a.ipynb")
    await contents.read("a.ipynb")
    first = contents.identity("a.ipynb")
    await edit(contents, "a.ipynb", source(0, "ours"))
    after_ours = contents.taken_over("a.ipynb")
    shutil.copy(tmp_path / "a.ipynb", tmp_path / "theirs")
    os.replace(tmp_path / "theirs", tmp_path / "a.ipynb")
    after_theirs = contents.taken_over("a.ipynb")
    await contents.read("a.ipynb")

    assert (unread, after_ours, after_theirs) == ("", first, "")
    assert contents.identity("a.ipynb") != first
    assert contents.taken_over("a.ipynb") == contents.identity("a.ipynb")


async def test_a_step_of_a_path_that_becomes_a_link_is_followed_from_then_on(contents: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").mkdir()
    before = contents.resolve("folder/./a.ipynb"), contents.resolve("folder/a.ipynb")
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").symlink_to("real")
    after = contents.resolve("folder/a.ipynb")
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").symlink_to(tmp_path.parent)

    assert before == ("folder/a.ipynb", "folder/a.ipynb")
    assert after == "real/a.ipynb"
    with pytest.raises(OutsideRoot):
        contents.resolve("folder/a.ipynb")
