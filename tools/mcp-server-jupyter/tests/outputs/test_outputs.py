"""OutputReducer: messages in, nbformat outputs out."""

from __future__ import annotations

import copy
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from mcp_server_jupyter.outputs import OutputReducer
from mcp_server_jupyter.ports import Message


def message(kind: str, content: Any, channel: Any = "iopub") -> Message:
    return Message(channel, kind, "m", "p", content)


def stream(text: str, name: str = "stdout") -> Message:
    return message("stream", {"name": name, "text": text})


def display(text: str, display_id: str | None = None, kind: str = "display_data") -> Message:
    transient = {} if display_id is None else {"display_id": display_id}
    return message(kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient})


def fed(*messages: Message, max_bytes: int | None = None) -> OutputReducer:
    reducer = OutputReducer(max_bytes=max_bytes)
    for each in messages:
        reducer.feed(each)
    return reducer


def texts(reducer: OutputReducer) -> list[str]:
    return [output.get("text") or output["data"]["text/plain"] for output in reducer.outputs()]


def assert_valid(reducer: OutputReducer) -> None:
    cell = new_code_cell("x")
    cell.outputs = reducer.outputs()
    nbformat.validate(new_notebook(cells=[cell]))


def test_neighbouring_text_of_one_stream_is_one_output() -> None:
    assert texts(fed(stream("a"), stream("b"), stream("c", "stderr"), stream("d"))) == ["ab", "c", "d"]


def test_clear_output_clears_at_once_or_with_the_next_output() -> None:
    assert texts(fed(stream("a"), message("clear_output", {"wait": False}))) == []
    waiting = fed(stream("a"), message("clear_output", {"wait": True}))
    assert texts(waiting) == ["a"]
    assert waiting.feed(stream("b"))
    assert texts(waiting) == ["b"]


def test_an_update_changes_every_output_of_its_display() -> None:
    reducer = fed(display("one", "d"), display("other"), display("two", "d"))
    assert reducer.feed(display("new", "d", "update_display_data"))
    assert texts(reducer) == ["new", "other", "new"]


def test_an_update_of_an_earlier_execution_is_handed_on() -> None:
    earlier = fed(display("one", "d"))
    later = fed()
    assert not later.feed(display("new", "d", "update_display_data"))
    assert later.foreign_updates == [("d", {"text/plain": "new"}, {})]
    assert earlier.apply_updates(later.foreign_updates)
    assert texts(earlier) == ["new"]
    assert not earlier.apply_updates([("unknown", {}, {})])


def test_an_animation_does_not_pile_up_updates_for_others() -> None:
    reducer = fed(display("0", "d"))
    for frame in range(5000):
        reducer.feed(display(str(frame), "d", "update_display_data"))
    assert len(reducer.foreign_updates) < 250
    assert reducer.foreign_updates[-1] == ("d", {"text/plain": "4999"}, {})


def test_nodes_handed_out_never_change_and_unchanged_ones_are_the_same_objects() -> None:
    reducer = fed(stream("a"), display("one", "d"), stream("b"))
    first = reducer.outputs()
    kept = copy.deepcopy(first)
    reducer.feed(stream("c"))
    reducer.feed(display("two", "d", "update_display_data"))
    second = reducer.outputs()
    assert first == kept
    assert second[0] is first[0]
    assert second[1] is not first[1]
    assert second[2]["text"] == "bc"


def test_stored_outputs_are_gone_on_from() -> None:
    before = fed(stream("a"), display("b"), message("error", {"ename": "E", "evalue": "e", "traceback": ["t"]}))
    reducer = OutputReducer()
    reducer.restore(before.outputs(), 3)
    assert (reducer.outputs(), reducer.execution_count, reducer.ename) == (before.outputs(), 3, "E")
    reducer.feed(stream("c"))
    assert reducer.outputs()[-1]["text"] == "c"


def test_the_size_is_that_of_what_is_kept() -> None:
    reducer = fed(stream("a" * 100), display("b" * 50))
    assert 150 <= reducer.size <= 200
    reducer.feed(message("clear_output", {"wait": False}))
    assert reducer.size == 0


def test_the_reply_tells_how_it_ended() -> None:
    reducer = fed()
    assert reducer.status == "running"
    reducer.feed(message("execute_reply", {"status": "ok", "execution_count": 3}, "shell"))
    assert (reducer.status, reducer.execution_count) == ("ok", 3)
    assert fed(message("execute_reply", {"status": "aborted"}, "shell")).status == "aborted"


def test_an_error_is_an_output_and_has_a_name() -> None:
    content = {"ename": "ValueError", "evalue": "no", "traceback": ["line 1", "line 2"]}
    reducer = fed(message("error", content), message("execute_reply", {"status": "error", **content}, "shell"))
    assert (reducer.status, reducer.ename, reducer.evalue) == ("error", "ValueError", "no")
    assert reducer.outputs() == [{"output_type": "error", **content}]


def test_an_error_of_our_own_can_be_added() -> None:
    reducer = fed(stream("a"))
    reducer.add_error("KernelDead", "The kernel was killed.")
    assert reducer.outputs()[-1]["ename"] == "KernelDead"
    assert_valid(reducer)


def test_text_over_the_limit_keeps_its_head_and_its_end() -> None:
    reducer = fed(*(stream(f"line {number}\n") for number in range(10_000)), max_bytes=4_000)
    head, notice, tail = (output["text"] for output in reducer.outputs())
    assert head.startswith("line 0\nline 1\n")
    assert tail.endswith("line 9998\nline 9999\n")
    assert "not kept" in notice
    assert f"{reducer.dropped_bytes:,} bytes" in notice
    whole = sum(len(f"line {number}\n") for number in range(10_000))
    assert len(head) + len(tail) + reducer.dropped_bytes == whole
    assert len(head) + len(tail) <= 4_000


def test_one_enormous_text_is_cut_in_the_same_way() -> None:
    reducer = fed(stream("a" * 300_000 + "b" * 300_000), max_bytes=400_000)
    head, _, tail = (output["text"] for output in reducer.outputs())
    assert set(head) == {"a"}
    assert set(tail) == {"b"}
    assert len(head) + len(tail) + reducer.dropped_bytes == 600_000


def test_text_within_the_limit_is_whole() -> None:
    pieces = [f"{number:04}\n" for number in range(200)]
    assert texts(fed(*map(stream, pieces), max_bytes=1000)) == ["".join(pieces)]


def test_errors_and_pictures_survive_a_flood_of_text() -> None:
    error = message("error", {"ename": "E", "evalue": "v", "traceback": []})
    flood = [stream("x" * 100) for _ in range(100)]
    reducer = fed(*flood, display("picture"), *flood, error, max_bytes=2_000)
    kinds = [output["output_type"] for output in reducer.outputs()]
    assert kinds == ["stream", "stream", "display_data", "stream", "error"]


def test_an_output_over_the_limit_is_replaced_by_a_notice() -> None:
    reducer = fed(display("x" * 5_000, "d"), max_bytes=2_000)
    assert "5,000 bytes was not kept" in texts(reducer)[0]
    reducer.feed(display("small", "d", "update_display_data"))
    assert texts(reducer) == ["small"]


def test_updates_give_back_the_room_of_what_they_replace() -> None:
    reducer = fed(display("x" * 900, "d"), max_bytes=1_000)
    for _ in range(10):
        reducer.feed(display("y" * 900, "d", "update_display_data"))
    assert texts(reducer) == ["y" * 900]


def test_lone_surrogates_cannot_make_the_notebook_unwritable() -> None:
    reducer = fed(stream("a\ud800b"), message("display_data", {"data": {"application/json": {"k": "\udfff"}}}))
    nbformat.writes(new_notebook(cells=[new_code_cell("x", outputs=reducer.outputs())])).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["stream", "display_data", "execute_result", "update_display_data", "error", "clear_output", "execute_reply"]
KEYS = ["name", "text", "data", "metadata", "transient", "ename", "evalue", "traceback", "status", "payload", "wait"]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*KINDS, "status", "comm_open"]),
            st.dictionaries(st.sampled_from([*KEYS, "execution_count"]), JSON, max_size=6) | JSON,
        ),
        max_size=8,
    ),
    st.none() | st.integers(0, 60),
)
def test_whatever_a_kernel_sends_the_notebook_stays_valid(messages: list[Any], limit: int | None) -> None:
    reducer = fed(*(message(kind, content) for kind, content in messages), max_bytes=limit)
    assert_valid(reducer)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["stdout", "stderr"])), max_size=30),
    st.integers(0, 200),
)
def test_text_is_kept_or_counted_to_the_byte(pieces: list[tuple[str, str]], limit: int) -> None:
    reducer = fed(*(stream(text, name) for text, name in pieces), max_bytes=limit)
    notice = 1 if reducer.dropped_bytes else 0
    kept = [output["text"] for output in reducer.outputs() if not (notice and "were not kept" in output["text"])]
    sent = sum(len(text.encode(errors="replace")) for text, _ in pieces)
    assert sum(len(text.encode()) for text in kept) + reducer.dropped_bytes == sent
    assert sum(len(text.encode()) for text in kept) <= limit


def test_json_nested_too_deep_for_a_notebook_is_left_out() -> None:
    deep: list[Any] = []
    for _ in range(450):
        deep = [deep]
    reducer = fed(
        message("display_data", {"data": {"application/json": deep, "text/plain": "x"}, "metadata": {"a": deep}})
    )
    assert "not JSON" in reducer.outputs()[0]["data"]["application/json"]
    assert_valid(reducer)


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_content_of_a_wrong_type_is_ignored(content: Any) -> None:
    assert not fed().feed(message("stream", content))
