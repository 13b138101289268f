"""Edits that a room's file is not known to hold, after the room was overwritten with the file."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.rooms.intents import Intent, Intents, is_lost

OUTPUT = {"output_type": "stream", "name": "stdout", "text": "ours\n"}


def notebook(*cells: dict[str, Any]) -> Any:
    return notebooks.node({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)})


def cell(source: str = "1", *outputs: Any, cell_id: str = "one") -> dict[str, Any]:
    given = {"id": cell_id, "source": source, "outputs": list(outputs)}
    return {"cell_type": "code", "metadata": {}, "execution_count": None, **given}


RUN = Intent(notebook(cell()), notebook(cell("1", OUTPUT)), is_answered=True)
EDITED = Intent(notebook(cell()), notebook(cell("2")), is_answered=True)
ADDED = Intent(notebook(cell()), notebook(cell(), cell(cell_id="two")), is_answered=True)
DELETED = Intent(notebook(cell(), cell(cell_id="two")), notebook(cell()), is_answered=True)


@pytest.mark.parametrize(
    ("intent", "now"),
    [
        (RUN, notebook(cell())),
        (RUN, notebook(cell("theirs"))),
        (EDITED, notebook(cell())),
        (EDITED, notebook(cell("1", OUTPUT))),
        (ADDED, notebook(cell("theirs"))),
        (DELETED, notebook(cell("theirs"), cell(cell_id="two"))),
    ],
)
def test_what_is_as_before_an_edit_has_lost_it_whatever_else_somebody_changed(intent: Intent, now: Any) -> None:
    assert is_lost(intent, now)


@pytest.mark.parametrize(
    ("intent", "now"),
    [
        (RUN, notebook(cell("1", OUTPUT))),
        (RUN, notebook(cell(cell_id="two"))),
        (EDITED, notebook(cell("2"))),
        (EDITED, notebook(cell("theirs"))),
        (ADDED, notebook(cell(), cell("theirs", cell_id="two"))),
        (DELETED, notebook(cell(), cell("theirs", cell_id="two"))),
    ],
)
def test_what_is_there_or_was_changed_by_somebody_is_not_brought_again(intent: Intent, now: Any) -> None:
    assert not is_lost(intent, now)


def test_changes_in_a_row_are_one_until_a_save_begins() -> None:
    one, two, three = notebook(cell("1")), notebook(cell("2")), notebook(cell("3"))
    intents = Intents()
    first = intents.add(Intent(one, two, is_answered=True))

    assert intents.add(Intent(two, three, is_answered=True)) is first
    assert (first.after, intents.made) == (three, 2)
    assert intents.begin_save() == 2
    intents.add(Intent(three, one, is_answered=True))
    assert next(iter(intents)) is first
    assert intents.end_save() == [first]
    assert len(list(intents)) == 1
