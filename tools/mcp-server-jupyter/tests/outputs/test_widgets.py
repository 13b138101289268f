"""Widgets are followed by their messages: their state, what Output widgets capture, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.outputs import (
    STATE_MIME,
    WidgetModel,
    WidgetModels,
    models_in,
    plain_text,
    reachable,
    readable,
    saved_state,
)
from mcp_server_jupyter.ports import Message

OUTPUT = {"_model_name": "OutputModel", "_model_module": "@jupyter-widgets/output", "msg_id": "", "outputs": []}


def message(msg_type: str, content: dict[str, Any], parent: str = "p", buffers: tuple[bytes, ...] = ()) -> Message:
    return Message("iopub", msg_type, "m", parent, content, buffers=buffers)


def opened(models: WidgetModels, model_id: str, state: dict[str, Any], **more: Any) -> None:
    paths = more.pop("paths", [])
    content = {"comm_id": model_id, "target_name": "jupyter.widget", "data": {"state": state, "buffer_paths": paths}}
    assert models.feed(message("comm_open", content, **more))


def updated(models: WidgetModels, model_id: str, state: dict[str, Any], **more: Any) -> None:
    paths = more.pop("paths", [])
    data = {"method": "update", "state": state, "buffer_paths": paths}
    assert models.feed(message("comm_msg", {"comm_id": model_id, "data": data}, **more))


def printed(text: str, parent: str = "p") -> Message:
    return message("stream", {"name": "stdout", "text": text}, parent)


def view(model_id: str) -> dict[str, Any]:
    data = {"text/plain": "as the kernel said", "application/vnd.jupyter.widget-view+json": {"model_id": model_id}}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def text(model_id: str, models: Mapping[str, WidgetModel]) -> str:
    return plain_text(readable([view(model_id)], models)).rstrip("\n")


def test_the_last_state_of_a_widget_is_kept_and_saved() -> None:
    models = WidgetModels()
    opened(models, "a", {"_model_name": "IntSliderModel", "_model_module": "m", "value": 1, "min": 0})
    updated(models, "a", {"value": 7})
    saved = saved_state(models)
    assert (saved["version_major"], saved["version_minor"]) == (2, 0)
    entry = saved["state"]["a"]
    assert (entry["model_name"], entry["model_module"]) == ("IntSliderModel", "m")
    assert entry["state"] == {"_model_name": "IntSliderModel", "_model_module": "m", "value": 7, "min": 0}
    assert "buffers" not in entry


def test_a_comm_that_is_no_widget_is_not_saved() -> None:
    models = WidgetModels()
    opened(models, "a", {"x": 1})
    assert saved_state(models)["state"] == {}


def test_a_buffer_takes_the_place_of_the_one_before_it() -> None:
    models = WidgetModels()
    opened(models, "a", {"_model_name": "ImageModel"}, paths=[["value"]], buffers=(b"one",))
    updated(models, "a", {}, paths=[["value"]], buffers=(b"two",))
    buffers = saved_state(models)["state"]["a"]["buffers"]
    assert buffers == [{"data": "dHdv", "encoding": "base64", "path": ["value"]}]
    assert readable([view("a")], models)[0]["data"] == {"image/png": "dHdv"}


def test_what_is_put_out_while_an_output_widget_captures_is_its_own() -> None:
    models = WidgetModels()
    opened(models, "o", OUTPUT)
    assert not models.capture(printed("before"))
    updated(models, "o", {"msg_id": "p"})
    assert models.capture(printed("a"))
    assert models.capture(printed("b"))
    assert not models.capture(printed("another cell's", parent="q"))
    updated(models, "o", {"msg_id": ""})
    assert not models.capture(printed("after"))
    assert models["o"].whole_state()["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "ab"}]
    assert text("o", models) == "ab"


def test_the_innermost_output_widget_captures_and_then_the_one_around_it() -> None:
    models = WidgetModels()
    for name in ("outer", "inner"):
        opened(models, name, OUTPUT)
        updated(models, name, {"msg_id": "p"})
    models.capture(printed("in"))
    updated(models, "inner", {"msg_id": ""})
    models.capture(printed("out"))
    assert (text("inner", models), text("outer", models)) == ("in", "out")


def test_clearing_an_output_widget_waits_for_the_next_output_if_it_is_asked_to() -> None:
    models = WidgetModels()
    opened(models, "o", {**OUTPUT, "msg_id": "p"})
    models.capture(printed("old"))
    models.capture(message("clear_output", {"wait": True}))
    assert text("o", models) == "old"
    models.capture(printed("new"))
    assert text("o", models) == "new"
    models.capture(message("clear_output", {"wait": False}))
    assert text("o", models) == ""


def test_outputs_that_the_kernel_sets_take_the_place_of_what_was_captured() -> None:
    models = WidgetModels()
    opened(models, "o", {**OUTPUT, "msg_id": "p"})
    models.capture(printed("old"))
    updated(models, "o", {"outputs": [{"output_type": "stream", "name": "stdout", "text": "set"}]})
    models.capture(printed(", and more"))
    assert text("o", models) == "set, and more"


def test_the_kernel_is_told_once_what_was_captured() -> None:
    models = WidgetModels()
    opened(models, "o", {**OUTPUT, "msg_id": "p"})
    models.capture(printed("a"))
    assert models.take_unsynced() == {"o": [{"output_type": "stream", "name": "stdout", "text": "a"}]}
    assert models.take_unsynced() == {}


def test_a_closed_widget_and_a_hidden_one_show_nothing() -> None:
    models = WidgetModels()
    opened(models, "l", {"_model_name": "LayoutModel", "display": "none"})
    opened(models, "hidden", {"_model_name": "LabelModel", "value": "x", "layout": "IPY_MODEL_l"})
    opened(models, "closed", {"_model_name": "LabelModel", "value": "x"})
    models.feed(message("comm_close", {"comm_id": "closed", "data": {}}))
    assert (text("hidden", models), text("closed", models)) == ("", "")
    assert "closed" in saved_state(models)["state"]


def test_a_widget_that_is_not_known_keeps_the_text_of_its_kernel() -> None:
    assert text("unknown", {"other": WidgetModel()}).startswith("as the kernel said")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (
            {"_model_name": "IntSliderModel", "value": 3, "min": 0, "max": 9, "step": 1, "description": "n"},
            "n: 3 [IntSlider 0 … 9, step 1]",
        ),
        (
            {"_model_name": "FloatRangeSliderModel", "value": [0.5, 2], "min": 0.0, "max": 9.0},
            "[0.5, 2] [FloatRangeSlider 0 … 9]",
        ),
        ({"_model_name": "FloatProgressModel", "value": 5, "min": 0, "max": 10}, "|█████     | 5/10"),
        ({"_model_name": "IntProgressModel", "value": None, "min": 0, "max": 0}, "|          |"),
        ({"_model_name": "CheckboxModel", "value": True, "description": "on"}, "on: True [Checkbox]"),
        ({"_model_name": "DropdownModel", "_options_labels": ["a", "b"], "index": 1}, "b [Dropdown: a, b]"),
        ({"_model_name": "SelectModel", "_options_labels": ["a"], "index": None}, "nothing [Select: a]"),
        ({"_model_name": "PasswordModel", "value": "secret"}, "[Password]"),
        ({"_model_name": "ButtonModel", "description": "Go"}, "[Button 'Go']"),
        ({"_model_name": "HTMLModel", "value": "<b>bold</b> &amp; more"}, "bold & more"),
        ({"_model_name": "SurfaceModel"}, "[Surface]"),
        ({"_model_name": 7, "value": {"a": [[[1]]]}}, "{a: [[…]]} [7]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_widget_says_what_it_shows(state: dict[str, Any], shown: str) -> None:
    assert text("a", {"a": WidgetModel(state=state)}) == shown


def test_a_box_within_itself_is_read_once() -> None:
    state = {"_model_name": "VBoxModel", "children": ["IPY_MODEL_a", "IPY_MODEL_b", "no reference", 7]}
    models = {"a": WidgetModel(state=state), "b": WidgetModel(state={"_model_name": "LabelModel", "value": "x"})}
    assert text("a", models) == "x"
    assert reachable(models, ["a", "gone"]) == {"a", "b"}


def test_what_is_over_the_limit_is_not_kept_and_takes_nothing_else_with_it() -> None:
    models = WidgetModels(max_bytes=1_000)
    opened(models, "small", {"_model_name": "LabelModel", "value": "x"})
    opened(models, "big", {"_model_name": "ImageModel"}, paths=[["value"]], buffers=(bytes(5_000),))
    assert list(saved_state(models)["state"]) == ["small"]
    assert text("big", models) == "[Image widget: 6,668 bytes of its state were not kept]"
    assert models.forgotten == 0


def test_closed_widgets_and_then_the_oldest_make_room() -> None:
    models = WidgetModels(max_bytes=1_000)
    for name in ("oldest", "closed", "newest"):
        opened(models, name, {"_model_name": "LabelModel", "value": name * 30})
    models.feed(message("comm_close", {"comm_id": "closed", "data": {}}))
    opened(models, "a", {"_model_name": "LabelModel", "value": "a" * 500})
    assert list(models) == ["oldest", "newest", "a"]
    opened(models, "b", {"_model_name": "LabelModel", "value": "b" * 250})
    assert list(models) == ["newest", "a", "b"]
    assert models.forgotten == 2


def test_captured_outputs_are_bounded_too() -> None:
    models = WidgetModels(max_bytes=10_000)
    opened(models, "o", {**OUTPUT, "msg_id": "p"})
    for _ in range(100):
        models.capture(printed("x" * 1_000))
    assert len(text("o", models)) < 11_000
    assert "were not kept" in text("o", models)


def test_stored_state_is_taken_up_again_with_its_captures() -> None:
    models = WidgetModels()
    opened(models, "o", {**OUTPUT, "msg_id": "p"})
    opened(models, "i", {"_model_name": "ImageModel"}, paths=[["value"]], buffers=(b"one",))
    models.capture(printed("a"))
    later = WidgetModels()
    later.restore(models_in({"widgets": {STATE_MIME: saved_state(models)}}))
    later.capture(printed("b"))
    assert text("o", later) == "ab"
    assert saved_state(later)["state"]["i"] == saved_state(models)["state"]["i"]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "IPY_MODEL_a", "\ud800", "p"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["state", "value", "children", "msg_id", "outputs", "_model_name", "_model_module", "layout"]
            ),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)
STATE = ODD | st.fixed_dictionaries(
    {"_model_name": st.sampled_from(["OutputModel", "HBoxModel", "LabelModel", "IntProgressModel", "DropdownModel"])},
    optional={key: ODD for key in ("outputs", "children", "value", "min", "max", "index", "layout", "titles")}
    | {"_options_labels": ODD, "_model_module": st.just("@jupyter-widgets/output"), "msg_id": st.just("p")},
)


@given(st.lists(st.tuples(st.sampled_from(["comm_open", "comm_msg", "comm_close", "stream"]), ODD, STATE, ODD)))
def test_malformed_messages_and_states_never_raise(events: list[Any]) -> None:
    models = WidgetModels(max_bytes=500)
    for msg_type, data, state, paths in events:
        content = data if isinstance(data, dict) else {"comm_id": "a", "data": {"state": state, "buffer_paths": paths}}
        models.feed(message(msg_type, content, buffers=(b"x", b"y")))
        models.capture(message(msg_type, content))
    plain_text(readable([view("a")], models))
    models.take_unsynced()
    again = models_in({"widgets": {STATE_MIME: saved_state(models)}})
    plain_text(readable([view("a")], again))


@given(ODD, ODD)
def test_malformed_metadata_hold_no_widgets_but_raise_nothing(metadata: Any, state: Any) -> None:
    models_in(metadata)
    models_in({"widgets": metadata})
    for states in (state, {"a": state}, {"a": {"state": state, "buffers": metadata}}):
        models = models_in({"widgets": {STATE_MIME: {"version_major": 2, "state": states}}})
        plain_text(readable([view("a")], models))
        WidgetModels().restore(models)
