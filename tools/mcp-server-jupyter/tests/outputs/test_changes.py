"""What became of outputs, step by step: whoever follows the steps shows what there is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.notebooks import node
from mcp_server_jupyter.outputs import OutputReducer, feed_sink, output_ops, whole
from mcp_server_jupyter.ports import Message


class Screen:
    """Follows the steps as a window does: text is added to what is there."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def clear(self) -> None:
        self.outputs = []

    def append(self, output: Any) -> None:
        self.outputs.append(dict(output))

    def text(self, index: int, text: str, output: Any) -> None:
        self.outputs[index]["text"] += text

    def replace(self, index: int, output: Any) -> None:
        self.outputs[index] = dict(output)


def stream(text: str, name: str = "stdout") -> Any:
    return node({"output_type": "stream", "name": name, "text": text})


def test_text_that_was_added_is_one_small_step() -> None:
    (op,) = output_ops([stream("a\n" * 1000)], [stream("a\n" * 1000 + "b\n")])
    assert op.data() == {"op": "text", "index": 0, "text": "b\n"}


def test_what_is_the_same_takes_no_step() -> None:
    assert output_ops([stream("a")], [stream("a")]) == []


def test_less_than_before_is_told_whole() -> None:
    ops = output_ops([stream("a"), stream("b", "stderr")], [stream("c")])
    assert [op.data()["op"] for op in ops] == ["clear", "append"]


MESSAGES = st.one_of(
    st.tuples(st.just("stream"), st.sampled_from(["stdout", "stderr"]), st.text("ab\n", max_size=30)),
    st.tuples(st.just("display_data"), st.sampled_from(["", "one", "two"]), st.text("xy", max_size=5)),
    st.tuples(st.just("update_display_data"), st.sampled_from(["one", "two"]), st.text("xy", max_size=5)),
    st.tuples(st.just("clear_output"), st.booleans(), st.just("")),
    st.tuples(st.just("look"), st.booleans(), st.just("")),
)


@given(st.lists(MESSAGES, max_size=40))
def test_whoever_follows_the_steps_shows_what_there_is(messages: list[Any]) -> None:
    reducer, screen, late = OutputReducer(max_bytes=60), Screen(), Screen()
    shown: list[Any] = []
    for kind, which, text in messages:
        if kind == "look":
            now = reducer.outputs()
            feed_sink(screen, output_ops(shown, now))
            shown = now
            assert screen.outputs == now
            continue
        content: dict[str, Any] = {"name": which, "text": text}
        if kind == "clear_output":
            content = {"wait": which}
        elif kind != "stream":
            content = {
                "data": {"text/plain": text},
                "metadata": {},
                "transient": {"display_id": which} if which else {},
            }
        reducer.feed(Message("iopub", kind, "m", "p", content))
    feed_sink(late, whole(reducer.outputs()))
    assert late.outputs == reducer.outputs()
