"""Pure: one line about an interactive chart, for readers who cannot see it: its kind, traces, axes and their ranges.

Sources: the Plotly.js figure schema (`data`, `layout`; typed arrays as `bdata` and `dtype`), the Vega-Lite and Vega
specifications, Bokeh's document JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

_MOST = 6
_TYPES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_BOKEH_JSON = re.compile(r"docs_json\s*=\s*(?:JSON\.parse\()?'?(\{)")


def summary(data: Mapping[Any, Any]) -> str | None:
    """One line about the chart in a MIME bundle; None where there is none that is understood."""
    for mime, value in data.items():
        if not isinstance(mime, str):
            continue
        if mime == "application/vnd.plotly.v1+json" and isinstance(value, Mapping):
            return _plotly(value)
        if mime.startswith("application/vnd.vegalite.") and isinstance(value, Mapping):
            return _vega_lite(value)
        if mime.startswith("application/vnd.vega.") and isinstance(value, Mapping):
            return _vega(value)
        if mime.startswith("application/vnd.bokehjs_"):
            return _bokeh(data)
    return None


# --------------------------------------------------------------------------- Plotly


def _plotly(figure: Mapping[Any, Any]) -> str:
    traces = [trace for trace in _list(figure.get("data")) if isinstance(trace, Mapping)]
    layout = _map(figure.get("layout"))
    named = [_trace(trace) for trace in traces]
    axes = [
        f"{axis} {_axis(_titled(layout.get(f'{axis}axis')), [_values(trace.get(axis)) for trace in traces])}"
        for axis in ("x", "y", "z")
        if any(_values(trace.get(axis)) for trace in traces)
    ]
    title = _titled(layout)
    return _line("Plotly figure", title, [f"{len(traces)} {'trace' if len(traces) == 1 else 'traces'}"], named, axes)


def _trace(trace: Mapping[Any, Any]) -> str:
    kind = _text(trace.get("type")) or "scatter"
    name = f' "{_text(trace["name"])}"' if _text(trace.get("name")) else ""
    points = max((len(_values(trace.get(key))) for key in ("x", "y", "z", "values", "lat")), default=0)
    return f"{kind}{name} ({points:,} points)" if points else f"{kind}{name}"


def _titled(value: Any) -> str:
    title = _map(value).get("title")
    return _text(title.get("text") if isinstance(title, Mapping) else title)


def _values(value: Any) -> Sequence[Any]:
    if isinstance(value, list):
        return value
    encoded, kind = _map(value).get("bdata"), _map(value).get("dtype")
    letter = _TYPES.get(kind) if isinstance(kind, str) else None
    if letter is None or not isinstance(encoded, str):
        return ()
    try:
        raw = base64.b64decode(encoded)
        return struct.unpack(f"<{len(raw) // struct.calcsize(letter)}{letter}", raw)
    except (binascii.Error, ValueError, struct.error):
        return ()


# --------------------------------------------------------------------------- Vega


def _vega_lite(spec: Mapping[Any, Any]) -> str:
    views = list(_views(spec, 0))
    marks = [
        _text(_map(view["mark"]).get("type") if isinstance(view["mark"], Mapping) else view["mark"]) for view in views
    ]
    rows = _rows(spec)
    axes: dict[str, str] = {}
    for view in views:
        for channel, coded in _map(view.get("encoding")).items():
            coded = _map(coded)
            what = _text(coded.get("field")) or _text(coded.get("aggregate"))
            if what and channel not in axes:
                kind = f" ({_text(coded['type'])})" if _text(coded.get("type")) else ""
                values = [row.get(what) for row in rows if isinstance(row, Mapping)]
                axes[str(channel)] = f"{channel} {what}{kind}{_range(values)}"
    counted = [f"{len(rows):,} rows"] if rows else []
    return _line("Vega-Lite chart", _titled(spec), [mark for mark in marks if mark], counted, list(axes.values()))


def _views(spec: Mapping[Any, Any], depth: int) -> Any:
    if "mark" in spec:
        yield spec
    for key in ("layer", "hconcat", "vconcat", "concat"):
        for inner in _list(spec.get(key)):
            if isinstance(inner, Mapping) and depth < 5:
                yield from _views({"encoding": spec.get("encoding"), **inner}, depth + 1)
    if isinstance(spec.get("spec"), Mapping) and depth < 5:
        yield from _views(spec["spec"], depth + 1)


def _rows(spec: Mapping[Any, Any]) -> list[Any]:
    data = _map(spec.get("data"))
    named = _map(spec.get("datasets")).get(data.get("name")) if isinstance(data.get("name"), str) else None
    return _list(named) or _list(data.get("values"))


def _vega(spec: Mapping[Any, Any]) -> str:
    marks = [_text(_map(mark).get("type")) for mark in _list(spec.get("marks"))]
    scales = [_text(_map(axis).get("title")) or _text(_map(axis).get("scale")) for axis in _list(spec.get("axes"))]
    return _line(
        "Vega chart", _titled(spec), [mark for mark in marks if mark], [], [scale for scale in scales if scale]
    )


# --------------------------------------------------------------------------- Bokeh


def _bokeh(data: Mapping[Any, Any]) -> str:
    script = next((text for text in data.values() if isinstance(text, str) and "docs_json" in text), "")
    found = _BOKEH_JSON.search(script)
    if found is None:
        return "[Bokeh plot]"
    try:
        documents, _ = json.JSONDecoder().raw_decode(script, found.start(1))
    except ValueError:
        return "[Bokeh plot]"
    names: list[str] = []
    _bokeh_glyphs(documents, names, 0)
    glyphs = list(dict.fromkeys(names))
    return _line("Bokeh plot", "", glyphs, [], [])


def _bokeh_glyphs(value: Any, names: list[str], depth: int) -> None:
    if depth > 60:
        return
    if isinstance(value, Mapping):
        glyph = value.get("glyph")
        name = _map(glyph).get("name") or _map(glyph).get("type")
        if isinstance(name, str) and name != "object":
            names.append(name)
        for inner in value.values():
            _bokeh_glyphs(inner, names, depth + 1)
    elif isinstance(value, list):
        for inner in value[:10_000]:
            if isinstance(inner, Mapping | list):
                _bokeh_glyphs(inner, names, depth + 1)


# --------------------------------------------------------------------------- words


def _line(kind: str, title: str, first: list[str], then: list[str], axes: list[str]) -> str:
    head = f'{kind} "{title}"' if title else kind
    parts = [part for part in (_some(first), _some(then), "; ".join(axes)) if part]
    return f"[{head}: {'; '.join(parts)}]" if parts else f"[{head}]"


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _axis(title: str, values: Sequence[Sequence[Any]]) -> str:
    span = _range([value for each in values for value in each]).strip()
    return " ".join(part for part in (f'"{title}"' if title else "", span) if part)


def _range(values: Sequence[Any]) -> str:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v == v]
    if numbers:
        return f" {min(numbers):.6g} … {max(numbers):.6g}"
    texts = [str(value) for value in values if isinstance(value, str)]
    if not texts:
        return ""
    different = len(set(texts))
    return (
        f" {_short(texts[0])} … {_short(texts[-1])}"
        if different > 3
        else f" {', '.join(map(_short, dict.fromkeys(texts)))}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def _text(value: Any) -> str:
    return _short(" ".join(value.split())) if isinstance(value, str) else ""


def _map(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
