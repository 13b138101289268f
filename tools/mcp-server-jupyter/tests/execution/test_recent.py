"""What the server keeps of executions that are done: bounded in number and in bytes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mcp_server_jupyter.execution.execution import Execution
from mcp_server_jupyter.execution.recent import Recent
from mcp_server_jupyter.ports import Message


def execution(name: str, cell: str | None = None, text: str = "") -> Execution:
    made = Execution(name, cast(Any, None), "", "tester", "a.ipynb", cell)
    if text:
        made.reducer.feed(Message("iopub", "stream", "m", made.msg_id, {"name": "stdout", "text": text}))
    return made


def test_the_latest_are_kept_by_number_and_live_ones_always() -> None:
    recent = Recent(most=2)
    all_of_them = [execution(str(number)) for number in range(5)]
    for each in all_of_them:
        recent.add(each)
    for each in all_of_them[1:]:
        recent.done(each)
    assert list(recent) == ["0", "3", "4"]
    assert recent.live == (all_of_them[0],)
    assert recent.of_request(all_of_them[1].msg_id) is None
    assert recent.of_request(all_of_them[4].msg_id) is all_of_them[4]


@pytest.mark.parametrize(("size", "kept"), [(40, ["1", "2"]), (200, ["2"])])
def test_the_latest_are_kept_by_bytes_and_the_last_whatever_its_size(size: int, kept: list[str]) -> None:
    recent = Recent(most_bytes=100)
    for number in range(3):
        each = execution(str(number), text="x" * size)
        recent.add(each)
        recent.done(each)
    assert list(recent) == kept


def test_one_that_still_gets_output_is_kept_before_quiet_ones() -> None:
    recent = Recent(most=2)
    first, second, third = (execution(str(number)) for number in range(3))
    for each in (first, second):
        recent.add(each)
        recent.done(each)
    recent.done(first)
    recent.add(third)
    recent.done(third)
    assert list(recent) == ["0", "2"]


def test_a_cell_belongs_to_its_latest_run_and_is_forgotten_with_it() -> None:
    recent = Recent(most=1)
    first, again, other = execution("1", "c"), execution("2", "c"), execution("3", "d")
    recent.add(first)
    recent.add(again)
    assert recent.of_cell("a.ipynb", "c") is again
    assert (first.superseded, again.superseded) == (True, False)
    for each in (first, again):
        recent.done(each)
    recent.add(other)
    recent.done(other)
    assert recent.of_cell("a.ipynb", "c") is None
    assert recent._of_cell == {("a.ipynb", "d"): other}
