"""Edits, outline, hashes and merge, on notebooks alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.errors import Conflict, InvalidRequest, NotFound


def build(*sources: str) -> Any:
    notebook = notebooks.new_notebook("python3", "Python 3")
    for number, source in enumerate(sources):
        cell = notebooks.shallow(notebooks.new_cell("code", source), id=f"c{number}")
        notebooks.insert_cell(notebook, -1, cell)
    return notebook


def copy(notebook: Any) -> Any:
    return notebooks.shallow(notebook, cells=list(notebook.cells), metadata=notebooks.shallow(notebook.metadata))


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_a_new_notebook_is_valid_nbformat() -> None:
    import nbformat

    notebook = build("1 + 1")
    for cell_type in notebooks.CELL_TYPES:
        notebooks.insert_cell(notebook, 0, notebooks.new_cell(cell_type, "x"))
    nbformat.validate(notebook)


def test_a_cell_type_that_is_not_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="code, markdown, raw"):
        notebooks.new_cell("text", "")


def test_the_hash_changes_with_source_and_type_only() -> None:
    cell = notebooks.new_cell("code", "x")
    same = notebooks.shallow(cell, outputs=[notebooks.node({"output_type": "stream"})], id="other", metadata={"a": 1})
    assert notebooks.source_hash(cell) == notebooks.source_hash(same)
    assert len(notebooks.source_hash(cell)) == 12
    assert notebooks.source_hash(cell) != notebooks.source_hash(notebooks.shallow(cell, source="y"))
    assert notebooks.source_hash(cell) != notebooks.source_hash(notebooks.shallow(cell, cell_type="raw"))
    notebooks.source_hash(notebooks.shallow(cell, source="\ud83d"))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"cell_index": 0}, 0),
        ({"cell_index": -1}, 2),
        ({"cell_id": "c1"}, 1),
        ({"cell_id": "c1", "cell_index": 1}, 1),
        ({"cell_id": "c1", "cell_index": -2}, 1),
    ],
)
def test_a_cell_is_found_by_index_or_id(where: Any, found: int) -> None:
    assert notebooks.find_cell(build("a", "b", "c"), **where) == found


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        ({}, InvalidRequest, "cell_index"),
        ({"cell_id": "c1", "cell_index": 0}, InvalidRequest, "at index 1, not 0"),
        ({"cell_index": 3}, NotFound, "0 to 2"),
        ({"cell_index": -4}, NotFound, "0 to 2"),
        ({"cell_id": "c9"}, NotFound, "c0"),
    ],
)
def test_a_cell_that_is_not_there_is_answered_with_what_is(where: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        notebooks.find_cell(build("a", "b", "c"), **where)


def test_an_empty_notebook_says_it_is_empty() -> None:
    with pytest.raises(NotFound, match="empty"):
        notebooks.find_cell(build(), cell_index=0)


@pytest.mark.parametrize(("index", "wanted"), [(0, "xab"), (1, "axb"), (2, "abx"), (-1, "abx")])
def test_a_cell_is_inserted_before_the_index(index: int, wanted: str) -> None:
    notebook = build("a", "b")
    place = notebooks.insert_cell(notebook, index, notebooks.new_cell("code", "x"))
    assert "".join(sources(notebook)) == wanted
    assert notebook.cells[place].source == "x"


@pytest.mark.parametrize("index", [3, -2])
def test_inserting_out_of_range_names_the_range(index: int) -> None:
    with pytest.raises(InvalidRequest, match="0 to 2"):
        notebooks.insert_cell(build("a", "b"), index, notebooks.new_cell("code", "x"))


@pytest.mark.parametrize(("index", "to", "wanted"), [(0, 2, "bca"), (2, 0, "cab"), (-1, 1, "acb"), (0, -1, "bca")])
def test_a_moved_cell_stands_where_it_was_asked_to(index: int, to: int, wanted: str) -> None:
    notebook = build("a", "b", "c")
    notebooks.move_cell(notebook, index, to)
    assert "".join(sources(notebook)) == wanted


def test_replacing_a_source_keeps_everything_else_and_the_old_cell() -> None:
    notebook = build("old")
    notebooks.set_outputs(notebook, 0, [{"output_type": "stream", "name": "stdout", "text": "x"}], 3)
    before = notebook.cells[0]
    after = notebooks.replace_source(notebook, 0, "new", notebooks.source_hash(before))
    assert before.source == "old"
    assert notebook.cells[0] is after
    assert {key for key in after if after[key] is not before[key]} == {"source"}


def test_a_stale_hash_is_a_conflict_with_a_diff() -> None:
    notebook = build("x = 1\ny = 2")
    with pytest.raises(Conflict) as caught:
        notebooks.replace_source(notebook, 0, "x = 1\ny = 3", "0" * 12)
    assert "-y = 2\n+y = 3" in caught.value.diff
    assert sources(notebook) == ["x = 1\ny = 2"]


def test_a_piece_of_source_is_replaced_once_or_everywhere() -> None:
    notebook = build("a = 1\nb = a\n")
    notebooks.edit_source(notebook, 0, "b = a", "b = 2")
    assert sources(notebook) == ["a = 1\nb = 2\n"]
    notebooks.edit_source(notebook, 0, " = ", "=", replace_all=True)
    assert sources(notebook) == ["a=1\nb=2\n"]


@pytest.mark.parametrize(
    ("old", "says"),
    [
        ("values = ", r"3 times in cell 0 \(lines 1, 2, 4\)"),
        ("value = load()", "nearest line is 1: 'values = load"),
        ("zzzzzz", "No line of its 4 is like it"),
        ("", "empty"),
    ],
)
def test_a_piece_that_is_not_unique_or_not_there_is_explained(old: str, says: str) -> None:
    notebook = build("values = load()\nvalues = clean(values)\nprint(1)\nvalues = 3")
    with pytest.raises(InvalidRequest, match=says):
        notebooks.edit_source(notebook, 0, old, "x")


def test_outputs_of_a_markdown_cell_are_refused() -> None:
    notebook = build()
    notebooks.insert_cell(notebook, 0, notebooks.new_cell("markdown", "text"))
    with pytest.raises(InvalidRequest, match="markdown"):
        notebooks.set_outputs(notebook, 0, [], None)


def test_clearing_counts_the_cells_that_had_outputs() -> None:
    notebook = build("a", "b", "c")
    notebooks.set_outputs(notebook, 0, [], 1)
    notebooks.set_outputs(notebook, 2, [{"output_type": "stream", "name": "stdout", "text": "x"}], 2)
    assert notebooks.clear_outputs(notebook, 0) == 1
    assert notebooks.clear_outputs(notebook) == 1
    assert notebooks.clear_outputs(notebook) == 0


def test_the_outline_tells_each_cell_in_a_line(fixture_notebook: Any) -> None:
    lines = notebooks.outline(fixture_notebook)
    assert [line.id for line in lines] == ["intro", "imports", "6b7c9f04", "plot", "error", "raw1", "empty"]
    assert [line.output_kinds for line in lines] == [(), (), ("stream",), ("image", "html"), ("error",), (), ()]
    assert (lines[0].first_line, lines[0].lines, lines[3].execution_count) == ("# Café sales", 3, 3)
    long = notebooks.outline(build("\n\n" + "x" * 500))[0]
    assert len(long.first_line) == 80


@pytest.fixture
def fixture_notebook() -> Any:
    import nbformat

    return nbformat.read(Path(__file__).parents[1] / "fixtures" / "modern.ipynb", as_version=4)


# --------------------------------------------------------------------------- merge


def test_changes_of_different_cells_merge() -> None:
    base = build("a", "b", "c")
    ours, theirs = copy(base), copy(base)
    notebooks.replace_source(ours, 0, "A")
    notebooks.replace_source(theirs, 2, "C")
    notebooks.insert_cell(ours, 1, notebooks.new_cell("code", "ours"))
    notebooks.insert_cell(theirs, 3, notebooks.new_cell("code", "theirs"))
    assert sources(notebooks.merge(base, ours, theirs)) == ["A", "ours", "b", "C", "theirs"]


def test_untouched_cells_stay_the_same_objects_in_a_merge() -> None:
    base = build("a", "b", "c")
    ours, theirs = copy(base), copy(base)
    notebooks.replace_source(ours, 0, "A")
    notebooks.replace_source(theirs, 2, "C")
    merged = notebooks.merge(base, ours, theirs)
    assert [merged.cells[0] is ours.cells[0], merged.cells[1] is base.cells[1]] == [True, True]
    assert merged.cells[2] is theirs.cells[2]


def test_source_and_outputs_of_one_cell_merge_from_two_sides() -> None:
    base = build("a")
    ours, theirs = copy(base), copy(base)
    notebooks.set_outputs(ours, 0, [{"output_type": "stream", "name": "stdout", "text": "ours"}], 5)
    notebooks.replace_source(theirs, 0, "A")
    merged = notebooks.merge(base, ours, theirs)
    assert (merged.cells[0].source, merged.cells[0].execution_count) == ("A", 5)
    notebooks.set_outputs(theirs, 0, [{"output_type": "stream", "name": "stdout", "text": "theirs"}], 6)
    assert notebooks.merge(base, ours, theirs).cells[0].outputs[0]["text"] == "ours"


def test_the_same_change_on_both_sides_is_no_conflict() -> None:
    base = build("a")
    ours, theirs = copy(base), copy(base)
    notebooks.replace_source(ours, 0, "same")
    notebooks.replace_source(theirs, 0, "same")
    assert sources(notebooks.merge(base, ours, theirs)) == ["same"]


def test_a_source_changed_in_two_ways_is_a_conflict_with_a_diff() -> None:
    base = build("a")
    ours, theirs = copy(base), copy(base)
    notebooks.replace_source(ours, 0, "ours")
    notebooks.replace_source(theirs, 0, "theirs")
    with pytest.raises(Conflict) as caught:
        notebooks.merge(base, ours, theirs)
    assert "-theirs\n+ours" in caught.value.diff
    told: list[Conflict] = []
    assert sources(notebooks.merge(base, ours, theirs, on_conflict=told.append)) == ["theirs"]
    assert len(told) == 1


def test_a_deletion_wins_over_outputs_but_not_over_another_source() -> None:
    base = build("a", "b")
    for deleter, changer in ((0, 1), (1, 0)):
        sides = [copy(base), copy(base)]
        notebooks.delete_cell(sides[deleter], 0)
        notebooks.set_outputs(sides[changer], 0, [], 9)
        assert sources(notebooks.merge(base, *sides)) == ["b"]
        notebooks.replace_source(sides[changer], 0, "changed")
        with pytest.raises(Conflict, match="deleted"):
            notebooks.merge(base, *sides)


def test_metadata_merge_key_by_key() -> None:
    base = build("a")
    ours, theirs = copy(base), copy(base)
    ours.metadata["x"] = {"ours": 1}
    theirs.metadata["x"] = {"theirs": 2}
    del theirs.metadata["language_info"]
    ours.cells[0] = notebooks.shallow(ours.cells[0], metadata={"tags": ["a"]})
    theirs.cells[0] = notebooks.shallow(theirs.cells[0], metadata={"scrolled": True})
    merged = notebooks.merge(base, ours, theirs)
    assert merged.metadata["x"] == {"ours": 1, "theirs": 2}
    assert "language_info" not in merged.metadata
    assert merged.cells[0].metadata == {"tags": ["a"], "scrolled": True}


def test_a_move_on_one_side_survives_edits_on_the_other() -> None:
    base = build("a", "b", "c")
    for mover in (0, 1):
        sides = [copy(base), copy(base)]
        notebooks.move_cell(sides[mover], 0, 2)
        notebooks.replace_source(sides[1 - mover], 1, "B")
        assert sources(notebooks.merge(base, *sides)) == ["B", "c", "a"]


def test_cells_without_ids_are_matched_by_type_and_source() -> None:
    def bare(notebook: Any) -> Any:
        cells = [notebooks.node({k: v for k, v in cell.items() if k != "id"}) for cell in notebook.cells]
        return notebooks.shallow(notebook, cells=cells)

    base = build("a", "b", "c")
    ours, theirs = copy(base), copy(base)
    notebooks.replace_source(ours, 0, "A")
    notebooks.insert_cell(theirs, 1, notebooks.new_cell("code", "new"))
    assert sources(notebooks.merge(bare(base), bare(ours), bare(theirs))) == ["A", "new", "b", "c"]


edits = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "move", "source"]), st.integers(0, 9), st.integers(0, 9)), max_size=6
)


def apply(notebook: Any, side: str, script: list[tuple[str, int, int]]) -> tuple[set[str], set[str], set[str]]:
    inserted, deleted, changed = set(), set(), set()
    for number, (kind, one, two) in enumerate(script):
        count = len(notebook.cells)
        if kind == "insert":
            cell = notebooks.new_cell("code", f"{side} {number}")
            notebooks.insert_cell(notebook, one % (count + 1), cell)
            inserted.add(cell.id)
        elif count and kind == "delete":
            deleted.add(notebooks.delete_cell(notebook, one % count).id)
        elif count and kind == "move":
            notebooks.move_cell(notebook, one % count, two % count)
        elif count:
            changed.add(notebooks.replace_source(notebook, one % count, f"{side} changed {number}").id)
    return inserted, deleted, changed


@settings(max_examples=300)
@given(edits, edits)
def test_a_merge_never_loses_or_doubles_a_cell(ours_script: Any, theirs_script: Any) -> None:
    base = build(*"abcdefg")
    ours, theirs = copy(base), copy(base)
    ours_new, ours_gone, ours_changed = apply(ours, "ours", ours_script)
    theirs_new, theirs_gone, theirs_changed = apply(theirs, "theirs", theirs_script)
    told: list[Conflict] = []
    merged = notebooks.merge(base, ours, theirs, on_conflict=told.append)
    ids = [cell.id for cell in merged.cells]
    assert len(ids) == len(set(ids))
    kept = {cell.id for cell in base.cells} | ours_new | theirs_new
    unclear = (ours_gone & theirs_changed) | (theirs_gone & ours_changed)
    assert kept - ours_gone - theirs_gone <= set(ids) <= kept - (ours_gone & theirs_gone)
    assert set(ids) & (ours_gone | theirs_gone) <= unclear
    for cell in merged.cells:
        if cell.id in (ours_changed - theirs_changed):
            assert cell.source.startswith("ours")
        if cell.id in theirs_changed:
            assert cell.source.startswith("theirs")
    base_ids = [cell.id for cell in base.cells]
    if not any(kind == "move" for kind, _, _ in ours_script + theirs_script):
        assert [cell_id for cell_id in ids if cell_id in base_ids] == [i for i in base_ids if i in ids]
