"""Notebooks that are open in an editor: one notebook for everybody, whatever becomes of the window."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.live import open_contents, windows
from mcp_server_jupyter.errors import Conflict, InvalidRequest, NotFound, Stale, Unavailable
from mcp_server_jupyter.settings import Settings
from typist import Typist, code

pytestmark = pytest.mark.anyio


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that have gone are waited for only briefly."""
    monkeypatch.setattr(windows, "AWAY_SECONDS", 0.3)


@contextmanager
def no_patience() -> Iterator[None]:
    """Windows that do not answer are waited for only briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "REPLY_SECONDS", 0.3)
        patch.setattr(windows, "DEADLINE_SECONDS", 0.2)
        yield


@pytest.fixture
async def contents(tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "a.ipynb").write_text(json.dumps(file_of(code("c0", "zero"), code("c1", "one"))))
    async with open_contents(Settings.load({"root": tmp_path}, {})) as opened:
        yield opened


@pytest.fixture
async def typist(contents: Any, tmp_path: Path) -> AsyncIterator[Typist]:
    async with at_work(contents, tmp_path) as typist:
        await typist.open()
        yield typist


@asynccontextmanager
async def at_work(contents: Any, folder: Path, window: str = "w1") -> AsyncIterator[Typist]:
    typist = Typist(contents, folder / "a.ipynb", window)
    typist.join()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(typist.run)
        yield typist
        tasks.cancel_scope.cancel()
    typist.end()


def file_of(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def stream(text: str) -> Any:
    return notebooks.node({"output_type": "stream", "name": "stdout", "text": text})


def in_file(typist: Typist) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(typist.file.read_text())["cells"]]


async def seen(contents: Any) -> list[str]:
    return [cell.source for cell in (await contents.read("a.ipynb")).cells]


async def overwrite(contents: Any, index: int, source: str) -> None:
    async with contents.edit("a.ipynb", author="agent") as notebook:
        notebooks.replace_source(notebook, index, source)


async def eventually(check: Any) -> None:
    with anyio.fail_after(60):
        while not check():  # noqa: ASYNC110
            await anyio.sleep(0.01)


# ------------------------------------------------------------------ while a window owns it


async def test_what_is_typed_is_read_before_it_is_saved(contents: Any, typist: Typist) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    typist.typed({"op": "insert", "index": 2, "cell": code("new", "more")})
    await typist.work()
    assert await seen(contents) == ["typed", "one", "more"]
    assert in_file(typist) == ["zero", "one"]


async def test_an_edit_goes_to_the_window_and_not_beneath_it(contents: Any, typist: Typist) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    async with contents.edit("a.ipynb", author="agent") as notebook:
        notebooks.replace_source(notebook, 1, "of the agent")
        notebooks.insert_cell(notebook, 0, notebooks.new_cell("markdown", "# Title"))
    assert typist.sources() == ["# Title", "typed", "of the agent"] == await seen(contents)
    assert in_file(typist) == ["zero", "one"]
    await typist.save()
    assert in_file(typist) == typist.sources()


async def test_an_edit_is_merged_with_what_is_typed_while_it_is_on_its_way(contents: Any, typist: Typist) -> None:
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 1, "of the agent")
        notebooks.delete_cell(notebook, 0)
        typist.typed({"op": "insert", "index": 1, "cell": code("new", "typed")})
    assert typist.sources() == ["typed", "of the agent"] == await seen(contents)


async def test_the_same_cell_changed_in_two_ways_is_a_conflict_and_the_persons_stays(
    contents: Any, typist: Typist
) -> None:
    async def edit() -> None:
        async with contents.edit("a.ipynb") as notebook:
            notebooks.replace_source(notebook, 0, "of the agent")
            typist.typed({"op": "source", "id": "c0", "source": "typed"})

    with pytest.raises(Conflict) as clash:
        await edit()
    assert "-typed" in clash.value.diff
    assert typist.sources() == ["typed", "one"] == await seen(contents)


async def test_an_edit_that_raises_asks_the_window_for_nothing(contents: Any, typist: Typist) -> None:
    async def edit() -> None:
        async with contents.edit("a.ipynb") as notebook:
            notebooks.delete_cell(notebook, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await edit()
    assert typist.sources() == ["zero", "one"]
    assert typist.applied == 0


async def test_outputs_of_a_run_are_seen_and_no_edit_asks_for_them(contents: Any, typist: Typist) -> None:
    sink = contents.outputs("a.ipynb", "c1")
    sink.append(stream("hello\n"))
    assert (await sink.show(1)).outputs[0].text == "hello\n"
    assert (await contents.read("a.ipynb")).cells[1].execution_count == 1
    assert typist.applied == typist.refused == 0
    assert json.loads(typist.file.read_text())["cells"][1]["outputs"] == []


async def test_outputs_are_durable_for_those_who_wait_once_the_window_has_saved_them(
    contents: Any, typist: Typist
) -> None:
    sink = contents.outputs("a.ipynb", "c1")
    sink.append(stream("hello\n"))
    await sink.show(1)
    durable = anyio.Event()

    async def wait() -> None:
        await contents.flush("a.ipynb", urgent=False)
        durable.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.fail_after(60):
            await contents.flush("a.ipynb")
        await typist.save()
        assert not durable.is_set()
        typist.cells[1] |= {"outputs": [{"text": ["hello\n"], "name": "stdout", "output_type": "stream"}]}
        typist.cells[1]["execution_count"] = 1
        await typist.save()
        with anyio.fail_after(60):
            await durable.wait()


async def test_outputs_that_the_person_clears_are_gone(contents: Any, typist: Typist) -> None:
    sink = contents.outputs("a.ipynb", "c1")
    sink.append(stream("hello\n"))
    await sink.show(1)
    typist.typed({"op": "outputs", "id": "c1", "outputs": [], "execution_count": None})
    await typist.work()
    assert (await contents.read("a.ipynb")).cells[1].outputs == []
    await typist.windows.close("w1", "a.ipynb")
    assert json.loads(typist.file.read_text())["cells"][1]["outputs"] == []


async def test_a_change_that_does_not_fit_is_stale_and_changes_nothing(contents: Any, typist: Typist) -> None:
    ops = [{"op": "source", "id": "c0", "source": "x"}]
    for base, version, wrong in [
        (99, 100, ops),
        (1, 1, ops),
        (1, 2, [{"op": "source", "id": "gone", "source": "x"}]),
        (1, 2, [{"op": "source", "id": "c0", "hash": "0" * 12, "source": "x"}]),
        (1, 2, [{"op": "insert", "index": 9, "cell": code("new", "x")}]),
        (1, 2, [{"op": "insert", "index": 0, "cell": code("c0", "x")}]),
    ]:
        with pytest.raises(Stale):
            await contents.windows.change("w1", "a.ipynb", base=base, version=version, ops=wrong)
    malformed: list[Any] = [
        {"op": "paint"},
        {},
        {"op": "source", "id": "c0"},
        {"op": "insert", "index": "0", "cell": {}},
    ]
    malformed += [{"op": "insert", "index": 0, "cell": {"id": "n", "cell_type": "code"}}, {"op": "move", "id": "c0"}]
    for op in malformed:
        with pytest.raises((InvalidRequest, Stale)):
            await contents.windows.change("w1", "a.ipynb", base=1, version=2, ops=[op])
    assert await seen(contents) == ["zero", "one"]


async def test_cells_without_ids_get_those_of_the_cells_they_continue(contents: Any, tmp_path: Path) -> None:
    contents.windows.joined("w1")
    cells = [code("", "zero"), code("", "between"), code("", "one")]
    given = {**file_of(*({k: v for k, v in cell.items() if k != "id"} for cell in cells)), "nbformat_minor": 4}
    answer = await contents.windows.open("w1", "a.ipynb", notebook=given)
    ids = [cell["id"] for cell in answer["cells"]]
    assert (ids[0], ids[2]) == ("c0", "c1")
    assert len(set(ids)) == 3
    with pytest.raises(InvalidRequest):
        await contents.windows.open("w1", "a.ipynb", notebook={"cells": 1})
    with pytest.raises(NotFound):
        await contents.windows.open("w1", "gone.ipynb")


# ------------------------------------------------------------------ windows that do not answer, or go


async def test_a_window_that_does_not_answer_is_said_and_nothing_has_changed(contents: Any, typist: Typist) -> None:
    typist.answers = False
    with no_patience(), pytest.raises(Unavailable):
        await overwrite(contents, 0, "of the agent")
    assert await seen(contents) == ["zero", "one"]
    await anyio.sleep(0.3)  # until the request is too late
    typist.answers = True
    typist.typed({"op": "source", "id": "c1", "source": "typed"})
    await typist.work()
    assert typist.sources() == ["zero", "typed"] == await seen(contents)


async def test_an_edit_whose_reply_is_lost_is_taken_back_once_it_was_refused(contents: Any, typist: Typist) -> None:
    typist.answers = False
    with no_patience(), pytest.raises(Unavailable):
        await overwrite(contents, 0, "of the agent")
    # The window did apply it, and could not say so.
    (late,) = typist.edits
    late["deadline"] += 100
    typist.answers = True
    await typist.work()
    await eventually(lambda: typist.sources() == ["zero", "one"])
    assert await seen(contents) == ["zero", "one"]
    await overwrite(contents, 0, "again")
    assert typist.sources() == ["again", "one"] == await seen(contents)


async def test_a_lost_reply_is_settled_by_the_next_open(contents: Any, typist: Typist) -> None:
    typist.answers = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(overwrite, contents, 0, "of the agent")
        await eventually(lambda: typist.edits)
        typist.cells[0]["source"] = "of the agent"
        typist.dirty = True
        typist.leave()
        typist.join()
        await typist.open()
    assert typist.sources() == ["of the agent", "one"] == await seen(contents)


async def test_an_edit_waits_for_a_window_that_comes_back(contents: Any, typist: Typist) -> None:
    typist.typed({"op": "source", "id": "c1", "source": "typed"})
    await typist.work()
    typist.leave()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(overwrite, contents, 0, "of the agent")
        await anyio.wait_all_tasks_blocked()
        assert await seen(contents) == ["zero", "typed"]
        typist.join()
        await typist.open()
    assert typist.sources() == ["of the agent", "typed"] == await seen(contents)
    assert in_file(typist) == ["zero", "one"]


async def test_outputs_that_came_while_it_was_away_are_told_a_window_that_comes_back(
    contents: Any, typist: Typist
) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    await typist.work()
    typist.leave()
    sink = contents.outputs("a.ipynb", "c1")
    sink.append(stream("hello\n"))
    await sink.show(1)
    typist.join()
    answer = await typist.open()
    assert [op["op"] for op in answer["ops"]] == ["outputs"]
    assert typist.cells[1]["outputs"][0]["text"] == "hello\n"
    assert (await contents.read("a.ipynb")).cells[0].source == "typed"


async def test_the_file_gets_what_others_did_and_not_what_was_typed_once_the_window_is_gone(
    contents: Any, typist: Typist, away: None
) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    typist.typed({"op": "insert", "index": 0, "cell": code("mine", "typed too")})
    await typist.work()
    await overwrite(contents, 2, "of the agent")
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 1, notebooks.new_cell("markdown", "# Of the agent"))
    sink = contents.outputs("a.ipynb", "c1")
    sink.append(stream("hello\n"))
    await sink.show(1)
    typist.leave()
    await eventually(lambda: typist.leases["a.ipynb"] is None)
    assert in_file(typist) == ["# Of the agent", "zero", "of the agent"]
    assert json.loads(typist.file.read_text())["cells"][2]["outputs"][0]["text"] == ["hello\n"]
    assert await seen(contents) == in_file(typist)
    # It comes back, with what was typed: nothing of it is lost, and nothing of the others' doubled.
    await overwrite(contents, 0, "# Changed since")
    typist.join()
    await typist.open()
    assert typist.sources() == ["typed too", "# Changed since", "typed", "of the agent"] == await seen(contents)


async def test_a_window_that_was_away_too_long_keeps_its_own_text_and_is_told_the_others(
    contents: Any, typist: Typist, away: None
) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    await typist.work()
    typist.leave()
    await eventually(lambda: typist.leases["a.ipynb"] is None)
    await overwrite(contents, 0, "of the agent")
    await overwrite(contents, 1, "of the agent, too")
    typist.join()
    answer = await typist.open()
    assert answer["clashes"] == [{"id": "c0", "source": "of the agent"}]
    assert typist.sources() == ["typed", "of the agent, too"] == await seen(contents)
    await typist.save()
    assert (await typist.open())["clashes"] == []


async def test_closing_without_saving_keeps_what_others_did(contents: Any, typist: Typist) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    await overwrite(contents, 1, "of the agent")
    await contents.windows.close("w1", "a.ipynb")
    assert in_file(typist) == ["zero", "of the agent"] == await seen(contents)
    await overwrite(contents, 0, "in the file")
    assert in_file(typist) == ["in the file", "of the agent"]


async def test_a_cell_of_an_agents_that_the_person_deleted_does_not_come_back(contents: Any, typist: Typist) -> None:
    async with contents.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 0, notebooks.new_cell("code", "of the agent"))
    typist.typed({"op": "delete", "id": typist.cells[0]["id"]})
    await typist.work()
    await contents.windows.close("w1", "a.ipynb")
    assert in_file(typist) == ["zero", "one"]


async def test_an_edit_that_is_under_way_when_the_window_closes_is_made_in_the_file(
    contents: Any, typist: Typist
) -> None:
    typist.answers = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(overwrite, contents, 0, "of the agent")
        await eventually(lambda: typist.edits)
        await contents.windows.close("w1", "a.ipynb")
    assert in_file(typist) == ["of the agent", "one"] == await seen(contents)


async def test_what_is_owed_is_written_before_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(json.dumps(file_of(code("c0", "zero"), code("c1", "one"))))
    async with open_contents(Settings.load({"root": tmp_path}, {})) as contents, at_work(contents, tmp_path) as typist:
        await typist.open()
        await overwrite(contents, 0, "of the agent")
        typist.leave()
    assert in_file(typist) == ["of the agent", "one"]


async def test_a_full_disk_is_waited_for(contents: Any, typist: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    await overwrite(contents, 0, "of the agent")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mcp_server_jupyter.backends.files.disk.replace", full)
        patch.setattr("mcp_server_jupyter.backends.live.contents._RETRY_SECONDS", 0.05)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(contents.windows.close, "w1", "a.ipynb")
            await anyio.sleep(0.2)
            assert await seen(contents) == ["of the agent", "one"]
            patch.undo()
    assert in_file(typist) == ["of the agent", "one"]


# ------------------------------------------------------------------ from one server to the next


@asynccontextmanager
async def second_server(folder: Path, typist: Typist) -> AsyncIterator[Any]:
    """Contents that were told who owned the notebook, after `recovering` put an output and a cell into it."""
    async with open_contents(Settings.load({"root": folder}, {})) as contents:
        stop = contents.windows.listen(typist.heard)
        async with contents.windows.recovering({"a.ipynb": "w1", "gone.ipynb": "w1"}):
            async with contents.edit("a.ipynb") as notebook:
                notebooks.set_outputs(notebook, 1, [stream("while nobody served\n")], 7)
                notebooks.insert_cell(notebook, 2, notebooks.new_cell("code", "of the agent"))
            assert contents.windows.leases() == {"a.ipynb": "w1"}
        yield contents
        stop()


async def test_a_window_gets_from_the_next_server_what_it_has_missed_and_the_file_stays_as_it_was(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps(file_of(code("c0", "zero"), code("c1", "one"))))
    as_it_was = file.read_bytes()
    async with open_contents(Settings.load({"root": tmp_path}, {})) as first:
        typist = Typist(first, file)
        typist.join()
        await typist.open()
        typist.typed({"op": "source", "id": "c0", "source": "typed"})
        await typist.work()
        first.windows.hand_over()
    assert file.read_bytes() == as_it_was
    async with second_server(tmp_path, typist) as second:
        typist.contents, typist.windows = second, second.windows
        typist.join()
        sink = second.outputs("a.ipynb", "c0")
        sink.append(stream("of a cell that runs on\n"))
        await sink.show(8)
        assert file.read_bytes() == as_it_was
        answer = await typist.open()
        assert answer["owner"] == "w1"
        assert typist.sources() == ["typed", "one", "of the agent"] == await seen(second)
        assert [cell["execution_count"] for cell in typist.cells] == [8, 7, None]
        assert file.read_bytes() == as_it_was
        await typist.save()
        with anyio.fail_after(10):
            await second.flush("a.ipynb", urgent=False)


async def test_the_file_gets_it_where_no_window_comes_to_the_next_server(tmp_path: Path, away: None) -> None:
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps(file_of(code("c0", "zero"), code("c1", "one"))))
    async with open_contents(Settings.load({"root": tmp_path}, {})) as first:
        typist = Typist(first, file)
    async with second_server(tmp_path, typist) as second:
        with anyio.fail_after(10):
            await second.flush("a.ipynb", urgent=False)
            await eventually(lambda: typist.leases.get("a.ipynb", "w1") is None)
        assert typist.leases["gone.ipynb"] is None
    assert in_file(typist) == ["zero", "one", "of the agent"]
    assert json.loads(file.read_text())["cells"][1]["execution_count"] == 7


async def test_a_server_that_hands_over_says_that_nothing_was_written(contents: Any, typist: Typist) -> None:
    await overwrite(contents, 0, "of the agent")
    contents.windows.hand_over()
    typist.leave()
    with pytest.raises(Unavailable):
        await contents.flush()
    assert in_file(typist) == ["zero", "one"]


# ------------------------------------------------------------------ two windows


async def test_a_second_window_observes_and_inherits(contents: Any, typist: Typist, tmp_path: Path, away: None) -> None:
    async with at_work(contents, tmp_path, "w2") as second:
        answer = await second.open()
        assert answer["owner"] == "w1"
        await overwrite(contents, 0, "of the agent")
        assert typist.sources()[0] == "of the agent"
        assert second.sources()[0] == "zero"
        typist.typed({"op": "source", "id": "c1", "source": "typed and lost"})
        await typist.work()
        typist.leave()
        await eventually(lambda: second.leases.get("a.ipynb") == "w2")
        answer = await second.open()
        assert answer["owner"] == "w2"
        assert second.sources() == ["of the agent", "one"] == await seen(contents)
        await overwrite(contents, 1, "of the agent, too")
        assert second.sources() == ["of the agent", "of the agent, too"]


async def test_an_heir_that_says_nothing_is_passed_over(
    contents: Any, typist: Typist, tmp_path: Path, away: None
) -> None:
    async with at_work(contents, tmp_path, "w2") as second:
        await second.open()
        await overwrite(contents, 0, "of the agent")
        await contents.windows.close("w1", "a.ipynb")
        await eventually(lambda: second.leases.get("a.ipynb") is None)
    assert in_file(typist) == ["of the agent", "one"]


async def test_a_renamed_notebook_stays_the_windows(contents: Any, typist: Typist, tmp_path: Path) -> None:
    typist.typed({"op": "source", "id": "c0", "source": "typed"})
    await typist.work()
    typist.file.rename(tmp_path / "b.ipynb")
    assert await contents.windows.renamed("w1", "./a.ipynb", "b.ipynb") == ("a.ipynb", "b.ipynb")
    assert [cell.source for cell in (await contents.read("b.ipynb")).cells] == ["typed", "one"]
    with pytest.raises(NotFound):
        await contents.read("a.ipynb")
