"""Our outputs are nbclient's, on the same messages; only that we join the pieces of a stream."""

from __future__ import annotations

import copy
import logging
from typing import Any

import nbformat
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat.v4 import new_code_cell, new_notebook

from mcp_server_jupyter.outputs import OutputReducer
from mcp_server_jupyter.ports import Message

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
BUNDLE = st.dictionaries(st.sampled_from(["text/plain", "text/html", "image/png"]), TEXT, max_size=3) | st.just(
    {"application/json": {"a": [1, None, {"b": "c"}]}, "text/plain": "json"}
)
METADATA = st.just({}) | st.just({"image/png": {"width": 3}})
DISPLAY = st.sampled_from([{}, {"transient": {}}, {"transient": None}]) | st.sampled_from(["a", "b"]).map(
    lambda name: {"transient": {"display_id": name}}
)


def _shown(kind: str, more: Any) -> Any:
    contents = st.builds(lambda data, metadata, display: {"data": data, "metadata": metadata, **display}, *more)
    return contents.map(lambda content: (kind, content))


EVENT = st.one_of(
    st.tuples(st.just("stream"), st.fixed_dictionaries({"name": st.sampled_from(["stdout", "stderr"]), "text": TEXT})),
    _shown("display_data", (BUNDLE, METADATA, DISPLAY)),
    _shown("update_display_data", (BUNDLE, METADATA, DISPLAY)),
    _shown("execute_result", (BUNDLE, METADATA, DISPLAY)).map(lambda e: (e[0], {**e[1], "execution_count": 7})),
    st.builds(lambda name, value: ("error", {"ename": name, "evalue": value, "traceback": [name, value]}), TEXT, TEXT),
    st.booleans().map(lambda wait: ("clear_output", {"wait": wait})),
    st.integers(1, 99).map(lambda count: ("execute_input", {"code": "x", "execution_count": count})),
    st.sampled_from(["busy", "idle"]).map(lambda state: ("status", {"execution_state": state})),
    st.just(("comm_msg", {"comm_id": "c", "data": {"method": "update"}})),
    st.just(("something_new", {"a": 1})),
)


def client_of(*sources: str) -> NotebookClient:
    client = NotebookClient(new_notebook(cells=[new_code_cell(source) for source in sources]), record_timing=False)
    client.log = logging.getLogger("nbclient")
    client.log.setLevel(logging.CRITICAL)
    return client


def joined(outputs: list[Any]) -> list[Any]:
    result: list[Any] = []
    for output in copy.deepcopy(outputs):
        last = result[-1] if result else {}
        if output["output_type"] == "stream" == last.get("output_type") and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            result.append(output)
    return result


def feed_nbclient(client: NotebookClient, index: int, events: list[tuple[str, dict[str, Any]]]) -> None:
    client.clear_before_next_output = False
    for kind, content in copy.deepcopy(events):
        message = {
            "msg_type": kind,
            "header": {"msg_type": kind},
            "parent_header": {"msg_id": str(index)},
            "metadata": {},
            "content": content,
        }
        try:
            client.process_message(message, client.nb.cells[index], index)
        except CellExecutionComplete:
            continue


def feed_ours(events: list[tuple[str, dict[str, Any]]]) -> OutputReducer:
    reducer = OutputReducer()
    for kind, content in copy.deepcopy(events):
        before = copy.deepcopy(reducer.outputs())
        changed = reducer.feed(Message("iopub", kind, "m", "p", content))
        assert changed or reducer.outputs() == before
    return reducer


@settings(max_examples=300)
@given(st.lists(EVENT, max_size=25))
def test_one_cell_has_the_outputs_and_the_count_nbclient_gives_it(events: list[Any]) -> None:
    client = client_of("x")
    feed_nbclient(client, 0, events)
    reducer = feed_ours(events)
    assert reducer.outputs() == joined(client.nb.cells[0].outputs)
    assert reducer.execution_count == client.nb.cells[0].execution_count
    client.nb.cells[0].outputs = reducer.outputs()
    nbformat.validate(client.nb)


@settings(max_examples=300)
@given(st.lists(EVENT, max_size=15), st.lists(EVENT, max_size=15))
def test_a_later_cell_updates_the_displays_of_an_earlier_one_as_in_nbclient(
    first: list[Any], second: list[Any]
) -> None:
    client = client_of("x", "y")
    feed_nbclient(client, 0, first)
    feed_nbclient(client, 1, second)
    earlier, later = feed_ours(first), feed_ours(second)
    earlier.apply_updates(later.foreign_updates)
    assert earlier.outputs() == joined(client.nb.cells[0].outputs)
    assert later.outputs() == joined(client.nb.cells[1].outputs)
