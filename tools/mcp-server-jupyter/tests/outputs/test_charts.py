"""One line about an interactive chart."""

from __future__ import annotations

import base64
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.outputs.charts import summary

PLOTLY, VEGA_LITE = "application/vnd.plotly.v1+json", "application/vnd.vegalite.v5+json"


def test_a_plotly_figure_names_its_traces_and_axes() -> None:
    typed = {"dtype": "f8", "bdata": base64.b64encode(struct.pack("<3d", -1.5, 0, 4)).decode()}
    figure = {
        "data": [
            {"type": "scatter", "name": "fit", "x": [0, 1, 2], "y": typed},
            {"type": "bar", "x": [0, 1], "y": [3, 9]},
        ],
        "layout": {"title": {"text": "Growth"}, "xaxis": {"title": {"text": "day"}}, "template": {"data": {}}},
    }
    assert summary({PLOTLY: figure, "text/html": "<div/>"}) == (
        '[Plotly figure "Growth": 2 traces; scatter "fit" (3 points), bar (2 points); x "day" 0 … 2; y -1.5 … 9]'
    )


def test_a_vega_lite_chart_names_its_marks_and_fields() -> None:
    chart = {
        "data": {"name": "d"},
        "datasets": {"d": [{"a": "x", "b": 1}, {"a": "y", "b": 5}]},
        "layer": [{"mark": {"type": "bar"}}, {"mark": "text"}],
        "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}},
    }
    assert summary({VEGA_LITE: chart}) == (
        "[Vega-Lite chart: bar, text; 2 rows; x a (nominal) x, y; y b (quantitative) 1 … 5]"
    )


def test_a_bokeh_plot_names_its_glyphs() -> None:
    script = 'const docs_json = {"1": {"roots": [{"renderers": [{"glyph": {"type": "object", "name": "Line"}}]}]}};'
    data = {"application/vnd.bokehjs_exec.v0+json": "", "application/javascript": script}
    assert summary(data) == "[Bokeh plot: Line]"


def test_a_bundle_without_a_chart_has_no_line() -> None:
    assert summary({"text/plain": "1", "application/json": {"data": []}}) is None


KEYS = st.sampled_from(
    ["data", "layout", "title", "mark", "encoding", "x", "type", "layer", "values", "bdata", "dtype", "xaxis", "field"]
)
LEAVES = st.none() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@given(JSON)
def test_any_value_in_place_of_a_chart_is_survived(value: Any) -> None:
    for mime in (PLOTLY, VEGA_LITE, "application/vnd.vega.v5+json", "application/vnd.bokehjs_exec.v0+json"):
        line = summary({mime: value})
        assert line is None or "\n" not in line
