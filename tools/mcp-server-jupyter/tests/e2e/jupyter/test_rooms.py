"""Notebooks that are live documents of jupyter-collaboration, with others in their rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_settings
from pathlib import Path
from typing import Any

import anyio
import pytest
from lab import PATIENCE, code_cell, on_disk, settings_for, sources, until, write
from pycrdt import Array, Awareness, Doc, read_message

from a_jupyter import Jupyter
from execution.desk import Desk, open_desk, shown
from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.backends.jupyter.rooms import connection as connections
from mcp_server_jupyter.backends.jupyter.rooms import notebook as rooms
from mcp_server_jupyter.backends.jupyter.rooms.connection import AWARENESS, Connection, find_room
from mcp_server_jupyter.backends.jupyter.rooms.notebook import RoomNotebook
from mcp_server_jupyter.backends.jupyter.rooms.outputs import STREAM_CHARACTERS
from mcp_server_jupyter.errors import AlreadyExists, NotFound, Unavailable

pytestmark = pytest.mark.anyio


async def seen(contents: JupyterContents, name: str = "a.ipynb") -> list[str]:
    return [cell.source for cell in (await contents.read(name)).cells]


async def sees(contents: JupyterContents, *wanted: str, name: str = "a.ipynb") -> None:
    async def there() -> bool:
        return await seen(contents, name) == list(wanted)

    await until(there)


async def replace(contents: JupyterContents, source: str, index: int = 0, name: str = "a.ipynb") -> None:
    async with contents.edit(name, author="Ada#1") as notebook:
        notebooks.replace_source(notebook, index, source)


def room_of(contents: JupyterContents, name: str = "a.ipynb") -> RoomNotebook:
    room = contents._open[name]
    assert isinstance(room, RoomNotebook)
    return room


def stream(text: str) -> Any:
    return notebooks.node({"output_type": "stream", "name": "stdout", "text": text})


# ------------------------------------------------------------------ two in a room


async def test_what_one_does_the_other_sees_and_the_file_gets_it(
    jupyter: Jupyter, contents: JupyterContents, person: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    assert await seen(contents) == await seen(person) == ["1", "2"]
    await replace(contents, "ours")
    await sees(person, "ours", "2")
    async with person.edit("a.ipynb") as notebook:
        notebooks.insert_cell(notebook, 1, notebooks.new_cell("markdown", "theirs"))
    await sees(contents, "ours", "theirs", "2")
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
        await person.flush("a.ipynb")
    assert sources(jupyter) == ["ours", "theirs", "2"]


async def test_both_type_in_one_cell_at_once_and_both_stay(
    jupyter: Jupyter, contents: JupyterContents, person: JupyterContents
) -> None:
    write(jupyter, code_cell("one", "a = 1\nb = 2\nc = 3"))
    await seen(contents)
    await seen(person)
    typing: list[JupyterContents] = []
    both = anyio.Event()

    async def types(who: JupyterContents, source: str) -> None:
        async with who.edit("a.ipynb", author="Ada#1") as notebook:
            typing.append(who)
            if len(typing) == 2:
                both.set()
            # Neither has heard of the other's when they begin.
            await both.wait()
            notebooks.replace_source(notebook, 0, source)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(types, contents, "a = 11\nb = 2\nc = 3")
        tasks.start_soon(types, person, "a = 1\nb = 2\nc = 33")
    await sees(contents, "a = 11\nb = 2\nc = 33")
    await sees(person, "a = 11\nb = 2\nc = 33")


async def test_changes_of_others_are_told(jupyter: Jupyter, contents: JupyterContents, person: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    await seen(contents)
    await seen(person)
    changes = contents.changes()
    await replace(person, "theirs")
    with anyio.fail_after(PATIENCE):
        assert await anext(changes) == "a.ipynb"
    await sees(contents, "theirs")


async def test_a_new_notebook_is_a_live_document_from_then_on(jupyter: Jupyter, contents: JupyterContents) -> None:
    await contents.create("new/a.ipynb", notebooks.new_notebook("python3"))
    with pytest.raises(AlreadyExists):
        await contents.create("new/a.ipynb", notebooks.new_notebook("python3"))
    async with contents.edit("new/a.ipynb") as notebook:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", "ours"))
    room_of(contents, "new/a.ipynb")
    with anyio.fail_after(PATIENCE):
        await contents.flush("new/a.ipynb")
    assert "ours" in sources(jupyter, "new/a.ipynb")
    assert on_disk(jupyter, "new/a.ipynb")["metadata"]["kernelspec"]["name"] == "python3"


# ------------------------------------------------------------------ outputs and the file


async def test_a_long_stream_leaves_the_room_small_and_the_file_whole(
    jupyter: Jupyter, contents: JupyterContents, person: JupyterContents, record_property: Callable[[str, Any], None]
) -> None:
    write(jupyter, code_cell("one", "1"))
    await seen(person)
    sink = contents.outputs("a.ipynb", "one")
    line = "a line of 63 characters, as a program prints them while it works"
    sink.append(stream(""))
    text = ""
    for _ in range(300):
        text += f"{line}\n" * 10
        sink.text(0, f"{line}\n" * 10, stream(text))
        await sink.show(None)
    await sink.show(1)
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    assert shown(on_disk(jupyter)["cells"][0]) == text
    joined = await room_of(person)._joined()
    await joined.confirmed()
    size = len(joined.replica.doc.get_update())
    record_property("bytes in the room", f"{size:,} of a stream of {len(text):,}")
    assert size < 2 * len(text)


async def test_outputs_go_to_a_room_at_a_megabyte_a_second(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    await seen(contents)
    sink = contents.outputs("a.ipynb", "one")
    began = anyio.current_time()
    for number in range(4):
        picture = {"image/png": str(number) * 700_000}
        output = notebooks.node({"output_type": "display_data", "data": picture, "metadata": {}})
        sink.append(output) if number == 0 else sink.replace(0, output)
        await sink.show(None)
    assert anyio.current_time() - began > 3 * 0.7
    assert (await contents.read("a.ipynb")).cells[0].outputs == [output]


async def test_others_see_who_is_there_and_whose_autosave_counts(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    await replace(contents, "ours")
    address = await find_room(contents.client, "a.ipynb")
    assert address is not None
    told: list[bytes] = []

    class Listening(Connection):
        def _received(self, message: bytes) -> None:
            if message[0] == AWARENESS:
                told.append(message)
            super()._received(message)

    async def is_told() -> bool:
        aware = Awareness(Doc())
        for message in told:
            aware.apply_awareness_update(read_message(message[1:]), None)
        states = [state for state in aware.states.values() if "user" in state]
        known = [(state["user"]["name"], state["autosave"], "cursors" in state) for state in states]
        return known == [("Ada", False, True)]

    async with anyio.create_task_group() as tasks:
        listening = Listening(contents.client, address, lambda: None)
        tasks.start_soon(listening.run)
        await until(is_told)
        tasks.cancel_scope.cancel()


async def test_the_file_is_saved_while_a_cell_is_busy(jupyter: Jupyter, contents: JupyterContents) -> None:
    """The room would wait for a pause, which never comes."""
    write(jupyter, code_cell("one", "1"))
    sink = contents.outputs("a.ipynb", "one")
    sink.append(stream(""))

    async def busy() -> None:
        text = ""
        while True:
            text += "x"
            sink.text(0, "x", stream(text))
            await sink.show(None)
            await anyio.sleep(0.1)

    async def is_saved() -> bool:
        [cell] = on_disk(jupyter)["cells"]
        return bool(cell["outputs"]) and "x" in shown(cell)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(busy)
        await until(is_saved)
        tasks.cancel_scope.cancel()


async def test_an_edit_outlives_that_the_file_is_overwritten_before_it_was_saved(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_SAVE_SECONDS", 3_600.0)
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    await seen(contents)
    await replace(contents, "ours")
    assert sources(jupyter) == ["1", "2"]
    write(jupyter, code_cell("one", "1"), code_cell("two", "theirs"))
    # The room takes in what is in the file, and forgets what it had.
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    await sees(contents, "ours", "theirs")
    monkeypatch.setattr(rooms, "_SAVE_SECONDS", 0.1)
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    assert sources(jupyter) == ["ours", "theirs"]


# ------------------------------------------------------------------ Jupyter ends, files move


async def test_after_a_crash_of_jupyter_no_cell_is_doubled_and_no_change_is_lost(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "_SAVE_SECONDS", 3_600.0)
    write(jupyter, code_cell("one", "1"), code_cell("two", "2"))
    await seen(contents)
    async with contents.edit("a.ipynb") as notebook:
        notebooks.replace_source(notebook, 0, "ours")
        notebooks.insert_cell(notebook, 1, notebooks.new_cell("code", "new"))
    jupyter.kill()
    write(jupyter, code_cell("one", "1"), code_cell("two", "theirs"))
    jupyter.start()
    await sees(contents, "ours", "new", "theirs")
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    await sees(contents, "ours", "new", "theirs")
    monkeypatch.setattr(rooms, "_SAVE_SECONDS", 0.1)
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    assert sources(jupyter) == ["ours", "new", "theirs"]


async def test_a_jupyter_that_is_away_is_said(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(jupyter, code_cell("one", "1"))
    await seen(contents)
    jupyter.kill()
    monkeypatch.setattr(rooms, "_JOIN_SECONDS", 0.5)

    async def is_said() -> bool:
        try:
            await replace(contents, "lost")
        except Unavailable:
            return True
        return False

    await until(is_said)
    jupyter.start()
    monkeypatch.setattr(rooms, "_JOIN_SECONDS", PATIENCE)
    await replace(contents, "ours")
    with anyio.fail_after(PATIENCE):
        await contents.flush("a.ipynb")
    assert sources(jupyter) == ["ours"]


async def test_a_notebook_that_jupyter_moves_is_followed(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    await replace(contents, "ours")
    # No other test has this name: where a file was deleted behind Jupyter's back, its index of files (a table with
    # unique paths) fails to note that another one is moved there, and then nobody can follow.
    await contents.client.call("PATCH", "api/contents/a.ipynb", {"path": "followed.ipynb"})

    async def is_gone() -> bool:
        try:
            await contents.read("a.ipynb")
        except NotFound:
            return True
        return False

    await until(is_gone)
    # A room that takes the moved file for another program's change shows that, until it gets again what was unsaved.
    await sees(contents, "ours", name="followed.ipynb")
    await replace(contents, "later", name="followed.ipynb")
    with anyio.fail_after(PATIENCE):
        await contents.flush("followed.ipynb")
    assert sources(jupyter, "followed.ipynb") == ["later"]
    assert not (jupyter.root / "a.ipynb").exists()


async def test_what_is_unsaved_goes_with_a_notebook_whose_room_is_not_found_while_it_is_moved(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(jupyter, code_cell("one", "1"))
    await replace(contents, "ours")
    room = room_of(contents)
    connection = room._connection
    assert connection is not None
    # That Jupyter closes a room because it does not find its file takes an unlucky moment: it is said to have, here.
    monkeypatch.setattr(connections, "_closed", lambda *_: NotFound("There is no such file."))
    await contents.client.call("PATCH", "api/contents/a.ipynb", {"path": "moved.ipynb"})
    connection.reset()
    with anyio.fail_after(PATIENCE):
        while room.name != "moved.ipynb":  # noqa: ASYNC110
            await anyio.sleep(0.05)
    await sees(contents, "ours", name="moved.ipynb")
    with anyio.fail_after(PATIENCE):
        await contents.flush("moved.ipynb")
    assert sources(jupyter, "moved.ipynb") == ["ours"]


async def test_a_deleted_notebook_is_said_and_not_made_again(jupyter: Jupyter, contents: JupyterContents) -> None:
    write(jupyter, code_cell("one", "1"))
    await seen(contents)
    await contents.client.call("DELETE", "api/contents/a.ipynb")

    async def is_gone() -> bool:
        try:
            await contents.read("a.ipynb")
        except NotFound:
            return True
        return False

    await until(is_gone)
    with pytest.raises(NotFound):
        await replace(contents, "ours")
    assert not (jupyter.root / "a.ipynb").exists()


async def test_a_room_that_nobody_uses_is_left(
    jupyter: Jupyter, contents: JupyterContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "IDLE_SECONDS", 0.5)
    write(jupyter, code_cell("one", "1"))
    await replace(contents, "ours")
    room = room_of(contents)

    async def is_left() -> bool:
        return not room.is_known

    await until(is_left)
    assert sources(jupyter) == ["ours"]
    assert await seen(contents) == ["ours"]
    assert room_of(contents) is not room


# ------------------------------------------------------------------ the whole server


async def code(desk: Desk, source: str) -> Any:
    answer = await desk.call("append_execute_code_cell", cell_source=source)
    execution = desk.execution(answer)
    await execution.wait_finished(PATIENCE)
    return await desk.call("get_execution", execution_id=execution.id)


async def test_a_person_sees_what_an_agent_runs_and_each_undoes_their_own(
    jupyter: Jupyter, person: JupyterContents, tmp_path: Path
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"))
    async with open_desk(settings_for(jupyter, tmp_path)) as desk:
        await seen(person)
        answer = await code(desk, "print(6 * 7)")
        assert "42" in answer.text
        await sees(person, "theirs = 1", "print(6 * 7)")

        async def has_output() -> bool:
            return [each.text for each in (await person.read("a.ipynb")).cells[1].outputs] == ["42\n"]

        await until(has_output)
        await replace(person, "theirs = 2")
        await sees(desk.services.contents.below, "theirs = 2", "print(6 * 7)")  # type: ignore[attr-defined]
        await desk.call("overwrite_cell_source", cell_index=1, cell_source="changed")
        await sees(person, "theirs = 2", "changed")
        await desk.call("undo")
        await sees(person, "theirs = 2", "print(6 * 7)")
    assert sources(jupyter) == ["theirs = 2", "print(6 * 7)"]


async def test_others_see_that_a_cell_runs_and_the_beginning_of_what_it_prints_then_all(
    jupyter: Jupyter, person: JupyterContents, tmp_path: Path
) -> None:
    write(jupyter, code_cell("one", "theirs = 1"))
    go_on = tmp_path / "go-on"
    count = 400_000
    source = (
        f"import pathlib, time\nprint('x' * {count}, flush=True)\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)\nprint('ended')"
    )
    async with open_desk(settings_for(jupyter, tmp_path, wait_seconds=PATIENCE)) as desk:
        await seen(person)
        await code(desk, "2")
        desk.services.settings = replace_settings(desk.services.settings, wait_seconds=0.0)
        answer = await desk.call("append_execute_code_cell", cell_source=source)

        async def is_cut() -> bool:
            cells = (await person.read("a.ipynb")).cells
            return len(cells) == 3 and "characters more" in shown(cells[2])

        await until(is_cut)
        text = shown((await person.read("a.ipynb")).cells[2])

        async def is_running() -> bool:
            return await state_of(person) == ["idle", "idle", "running"]

        await until(is_running)
        go_on.touch()
        execution = desk.execution(answer)
        await execution.wait_finished(PATIENCE)

        async def is_whole() -> bool:
            return shown((await person.read("a.ipynb")).cells[2]) == "x" * count + "\nended\n"

        await until(is_whole)

        async def is_idle() -> bool:
            return await state_of(person) == ["idle", "idle", "idle"]

        await until(is_idle)
    assert STREAM_CHARACTERS < len(text) < STREAM_CHARACTERS + 200
    assert shown(on_disk(jupyter)["cells"][2]) == "x" * count + "\nended\n"


async def state_of(contents: JupyterContents) -> list[str]:
    """What live documents say of each cell besides."""
    connection = await room_of(contents)._joined()
    return [cell.get("execution_state") or "idle" for cell in connection.replica.doc.get("cells", type=Array)]
