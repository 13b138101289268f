"""What an edit of a notebook does to a live document, and what others' edits do to the notebook. No server."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, StickyIndex, Text

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.rooms.replica import Replica, changed_place
from mcp_server_jupyter.backends.jupyter.rooms.texts import merged, spliced, splices
from mcp_server_jupyter.errors import Conflict

UPDATE = 2


class Person:
    """Somebody's own document of the same room: what both do is exchanged when it is asked for."""

    def __init__(self, *sources: str) -> None:
        self.doc: Doc[Any] = Doc()
        self.cells: Array[Any] = self.doc.get("cells", type=Array)
        self.meta: Map[Any] = self.doc.get("meta", type=Map)
        self.ours: list[bytes] = []
        self.told = 0
        with self.doc.transaction():
            self.meta.update({"nbformat": 4.0, "nbformat_minor": 5.0, "metadata": Map({})})
            for number, source in enumerate(sources):
                self.cells.append(ycell(f"c{number}", source))
        self.replica = Replica(self.ours.append, self._hear)
        self._receive(self.doc.get_update())
        self._known = self.doc.get_state()

    def _hear(self) -> None:
        self.told += 1

    def _receive(self, update: bytes) -> None:
        from pycrdt import create_update_message

        self.replica.receive(create_update_message(update)[1:])

    def exchange(self) -> None:
        theirs, self._known = self.doc.get_update(self._known), self.doc.get_state()
        sent, self.ours[:] = list(self.ours), []
        self._receive(theirs)
        for update in sent:
            self.doc.apply_update(update)
        self._known = self.doc.get_state()

    def text(self, index: int) -> Text:
        found: Text = self.cells[index]["source"]
        return found

    @property
    def sources(self) -> list[str]:
        return [str(cell["source"]) for cell in self.cells]


def ycell(cell_id: str, source: str, **more: Any) -> Map[Any]:
    value = {"id": cell_id, "cell_type": "code", "source": Text(source), "metadata": Map({}), "outputs": Array([])}
    return Map({**value, "execution_count": None, "execution_state": "idle", **more})


def edit(replica: Replica, *changes: Callable[[Any], object]) -> None:
    before = replica.snapshot()
    copy = notebooks.shallow(before, cells=list(before.cells))
    for change in changes:
        change(copy)
    replica.apply(before, notebooks.settle(copy, before.cells))


def sources(replica: Replica) -> list[str]:
    return [cell.source for cell in replica.snapshot().cells]


def output(text: str) -> Any:
    return notebooks.node({"output_type": "stream", "name": "stdout", "text": text})


def test_a_live_document_is_read_as_a_notebook() -> None:
    person = Person("1", "é\n2")
    notebook = person.replica.snapshot()
    assert (notebook.nbformat, notebook.nbformat_minor, type(notebook.nbformat)) == (4, 5, int)
    assert [(cell.id, cell.source, cell.outputs) for cell in notebook.cells] == [("c0", "1", []), ("c1", "é\n2", [])]
    assert "execution_state" not in notebook.cells[0]


def test_cells_that_nobody_has_changed_stay_the_same_objects() -> None:
    person = Person("1", "2", "3")
    before = person.replica.snapshot()
    person.text(1).insert(0, "theirs")
    person.exchange()
    after = person.replica.snapshot()
    assert [old is new for old, new in zip(before.cells, after.cells, strict=True)] == [True, False, True]
    edit(person.replica, lambda n: notebooks.replace_source(n, 0, "ours"))
    assert person.replica.snapshot().cells[2] is before.cells[2]
    assert person.told == 2


def test_a_person_who_types_elsewhere_in_the_same_cell_keeps_what_they_type() -> None:
    person = Person("a = 1\nb = 2\nc = 3 # é\n")
    edit(person.replica, lambda n: notebooks.replace_source(n, 0, "a = 1\nb = 2\nc = 33 # é\n"))
    person.text(0).insert(0, "# theirs\n")
    person.exchange()
    assert person.sources == sources(person.replica) == ["# theirs\na = 1\nb = 2\nc = 33 # é\n"]


def test_an_edit_that_began_before_a_person_typed_is_made_around_it_or_refused() -> None:
    person = Person("a = 1\nb = 2\n")
    before = person.replica.snapshot()
    person.text(0).insert(0, "# theirs\n")
    person.exchange()
    ours = notebooks.shallow(before, cells=[notebooks.shallow(before.cells[0], source="a = 1\nb = 22\n")])
    person.replica.apply(before, ours)
    assert sources(person.replica) == ["# theirs\na = 1\nb = 22\n"]

    before = person.replica.snapshot()
    at = str(person.text(0)).index("a = 1") + len("a = ")
    del person.text(0)[at : at + 1]
    person.text(0).insert(at, "7")
    person.exchange()
    changed = person.replica.snapshot()
    cell = notebooks.shallow(before.cells[0], source=before.cells[0].source.replace("a = 1", "a = 9"))
    with pytest.raises(Conflict) as caught:
        person.replica.apply(before, notebooks.shallow(before, cells=[cell]))
    assert "-a = 7" in caught.value.diff
    assert person.replica.snapshot() is changed


def test_what_a_person_undoes_is_theirs_and_ours_stays() -> None:
    from pycrdt import UndoManager

    person = Person("1", "2")
    undo = UndoManager(scopes=[person.cells], capture_timeout_millis=0)
    # As JupyterLab does: what has another origin is not its to undo.
    undo.include_origin("person")
    with person.doc.transaction(origin="person"):
        person.text(1).insert(0, "theirs ")
    edit(
        person.replica,
        lambda n: notebooks.replace_source(n, 0, "ours"),
        lambda n: notebooks.insert_cell(n, -1, notebooks.new_cell("code", "new")),
    )
    person.exchange()
    assert person.sources == ["ours", "theirs 2", "new"]
    assert undo.undo()
    assert not undo.undo()
    assert person.sources == ["ours", "2", "new"]


def test_cells_are_inserted_moved_deleted_and_retyped_by_id() -> None:
    person = Person("0", "1", "2", "3")
    before = person.replica.snapshot()
    edit(
        person.replica,
        lambda n: n.cells.append(n.cells.pop(0)),
        lambda n: n.cells.pop(0),
        lambda n: n.cells.insert(0, notebooks.new_cell("markdown", "# new")),
    )
    person.text(2).insert(0, "theirs ")
    person.exchange()
    after = person.replica.snapshot()
    assert person.sources == sources(person.replica) == ["# new", "theirs 2", "3", "0"]
    assert [cell.id for cell in after.cells[1:]] == ["c2", "c3", "c0"]
    assert after.cells[2] is before.cells[3]
    retyped = notebooks.shallow({"id": "c3", "cell_type": "markdown", "source": "text", "metadata": {}})
    edit(person.replica, lambda n: n.cells.__setitem__(2, retyped))
    person.exchange()
    assert person.cells[2].to_py() == {"id": "c3", "cell_type": "markdown", "source": "text", "metadata": {}}


def test_metadata_are_changed_key_by_key() -> None:
    person = Person("1")
    person.cells[0]["metadata"]["theirs"] = True
    person.exchange()
    before = person.replica.snapshot().cells[0]
    metadata = notebooks.node({**before.metadata, "tags": ["x"], "count": 3})
    edit(
        person.replica,
        lambda n: n.cells.__setitem__(0, notebooks.shallow(before, metadata=metadata)),
        lambda n: n.__setitem__("metadata", notebooks.node({"language_info": {"name": "python"}})),
    )
    person.exchange()
    assert person.cells[0]["metadata"].to_py() == {"theirs": True, "tags": ["x"], "count": 3.0}
    assert person.replica.snapshot().cells[0].metadata["count"] == 3
    assert person.replica.snapshot().metadata.language_info.name == "python"


def test_two_cells_of_one_id_are_one_or_get_two() -> None:
    person = Person("1", "2")
    person.cells.append(ycell("c0", "1"))
    person.cells.append(ycell("c1", "another"))
    person.exchange()
    notebook = person.replica.snapshot()
    assert [cell.source for cell in notebook.cells] == ["1", "2", "another"]
    assert len({cell.id for cell in notebook.cells}) == 3


@pytest.mark.parametrize("text", ["a line of 64 characters, as a program prints them while it works\n", "■■■■■ 5%\r"])
def test_a_stream_that_grows_leaves_a_document_not_much_bigger_than_itself(text: str) -> None:
    """Written anew each time, 190 kB leave 27 MB."""
    person = Person("1")
    shown = ""
    for _ in range(300):
        shown += text * 10
        edit(person.replica, lambda n: notebooks.set_outputs(n, 0, [output(shown)], 1))  # noqa: B023
        person.exchange()
    assert str(person.cells[0]["outputs"][0]["text"]) == shown
    size = len(shown.encode())
    assert len(person.doc.get_update()) < 2 * size + 10_000
    assert len(person.replica.doc.get_update()) < 2 * size + 10_000


def test_outputs_that_are_the_same_are_not_sent_again() -> None:
    person = Person("1")
    picture = notebooks.node({"output_type": "display_data", "data": {"image/png": "x" * 100_000}, "metadata": {}})
    edit(person.replica, lambda n: notebooks.set_outputs(n, 0, [picture, output("a")], 1))
    person.exchange()
    edit(person.replica, lambda n: notebooks.set_outputs(n, 0, [picture, output("ab"), output("c")], 1))
    assert sum(map(len, person.ours)) < 1_000
    person.exchange()
    assert [each["output_type"] for each in person.cells[0]["outputs"]] == ["display_data", "stream", "stream"]
    edit(person.replica, lambda n: notebooks.set_outputs(n, 0, [output("new")], 2))
    person.exchange()
    assert person.replica.snapshot().cells[0].outputs == [output("new")]
    assert person.cells[0]["metadata"]["trusted"] is True
    assert "trusted" not in person.replica.snapshot().cells[0].metadata


def test_outputs_that_are_plain_values_are_read_and_replaced() -> None:
    person = Person("1")
    person.cells[0]["outputs"].append({"output_type": "stream", "name": "stdout", "text": "plain"})
    person.exchange()
    assert person.replica.snapshot().cells[0].outputs == [output("plain")]
    edit(person.replica, lambda n: notebooks.set_outputs(n, 0, [output("plain and more")], 1))
    assert person.replica.snapshot().cells[0].outputs == [output("plain and more")]


def test_an_edit_that_comes_again_changes_what_is_not_there_yet() -> None:
    person = Person("1", "2")
    before = person.replica.snapshot()
    edit(
        person.replica,
        lambda n: notebooks.replace_source(n, 0, "ours"),
        lambda n: notebooks.insert_cell(n, -1, notebooks.new_cell("code", "new")),
    )
    after = person.replica.snapshot()
    assert person.replica.apply_again(before, after) == []
    assert sources(person.replica) == ["ours", "2", "new"]

    # A room that was built anew from a file that somebody else has changed.
    other = Person("1", "theirs")
    assert other.replica.apply_again(before, after) == []
    assert sources(other.replica) == ["ours", "theirs", "new"]
    clashing = Person("another")
    assert len(clashing.replica.apply_again(before, after)) == 1
    assert sources(clashing.replica) == ["another", "new"]


def test_a_room_that_has_lost_its_last_updates_gets_the_very_same_again() -> None:
    room = Person("theirs = 1", "other = 2")
    room.replica.begin()
    edit(room.replica, lambda n: notebooks.insert_cell(n, 2, notebooks.new_cell("code", "before = 3")))
    stored = room.replica.doc.get_update()
    first = room.replica.snapshot()
    edit(room.replica, lambda n: notebooks.replace_source(n, 1, "other = 22"))
    last = room.replica.snapshot()
    tab: Doc[Any] = Doc()
    tab.apply_update(room.replica.doc.get_update())

    # What was stored last is missing, and what the file lacked was taken out.
    behind = Person()
    behind.doc.apply_update(stored)
    del behind.cells[2]
    behind.replica = Replica(behind.ours.append, behind._hear)
    behind._receive(behind.doc.get_update())
    behind.replica.catch_up(room.replica)
    for before, after in ((room_before(first), first), (first, last)):
        assert behind.replica.apply_again(before, after) == []
    behind._receive(tab.get_update())

    assert sources(behind.replica) == ["theirs = 1", "other = 22", "before = 3"]
    for update in behind.ours:
        behind.doc.apply_update(update)
    behind.doc.apply_update(tab.get_update())
    assert behind.sources == ["theirs = 1", "other = 22", "before = 3"]


def room_before(notebook: Any) -> Any:
    """Without its last cell."""
    return notebooks.shallow(notebook, cells=notebook.cells[:-1])


def test_a_room_that_was_made_anew_gets_nothing_of_a_former_one() -> None:
    room = Person("theirs = 1", "other = 2")
    room.replica.begin()
    edit(room.replica, lambda n: notebooks.replace_source(n, 1, "other = 22"))

    anew = Person("theirs = 1", "other = 2")
    anew.replica.catch_up(room.replica)
    assert (sources(anew.replica), anew.ours) == (["theirs = 1", "other = 2"], [])


def test_splices_lead_from_any_text_to_any_other() -> None:
    chance = random.Random(5)
    for _ in range(300):
        old, new = ("".join(chance.choices("ab\né😀", k=chance.randrange(40))) for _ in range(2))
        assert spliced(old, splices(old, new)) == new
        person = Person(old)
        edit(person.replica, lambda n: notebooks.replace_source(n, 0, new))  # noqa: B023
        person.exchange()
        assert person.sources == [new]


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "both"),
    [
        ("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n"),
        ("a\nb\n", "a\nb\nours\n", "theirs\na\nb\n", "theirs\na\nb\nours\n"),
        ("x", "x + 1", "x + 1", "x + 1"),
        ("a\nb\n", "b\n", "a\nb\nc\n", "b\nc\n"),
    ],
)
def test_two_changes_of_one_text_are_both_kept(base: str, ours: str, theirs: str, both: str) -> None:
    assert merged("c0", base, ours, theirs) == both


@pytest.mark.parametrize(
    ("base", "ours", "theirs"), [("x", "y", "z"), ("a\nb\n", "", "a\nc\n"), ("a", "a1", "a2"), ("", "1", "2")]
)
def test_two_changes_of_the_same_part_are_a_conflict(base: str, ours: str, theirs: str) -> None:
    with pytest.raises(Conflict):
        merged("c0", base, ours, theirs)


def test_whether_a_cell_runs_is_seen_and_no_part_of_the_notebook() -> None:
    person = Person("1", "2")
    before = person.replica.snapshot()
    person.replica.mark("c1", is_running=True)
    person.exchange()
    assert [cell["execution_state"] for cell in person.cells] == ["idle", "running"]
    person.replica.mark("c1", is_running=True)
    assert person.ours == []
    assert person.replica.snapshot() == before
    person.replica.mark("c1", is_running=False)
    person.exchange()
    assert [cell["execution_state"] for cell in person.cells] == ["idle", "idle"]


@pytest.mark.parametrize(("source", "at", "meant"), [("a = 1\nb", 3, 4), ("a", 1, 2)])
def test_a_cursor_stays_behind_what_was_edited(source: str, at: int, meant: int) -> None:
    person = Person(source)
    [cursor] = person.replica.cursors("c0", at)
    person.text(0).insert(0, "#")
    person.exchange()
    assert StickyIndex.from_json(cursor["head"], person.text(0)).get_index() == meant
    assert person.replica.cursors("gone", 1) == []


def test_a_cursor_in_a_text_that_is_not_ascii_is_at_its_end() -> None:
    person = Person("é😀\nc")
    person.text(0).insert(0, "é")
    person.exchange()
    for at in range(1, 7):
        [cursor] = person.replica.cursors("c0", at)
        # Of the type itself, not of a character: on this side that is its end (Yjs, `RelativePosition`).
        assert (set(cursor["head"]), cursor["head"]["assoc"]) == ({"type", "assoc"}, 0)


def test_the_place_of_an_edit_is_behind_the_last_change_of_its_last_cell() -> None:
    one, two = (notebooks.new_cell("code", source) for source in ("a = 1\nb = 2\n", "c"))
    before = notebooks.shallow(notebooks.new_notebook(""), cells=[one, two])
    changed = notebooks.shallow(before, cells=[notebooks.shallow(one, source="a = 100\nb = 200\n"), two])
    assert changed_place(before, changed) == (one.id, len("a = 100\nb = 200"))
    assert changed_place(notebooks.shallow(before, cells=[one]), before) == (two.id, 1)
    assert changed_place(before, before) is None
