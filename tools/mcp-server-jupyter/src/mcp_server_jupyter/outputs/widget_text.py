"""Pure: what a widget shows, in its last state, for readers of text. Its state says it; no widget is drawn."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from .markup import html_text
from .widgets import WidgetModel, buffer_of, outputs_of, reference, view_of

_BOXES = frozenset({"Box", "VBox", "GridBox", "GridspecLayout", "AppLayout", "TwoByTwoLayout"})
_TITLED = frozenset({"Accordion", "Tab", "Stack"})
_WORDS = frozenset({"HTML", "HTMLMath", "Label"})
_BARS = frozenset({"FloatProgress", "IntProgress"})
_SECRET = frozenset({"Password"})
_BAR_WIDTH = 10
_MOST_CHARS = 2_000
_MOST_OPTIONS = 10
_DEEPEST = 20


def readable(outputs: Sequence[Any], models: Mapping[str, WidgetModel]) -> Sequence[Any]:
    """Outputs with what each widget among them shows in its place: text, and what Output widgets captured.

    A widget whose state is not known stays as it is, with the text its kernel gave for it.
    """
    if not models or not any(view_of(output) in models for output in outputs):
        return outputs
    shown: list[Any] = []
    for output in outputs:
        model_id = view_of(output)
        if model_id is None or model_id not in models:
            shown.append(output)
        else:
            shown += _Reader(models).widget(model_id, 0)
    return shown


class _Reader:
    """Reads one widget tree. A widget within itself is not read again."""

    def __init__(self, models: Mapping[str, WidgetModel]) -> None:
        self._models = models
        self._open: set[str] = set()

    def widget(self, model_id: str, depth: int) -> list[Mapping[str, Any]]:
        """What it shows, as outputs; texts that follow each other are one."""
        return _merged(self._parts(model_id, depth, alone=True))

    def _parts(self, model_id: str, depth: int, *, alone: bool) -> Iterator[str | Mapping[str, Any]]:
        model = self._models.get(model_id)
        if model is None or model_id in self._open or depth > _DEEPEST or self._hidden(model):
            return
        self._open.add(model_id)
        if model.lost:
            yield f"[{model.name} widget: {model.lost:,} bytes of its state were not kept]"
        elif model.is_output:
            for output in outputs_of(model.whole_state()):
                inner = view_of(output)
                if inner is not None and inner in self._models:
                    yield from self._parts(inner, depth + 1, alone=True)
                else:
                    yield output
        elif model.name == "HBox" or (model.name in _BOXES or model.name in _TITLED):
            yield from self._box(model, depth)
        elif model.name == "Image" and (picture := buffer_of(model, "value")):
            mime = f"image/{_text(model.state.get('format')) or 'png'}"
            data = {mime: base64.b64encode(picture).decode()}
            yield {"output_type": "display_data", "metadata": {}, "data": data}
        else:
            yield _line(model, alone=alone)
        self._open.discard(model_id)

    def _box(self, model: WidgetModel, depth: int) -> Iterator[str | Mapping[str, Any]]:
        in_row = model.name == "HBox"
        children = model.state.get("children")
        ids = [reference(child) for child in children] if isinstance(children, list) else []
        found = [each for each in ids if each is not None]
        # Words beside a bar say its numbers, as those of tqdm do.
        worded = any(self._models[each].name in _WORDS for each in found if each in self._models)
        row: list[str] = []
        for at, each in enumerate(found):
            title = _title(model, at)
            for part in self._parts(each, depth + 1, alone=not (in_row and worded)):
                text = f"{title}{part}" if isinstance(part, str) else part
                if in_row and isinstance(text, str):
                    row.append(text)
                    continue
                yield from _joined(row)
                row = []
                yield text
        yield from _joined(row)

    def _hidden(self, model: WidgetModel) -> bool:
        layout = self._models.get(reference(model.state.get("layout")) or "")
        state = {} if layout is None else layout.state
        return model.closed or state.get("display") == "none" or state.get("visibility") == "hidden"


def _joined(row: list[str]) -> Iterator[str]:
    text = " ".join(part for part in row if part)
    if text:
        yield text


def _merged(parts: Iterator[str | Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    merged: list[Mapping[str, Any]] = []
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines += [part] if part else []
            continue
        merged += _as_output(lines)
        lines = []
        merged.append(part)
    return merged + _as_output(lines)


def _as_output(lines: list[str]) -> list[Mapping[str, Any]]:
    data = {"text/plain": "\n".join(lines)}
    return [{"output_type": "display_data", "metadata": {}, "data": data}] if lines else []


def _title(box: WidgetModel, at: int) -> str:
    if box.name not in _TITLED:
        return ""
    titles = box.state.get("titles", box.state.get("_titles"))
    found = titles.get(str(at)) if isinstance(titles, Mapping) else None
    found = titles[at] if isinstance(titles, list) and at < len(titles) else found
    return f"{found}: " if isinstance(found, str) and found else ""


# --------------------------------------------------------------------------- one widget


def _line(model: WidgetModel, *, alone: bool) -> str:
    """One widget without children: its name for people, its value, and what it is."""
    state, name = model.state, model.name
    label = _words(state.get("description"))
    if name in _WORDS:
        return " ".join(part for part in (label, _words(state.get("value"))) if part)
    head = f"{label.rstrip(':')}: " if label else ""
    if name in _BARS:
        return f"{head}{_bar(state)}{_of(state) if alone else ''}"
    if name == "Button":
        return f"[Button {label!r}]" if label else "[Button]"
    if name in _SECRET:
        return f"{head}[{name}]"
    return f"{head}{_value(state)}[{name or 'widget'}{_range(state)}]"


def _value(state: Mapping[str, Any]) -> str:
    labels = state.get("_options_labels")
    if isinstance(labels, list):
        index = state.get("index")
        chosen = index if isinstance(index, list) else [index]
        names = [_words(labels[at]) for at in chosen if isinstance(at, int) and 0 <= at < len(labels)]
        return f"{', '.join(names) or 'nothing'} "
    if "value" not in state:
        return ""
    value = state["value"]
    return f"{_clip(value if isinstance(value, str) else _plain(value))} "


def _range(state: Mapping[str, Any]) -> str:
    labels = state.get("_options_labels")
    if isinstance(labels, list):
        more = ", …" if len(labels) > _MOST_OPTIONS else ""
        return f": {', '.join(map(_words, labels[:_MOST_OPTIONS]))}{more}"
    low, high, step = state.get("min"), state.get("max"), state.get("step")
    if not _is_number(low) or not _is_number(high):
        return ""
    return f" {low:g} … {high:g}{f', step {step:g}' if _is_number(step) else ''}"


def _bar(state: Mapping[str, Any]) -> str:
    value, low, high = state.get("value"), state.get("min"), state.get("max")
    if not _is_number(value) or not _is_number(low) or not _is_number(high) or not high > low:
        return "|          |"
    done = round(_BAR_WIDTH * min(1.0, max(0.0, (value - low) / (high - low))))
    return f"|{'█' * done}{' ' * (_BAR_WIDTH - done)}|"


def _of(state: Mapping[str, Any]) -> str:
    value, high = state.get("value"), state.get("max")
    return f" {value:g}/{high:g}" if _is_number(value) and _is_number(high) else ""


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _words(value: Any) -> str:
    # tqdm pads with figure spaces.
    return " ".join(_clip(html_text(_text(value))).replace("\u2007", " ").split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _plain(value: Any, depth: int = 0) -> str:
    if isinstance(value, list | Mapping) and depth > 2:
        return "…"
    if isinstance(value, list):
        return f"[{', '.join(_plain(part, depth + 1) for part in value[:_MOST_OPTIONS])}]"
    if isinstance(value, Mapping):
        parts = [f"{key}: {_plain(part, depth + 1)}" for key, part in list(value.items())[:_MOST_OPTIONS]]
        return f"{{{', '.join(parts)}}}"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e300 else str(value)


def _clip(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"
