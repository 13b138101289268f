"""A person's save that removed or changed what an agent wrote: told to that agent, once, and undone if wanted."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import nbformat
import pytest

from mcp_server_jupyter.errors import NotFound
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

NOTEBOOK = "a.ipynb"
TOLD = "Since your last call a person"


def settings(folder: Path) -> Settings:
    (folder / "root").mkdir(exist_ok=True)
    given = {"root": folder / "root", "state_dir": folder / "state", "kernels": "memory", "notebook": NOTEBOOK}
    return Settings.load(given, {})


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(settings(tmp_path)) as services:
        yield services


class Agent:
    """One agent of the services, and what it was told."""

    def __init__(self, services: Services, author: str = "agent#1a") -> None:
        self.services, self.author = services, author

    async def __call__(self, operation: str, /, **arguments: Any) -> Answer:
        return await invoke(self.services, operation, arguments, caller=Caller(self.author))

    async def insert(self, source: str, index: int = -1, cell_type: str = "code") -> str:
        answer = await self("insert_cell", cell_index=index, cell_type=cell_type, cell_source=source)
        return str(answer.data["cell_id"])

    async def hears(self) -> str:
        """What stands behind the first line of its next answer."""
        answer = await self("get_notebook_info", notebook_path=NOTEBOOK)
        line = answer.text.split("\n")[1]
        assert line.startswith(f"! {TOLD}") == ("notice" in answer.data)
        return line if "notice" in answer.data else ""

    async def is_told(self) -> str:
        """`hears`, once what the server still writes itself is written: until then it goes on with what it knows."""
        with anyio.fail_after(60):
            while True:
                if told := await self.hears():
                    return told
                await anyio.sleep(0.02)


@pytest.fixture
def agent(services: Services) -> Agent:
    return Agent(services)


class Person:
    """Saves the file as another program does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "root" / NOTEBOOK

    def save(self, change: Callable[[dict[str, Any]], None]) -> None:
        notebook = json.loads(self.path.read_text())
        change(notebook)
        self.path.write_text(json.dumps(notebook, indent=2) + "\n\n")

    def remove(self, *cell_ids: str) -> None:
        self.save(lambda notebook: _keep(notebook, lambda cell: cell["id"] not in cell_ids))

    def write(self, cell_id: str, source: str) -> None:
        self.save(lambda notebook: [cell.update(source=source) for cell in notebook["cells"] if cell["id"] == cell_id])


def _keep(notebook: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]) -> None:
    notebook["cells"] = [cell for cell in notebook["cells"] if wanted(cell)]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def handle(text: str) -> str:
    found = re.search(r'undo\(turn="(e-[^"]+)"\) brings', text)
    assert found, text
    return found[1]


async def sources(services: Services) -> list[str]:
    return [cell.source for cell in (await services.contents.read(NOTEBOOK)).cells]


# ------------------------------------------------------------------ what is told


async def test_a_removed_cell_is_told_once_with_what_brings_it_back(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1\ny = 2")
    person.remove(cell)
    told = await agent.is_told()
    assert f"removed 1 cell of yours, {cell} (x = 1): undo(turn=" in told
    assert await agent.hears() == ""
    await agent("undo", turn=handle(told))
    assert await sources(agent.services) == ["x = 1\ny = 2"]
    assert await agent.hears() == ""


async def test_a_changed_cell_is_told_once(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1")
    person.write(cell, "x = 2")
    assert f"changed 1 cell of yours, {cell}: read before you edit" in await agent.is_told()
    assert await agent.hears() == ""


async def test_cells_between_others_come_back_where_they_were(agent: Agent, person: Person) -> None:
    cells = [await agent.insert(f"cell {number}") for number in range(8)]
    person.remove(cells[0], cells[3], cells[4], cells[7])
    person.save(lambda notebook: notebook["cells"].insert(0, nbformat.v4.new_markdown_cell("A person's")))
    told = await agent.is_told()
    assert "removed 4 cells of yours" in told
    await agent("undo", turn=handle(told))
    assert await sources(agent.services) == [
        "cell 0",
        "A person's",
        *(f"cell {number}" for number in range(1, 8)),
    ]


async def test_a_cell_that_had_run_comes_back_with_its_outputs(agent: Agent, person: Person) -> None:
    answer = await agent("append_execute_code_cell", cell_source="print('seen')")
    await agent.services.contents.flush()
    person.remove(answer.data["cell_id"])
    await agent("undo", turn=handle(await agent.is_told()))
    (cell,) = (await agent.services.contents.read(NOTEBOOK)).cells
    assert [output.text for output in cell.outputs] == ["seen\n"]
    assert cell.execution_count == 1


async def test_a_call_for_a_cell_that_is_gone_says_who_removed_it(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1")
    person.remove(cell)
    with pytest.raises(NotFound) as raised:
        await agent("read_cell", cell_id=cell)
    assert TOLD in str(raised.value)
    assert await agent.hears() == ""


async def test_what_an_agent_overwrites_unread_is_told_and_can_be_put_back(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1")
    person.write(cell, "x = 'a person'")
    answer = await agent("overwrite_cell_source", cell_id=cell, cell_source="x = 3")
    assert f"changed 1 cell of yours, {cell}" in answer.text
    await agent("undo")
    assert await sources(agent.services) == ["x = 'a person'"]


async def test_a_cell_emptied_then_removed_is_told_as_removed(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1")
    other = Agent(agent.services, "other#2b")
    person.write(cell, "")
    await other.hears()
    person.remove(cell)
    told = await agent.is_told()
    assert "removed 1 cell" in told
    assert "changed" not in told


async def test_hundreds_of_removed_cells_are_told_in_a_line_and_come_back_at_once(agent: Agent, person: Person) -> None:
    cells = [await agent.insert(f"value_{number} = {number}" + "#" * 200) for number in range(150)]
    person.remove(*cells)
    told = await agent.is_told()
    assert "removed 150 cells of yours" in told
    assert len(told) < 700
    await agent("undo", turn=handle(told))
    assert len(await sources(agent.services)) == 150


# ------------------------------------------------------------------ what is not told


async def test_a_save_that_only_reformats_is_not_told(agent: Agent, person: Person) -> None:
    await agent("append_execute_code_cell", cell_source="x = 1\nprint(x)")
    await agent.services.contents.flush()

    def reformat(notebook: dict[str, Any]) -> None:
        for cell in notebook["cells"]:
            cell["source"] = ["x = 1  \n", "print(x)\n"]
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"] = {"collapsed": True}
        notebook["metadata"]["language_info"] = {"name": "python"}

    person.save(reformat)
    assert await agent.hears() == ""


async def test_a_program_that_gives_cells_other_ids_is_not_told_of(agent: Agent, person: Person) -> None:
    await agent.insert("x = 1")
    await agent.insert("y = 2")
    person.save(lambda notebook: [cell.update(id=f"new-{at}") for at, cell in enumerate(notebook["cells"])])
    assert await agent.hears() == ""


async def test_edits_of_the_agent_and_of_others_through_the_server_are_not_told(agent: Agent) -> None:
    other = Agent(agent.services, "other#2b")
    first, second = await agent.insert("x = 1"), await agent.insert("y = 2")
    await agent("overwrite_cell_source", cell_id=first, cell_source="x = 3")
    await other("overwrite_cell_source", cell_id=first, cell_source="x = 4")
    await other("delete_cell", cell_id=second)
    await agent("delete_cell", cell_id=first)
    await agent("undo")
    assert await agent.hears() == await other.hears() == ""


async def test_cells_that_only_a_person_wrote_are_not_told(agent: Agent, person: Person) -> None:
    await agent.insert("x = 1")
    person.save(lambda notebook: notebook["cells"].append(nbformat.v4.new_code_cell("mine = 1", id="mine")))
    assert await agent.hears() == ""
    person.write("mine", "mine = 2")
    person.remove("mine")
    assert await agent.hears() == ""


async def test_what_was_brought_back_before_an_agent_heard_of_it_is_not_told(agent: Agent, person: Person) -> None:
    cell = await agent.insert("x = 1")
    other = Agent(agent.services, "other#2b")
    await other("edit_cell_source", cell_id=cell, old_string="1", new_string="2")
    person.remove(cell)
    await other("undo", turn=handle(await other.is_told()))
    assert await agent.hears() == ""


async def test_agents_that_write_at_once_are_told_nothing_of_each_other(services: Services) -> None:
    agents = [Agent(services, f"agent#{number}") for number in range(4)]

    async def work(agent: Agent) -> None:
        for number in range(15):
            cell = await agent.insert(f"{agent.author} {number}")
            assert await agent.hears() == ""
            if number % 3 == 0:
                await agent("delete_cell", cell_id=cell)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for agent in agents:
                tasks.start_soon(work, agent)
    assert {edit.author for edit in services.journal.edits(NOTEBOOK)} == {agent.author for agent in agents}


# ------------------------------------------------------------------ whose it is


async def test_two_agents_are_each_told_once(agent: Agent, person: Person) -> None:
    other, third = Agent(agent.services, "other#2b"), Agent(agent.services, "third#3c")
    cell = await agent.insert("x = 1")
    await other("edit_cell_source", cell_id=cell, old_string="1", new_string="2")
    await third.insert("another")
    person.remove(cell)
    assert await agent.is_told()
    assert await other.is_told()
    assert [await each.hears() for each in (agent, other, third)] == ["", "", ""]


async def test_calls_of_one_agent_at_once_are_told_once_together(agent: Agent, person: Person) -> None:
    person.remove(await agent.insert("x = 1"))
    told: list[str] = []

    async def hear() -> None:
        told.append(await agent.hears())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(hear)
    assert sum(map(bool, told)) == 1


# ------------------------------------------------------------------ servers that end


async def test_what_was_done_while_no_server_ran_is_told_by_the_next(tmp_path: Path, person: Person) -> None:
    async with open_services(settings(tmp_path)) as services:
        cells = [await Agent(services).insert(f"cell {number}") for number in range(3)]
    person.remove(cells[1])
    async with open_services(settings(tmp_path)) as services:
        told = await Agent(services).is_told()
        assert f"removed 1 cell of yours, {cells[1]}" in told
    async with open_services(settings(tmp_path)) as services:
        assert await Agent(services).hears() == "", "told by the server before"
        await Agent(services)("undo", turn=handle(told))
        assert await sources(services) == ["cell 0", "cell 1", "cell 2"]


async def test_an_edit_that_a_killed_server_never_made_is_nobody_elses(tmp_path: Path) -> None:
    async with open_services(settings(tmp_path)) as services:
        kept = await Agent(services).insert("kept")
        before = (tmp_path / "root" / NOTEBOOK).read_text()
        known = services.journal.stands(NOTEBOOK).confirmed
        await Agent(services).insert("never written")
        await Agent(services)("overwrite_cell_source", cell_id=kept, cell_source="never written either")
    # As a kill between the journal and the notebook leaves them.
    (tmp_path / "root" / NOTEBOOK).write_text(before)
    async with open_services(settings(tmp_path)) as services:
        with services.journal._transaction() as db:
            db.execute("UPDATE confirmed SET edit_id = ?", (known,))
        assert await Agent(services).hears() == ""
        (tmp_path / "root" / NOTEBOOK).write_text(before.replace("kept", "changed"))
        assert f"changed 1 cell of yours, {kept}" in await Agent(services).is_told()


async def test_cells_of_an_old_format_are_known_again_by_the_next_server(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    old = nbformat.v4.new_notebook(nbformat_minor=4)
    (tmp_path / "root" / NOTEBOOK).write_text(json.dumps(old))
    async with open_services(settings(tmp_path)) as services:
        await Agent(services).insert("x = 1")
        await Agent(services).insert("y = 2")
    async with open_services(settings(tmp_path)) as services:
        assert await Agent(services).hears() == ""


async def test_a_renamed_notebook_keeps_what_was_written_and_told(agent: Agent, person: Person) -> None:
    journal = agent.services.journal
    cell = await agent.insert("x = 1")
    person.path.rename(person.path.with_name("b.ipynb"))
    agent.services.sessions.renamed(NOTEBOOK, "b.ipynb")
    assert set(journal.stands("b.ipynb").cells) == {cell}
    assert not journal.stands(NOTEBOOK).cells
    person.path = person.path.with_name("b.ipynb")
    person.remove(cell)
    answer = await agent("get_notebook_info", notebook_path="b.ipynb")
    assert TOLD in answer.text
    answer = await agent("get_notebook_info", notebook_path="b.ipynb")
    assert TOLD not in answer.text


async def test_the_journal_forgets_who_was_told_with_what_was_told(agent: Agent, person: Person) -> None:
    person.remove(await agent.insert("x = 1"))
    assert await agent.is_told()
    await agent.services.journal.prune(max_age_days=0, max_bytes=2**30)
    await agent.services.journal.prune(max_age_days=0, max_bytes=2**30)
    journal = agent.services.journal
    assert journal._query("SELECT * FROM confirmed") == []
    assert await agent.hears() == ""
