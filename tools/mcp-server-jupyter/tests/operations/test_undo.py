"""What undo takes back: a whole turn, of one client, and nothing of what came after it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from mcp_server_jupyter.errors import InvalidRequest, Unavailable
from mcp_server_jupyter.notebooks import new_cell, node
from mcp_server_jupyter.operations import Answer, Caller, history
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

NOTEBOOK = "a.ipynb"


def settings(folder: Path, contents: str) -> Settings:
    (folder / "root").mkdir(exist_ok=True)
    given = {"root": folder / "root", "state_dir": folder / "state", "contents": contents, "kernels": "memory"}
    return Settings.load({**given, "notebook": NOTEBOOK}, {})


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(settings(tmp_path, "memory")) as services:
        yield services


class Client:
    """One client of the services."""

    def __init__(self, services: Services, author: str = "agent") -> None:
        self.services, self.caller = services, Caller(author)

    async def __call__(self, operation: str, /, **arguments: Any) -> Answer:
        return await invoke(self.services, operation, arguments, caller=self.caller)

    async def insert(self, source: str, cell_type: str = "markdown", index: int = -1) -> str:
        answer = await self("insert_cell", cell_index=index, cell_type=cell_type, cell_source=source)
        return str(answer.data["cell_id"])


@pytest.fixture
def agent(services: Services) -> Client:
    return Client(services)


async def sources(services: Services) -> list[str]:
    return [cell.source for cell in (await services.contents.read(NOTEBOOK)).cells]


async def add_cells(services: Services, *cells: dict[str, Any]) -> None:
    async with services.contents.edit(NOTEBOOK) as notebook:
        notebook.cells += [node({**new_cell("code", f"cell {at}"), **cell}) for at, cell in enumerate(cells)]


def turn_of(answer: Answer) -> str:
    found = re.search(r'undo\(turn="([^"]+)"\)', answer.text)
    assert found, answer.text
    return found[1]


# ------------------------------------------------------------------ turns


async def test_all_outputs_cleared_by_one_call_come_back_at_once(services: Services, agent: Client) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "x" * 2000}
    await add_cells(services, *({"outputs": [output], "execution_count": at + 1} for at in range(300)))
    before = await services.contents.read(NOTEBOOK)
    await agent("clear_outputs")
    answer = await agent("undo", scope="turn")
    assert answer.data["undone_count"] == 300
    assert (await services.contents.read(NOTEBOOK)) == before


async def test_calls_soon_after_each_other_are_one_turn(services: Services, agent: Client) -> None:
    cell = await agent.insert("one")
    await agent("overwrite_cell_source", cell_source="two", cell_id=cell)
    await agent.insert("three", index=0)
    assert (await agent("undo", scope="turn")).data["undone_count"] == 3
    assert await sources(services) == []


async def test_calls_more_than_two_minutes_apart_are_two_turns(
    services: Services, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 121)
        await agent.insert("long ago")
    await agent.insert("now")
    await agent("undo", scope="turn")
    assert await sources(services) == ["long ago"]
    await agent("undo", scope="turn")
    assert await sources(services) == []


async def test_turns_begun_in_the_same_moment_are_not_mixed(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Client(services, "first"), Client(services, "second")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1.0)
        patch.setattr(time, "time_ns", lambda: 10**9)
        await first.insert("first's")
        await second.insert("second's")
    turns = {edit.author: edit.turn for edit in services.journal.edits(NOTEBOOK)}
    await first("undo", turn=turns["first"])
    assert await sources(services) == ["second's"]


async def test_edits_after_an_undo_are_a_turn_of_their_own(services: Services, agent: Client) -> None:
    await agent.insert("X")
    undone = await agent("undo", scope="turn")
    await agent.insert("Y")
    await agent.insert("Z")
    assert (await agent("undo", scope="turn")).data["undone_count"] == 2
    assert await sources(services) == []
    await agent.insert("W")
    await agent("undo", turn=turn_of(undone))
    assert sorted(await sources(services)) == ["W", "X"], "bringing X back leaves what was written since"


async def test_what_was_brought_back_can_be_undone_again(services: Services, agent: Client) -> None:
    await agent.insert("first")
    undone = await agent("undo", scope="turn")
    await agent.insert("kept")
    await agent("undo", turn=turn_of(undone))
    assert sorted(await sources(services)) == ["first", "kept"]
    await agent("undo", scope="turn")
    assert await sources(services) == ["kept"]


async def test_a_turn_outlives_the_server(tmp_path: Path) -> None:
    async with open_services(settings(tmp_path, "files")) as services:
        cell = await Client(services, "agent#1a").insert("one")
        await Client(services, "agent#2b").insert("another's")
        turn = services.journal.edits(NOTEBOOK, author="agent#1a")[0].turn
    async with open_services(settings(tmp_path, "files")) as services:
        await Client(services, "agent#1a")("overwrite_cell_source", cell_source="two", cell_id=cell)
        undone = await Client(services, "agent#1a")("undo", turn=turn)
        assert undone.data["undone_count"] == 2
        assert await sources(services) == ["another's"]
    async with open_services(settings(tmp_path, "files")) as services:
        await Client(services, "person")("undo", turn=turn_of(undone))
        assert await sources(services) == ["two", "another's"]


# ------------------------------------------------------------------ the last edit


async def test_without_arguments_the_callers_last_edit_is_undone(services: Services, agent: Client) -> None:
    await agent.insert("one")
    await agent.insert("two")
    await Client(services, "person").insert("three")
    await agent("undo")
    assert await sources(services) == ["one", "three"]
    await agent("undo")
    assert await sources(services) == ["three"]
    with pytest.raises(InvalidRequest, match=r"No edits of 'agent'"):
        await agent("undo")


async def test_an_edit_of_many_cells_is_undone_whole(services: Services, agent: Client) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "x"}
    await add_cells(services, *({"outputs": [output], "execution_count": at + 1} for at in range(300)))
    await agent.insert("kept")
    await agent("clear_outputs")
    assert (await agent("undo")).data["undone_count"] == 300
    assert (await sources(services))[-1] == "kept"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("overwrite_cell_source", {"cell_source": "other", "cell_index": 0}),
        ("edit_cell_source", {"old_string": "there", "new_string": "other", "cell_index": 0}),
        ("move_cell", {"cell_index": 0, "to_index": 1}),
        ("delete_cell", {"cell_index": 0}),
        ("insert_cell", {"cell_index": 0, "cell_type": "raw", "cell_source": "new"}),
        ("append_markdown_cell", {"cell_source": "new"}),
        ("clear_outputs", {}),
    ],
)
async def test_every_edit_names_what_takes_it_back(
    services: Services, agent: Client, operation: str, arguments: dict[str, Any]
) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "x"}
    await add_cells(services, {"source": "there", "outputs": [output], "execution_count": 1}, {"source": "too"})
    before = await services.contents.read(NOTEBOOK)
    edited = await agent(operation, **arguments)
    after = await services.contents.read(NOTEBOOK)
    await agent.insert("later")
    undone = await Client(services, "person")("undo", turn=turn_of(edited))
    assert [cell for cell in (await services.contents.read(NOTEBOOK)).cells if cell.source != "later"] == before.cells
    await agent("undo", turn=turn_of(undone))
    assert [cell for cell in (await services.contents.read(NOTEBOOK)).cells if cell.source != "later"] == after.cells


async def test_a_cell_that_was_inserted_and_run_names_what_takes_it_back(services: Services, agent: Client) -> None:
    answer = await agent("append_execute_code_cell", cell_source="1")
    named = re.search(r'undo\(execution_id="([^"]+)"\)', answer.text.splitlines()[0])
    assert named is not None
    await agent("undo", execution_id=named[1])
    assert await sources(services) == []


async def test_an_undo_tells_what_is_gone_with_the_cells_it_removes(services: Services, agent: Client) -> None:
    cell = await agent.insert("print('a')\nprint('b')", "code")
    await agent("execute_cell_with_progress", cell_id=cell)
    answer = await agent("undo")
    assert f"Gone from the notebook: {cell} (code, 2 lines, outputs: stream): print('a')." in answer.text
    await agent("undo", turn=turn_of(answer))
    (there,) = (await services.contents.read(NOTEBOOK)).cells
    assert [output.text for output in there.outputs] == ["a\nb\n"]


@pytest.mark.parametrize("scope", ["edit", "turn"])
async def test_nothing_of_an_earlier_server_is_undone_unless_it_is_named(tmp_path: Path, scope: str) -> None:
    async with open_services(settings(tmp_path, "files")) as services:
        await Client(services).insert("earlier")
    async with open_services(settings(tmp_path, "files")) as services:
        agent = Client(services)
        with pytest.raises(InvalidRequest, match="since the server started") as refused:
            await agent("undo", scope=scope)
        assert await sources(services) == ["earlier"]
        await agent.insert("now")
        await agent("undo", scope=scope)
        assert await sources(services) == ["earlier"]
        named = re.search(r'undo\(turn="([^"]+)"\)', str(refused.value))
        assert named is not None
        await agent("undo", turn=named[1])
        assert await sources(services) == []


# ------------------------------------------------------------------ what is taken back, and what is not


async def test_what_others_did_in_between_stays(services: Services, agent: Client) -> None:
    person = Client(services, "person")
    cell = await agent.insert("a")
    other = await person.insert("b")
    await agent("overwrite_cell_source", cell_source="b2", cell_id=other)
    await person("overwrite_cell_source", cell_source="b3", cell_id=other)
    await agent("overwrite_cell_source", cell_source="b4", cell_id=other)
    await agent("delete_cell", cell_id=cell)
    answer = await agent("undo", scope="turn")
    assert await sources(services) == ["b3"], "the agent's last edit is undone, the person's is not"
    assert answer.data["left_count"] == 1
    assert f"source of {other}: its source is another now" in answer.text


async def test_cells_come_back_to_their_places(services: Services, agent: Client) -> None:
    await add_cells(services, *({"source": text} for text in "abcdef"))
    person = Client(services, "person")
    for index in (0, 0, 2):
        await person("delete_cell", cell_index=index)
    await person("move_cell", cell_index=0, to_index=2)
    await person("edit_cell_source", cell_index=0, old_string="d", new_string="D")
    assert await sources(services) == ["D", "f", "c"]
    undone = await person("undo", scope="turn")
    assert await sources(services) == list("abcdef")
    await agent("undo", turn=turn_of(undone))
    assert await sources(services) == ["D", "f", "c"]


async def test_a_cell_inserted_edited_and_deleted_in_one_turn_leaves_no_trace(
    services: Services, agent: Client
) -> None:
    await add_cells(services, {"source": "there"})
    cell = await agent.insert("one", index=0)
    await agent("overwrite_cell_source", cell_source="two", cell_id=cell)
    await agent("delete_cell", cell_id=cell)
    undone = await agent("undo", scope="turn")
    assert not undone.is_error
    assert await sources(services) == ["there"]
    again = await agent("undo", turn=turn_of(undone))
    assert not again.is_error
    assert await sources(services) == ["there"]


async def test_outputs_of_a_cell_run_since_are_left_alone(services: Services, agent: Client) -> None:
    await add_cells(services, {"source": "print('new')", "outputs": [], "execution_count": 7})
    await agent("clear_outputs", cell_index=0)
    await agent("execute_cell_with_progress", cell_index=0)
    answer = await agent("undo", scope="turn")
    assert answer.is_error
    assert "its outputs are others now" in answer.text
    (cell,) = (await services.contents.read(NOTEBOOK)).cells
    assert [output.text for output in cell.outputs] == ["new\n"]


async def test_one_executions_edits_are_undone_alone(services: Services, agent: Client) -> None:
    await agent.insert("text")
    ran = await agent("append_execute_code_cell", cell_source="1")
    await agent("undo", execution_id=ran.data["execution_id"])
    assert await sources(services) == ["text"]


async def test_two_undos_at_once_take_a_turn_back_once(services: Services, agent: Client) -> None:
    await add_cells(services, {"source": "there"})
    await agent("delete_cell", cell_index=0)
    turn = services.journal.edits(NOTEBOOK)[0].turn
    refused: list[InvalidRequest] = []

    async def undo() -> None:
        try:
            await agent("undo", turn=turn)
        except InvalidRequest as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(undo)
        tasks.start_soon(undo)
    assert await sources(services) == ["there"]
    assert len(refused) == 1


# ------------------------------------------------------------------ authors


async def test_two_clients_of_one_name_undo_their_own_edits(services: Services) -> None:
    first, second = Client(services, "agent#1a"), Client(services, "agent#2b")
    await first.insert("of the first")
    await second.insert("of the second")
    await first("undo", scope="turn")
    assert await sources(services) == ["of the second"]


async def test_a_bare_name_is_understood_when_it_means_one_client(services: Services) -> None:
    first, second, person = (Client(services, name) for name in ("agent#1a", "agent#2b", "person"))
    await first.insert("of the first")
    await person("undo", author="agent")
    assert await sources(services) == []
    await first.insert("of the first")
    await second.insert("of the second")
    await second.insert("of the second too")
    with pytest.raises(InvalidRequest, match="2 clients are called 'agent'") as refused:
        await person("undo", author="agent")
    assert "agent#2b (2), agent#1a (1)" in str(refused.value)
    await person("undo", author="agent#2b", scope="turn")
    assert await sources(services) == ["of the first"]


async def test_a_client_without_edits_is_told_who_has_some(services: Services) -> None:
    await Client(services, "agent#1a").insert("text")
    with pytest.raises(InvalidRequest, match=r"No edits of 'agent#9f'.*Authors with edits here: agent#1a \(1\)\."):
        await Client(services, "agent#9f")("undo", scope="turn")


# ------------------------------------------------------------------ size


async def test_more_than_a_thousand_edits_are_undone_whole_in_a_short_answer_while_others_work(
    services: Services, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(600):
        cell = await agent.insert(f"cell {at}")
        await agent("overwrite_cell_source", cell_source=f"cell {at} again", cell_id=cell)
    ticks = 0
    monkeypatch.setattr(history, "SLICE_SECONDS", 0.0)

    async def others() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        answer = await agent("undo", scope="turn")
        tasks.cancel_scope.cancel()
    assert await sources(services) == []
    assert "Undid 1,200 edit(s) of agent (600 source, 600 insert)" in answer.text
    assert "and 1,190 more" in answer.text
    assert len(answer.text) + len(str(answer.data)) < 2_000
    assert ticks >= 1_200, "others have their turn after every slice"
    await agent("undo", turn=turn_of(answer))
    assert await sources(services) == [f"cell {at} again" for at in range(600)]


async def test_a_cell_edited_often_is_one_entry_of_the_undo(services: Services, agent: Client) -> None:
    await add_cells(services, {"source": "0"})
    for at in range(1, 51):
        await agent("overwrite_cell_source", cell_source=str(at), cell_index=0)
    undone = await agent("undo", scope="turn")
    assert await sources(services) == ["0"]
    (entry,) = services.journal.edits(NOTEBOOK, turn=turn_of(undone))
    assert (entry.before.source, entry.after.source) == ("50", "0")


async def test_the_journal_keeps_no_outputs_of_an_edited_source(services: Services, agent: Client) -> None:
    big = {"output_type": "stream", "name": "stdout", "text": "y" * 100_000}
    await add_cells(services, {"source": "1", "outputs": [big], "execution_count": 1})
    await agent("overwrite_cell_source", cell_source="2", cell_index=0)
    (edit,) = services.journal.edits(NOTEBOOK)
    assert set(edit.before) == set(edit.after) == {"id", "cell_type", "source"}


# ------------------------------------------------------------------ done or refused


async def test_an_edit_that_cannot_be_saved_leaves_no_entry_to_undo(
    services: Services, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.insert("kept")
    await agent.insert("also kept")
    entries = services.journal.edits(NOTEBOOK)
    edit = services.contents.edit

    @asynccontextmanager
    async def full(path: str, **options: Any) -> AsyncIterator[Any]:
        async with edit(path, **options) as notebook:
            yield notebook
            raise Unavailable("No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(services.contents, "edit", full)
        for operation, arguments in {
            "insert_cell": {"cell_index": 0, "cell_type": "raw", "cell_source": "new"},
            "overwrite_cell_source": {"cell_index": 0, "cell_source": "other"},
            "edit_cell_source": {"cell_index": 0, "old_string": "kept", "new_string": "other"},
            "move_cell": {"cell_index": 0, "to_index": 1},
            "delete_cell": {"cell_index": 0},
            "undo": {},
        }.items():
            with pytest.raises(Unavailable):
                await agent(operation, **arguments)
    assert await sources(services) == ["kept", "also kept"]
    assert services.journal.edits(NOTEBOOK) == entries
    await agent("undo", scope="turn")
    assert await sources(services) == []


async def test_an_edit_that_cannot_be_journaled_is_not_made(
    services: Services, agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.insert("kept")

    def full(edits: object) -> None:
        raise Unavailable("The journal cannot be used: database or disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(services.journal, "add_edits", full)
        for operation, arguments in {
            "append_markdown_cell": {"cell_source": "new"},
            "overwrite_cell_source": {"cell_index": 0, "cell_source": "other"},
            "delete_cell": {"cell_index": 0},
            "undo": {},
        }.items():
            with pytest.raises(Unavailable):
                await agent(operation, **arguments)
    assert await sources(services) == ["kept"]
    await agent("undo")
    assert await sources(services) == []


@pytest.mark.parametrize("path", ["", "sub/", ".ipynb", "sub/.ipynb", ".."])
async def test_a_notebook_without_a_name_is_not_made(services: Services, agent: Client, path: str) -> None:
    with pytest.raises(InvalidRequest):
        await agent("create_notebook", notebook_path=path)
    assert [entry.path for entry in await services.contents.list(recursive=True)] == [NOTEBOOK]
