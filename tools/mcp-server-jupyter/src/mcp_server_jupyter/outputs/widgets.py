"""Pure: the widgets of one kernel process, followed by the comm messages that tell of their state.

No widget is drawn: only the state is kept, as a front end's model has it, and what Output widgets capture. Sources:
"Messaging in Jupyter" (comms), the widget messaging protocol 2 of ipywidgets (`method`, `state`, `buffer_paths`), and
nbclient for which outputs an Output widget takes and how a notebook's metadata keep the state.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .reducer import OutputReducer
from .values import as_text, mime_value

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..ports import Message

STATE_MIME = "application/vnd.jupyter.widget-state+json"
VIEW_MIME = "application/vnd.jupyter.widget-view+json"
_REFERENCE = "IPY_MODEL_"
_CAPTURED = frozenset({"stream", "display_data", "execute_result", "error", "clear_output"})
_DEEPEST = 50


@dataclass(eq=False)
class WidgetModel:
    """One widget's state.

    Attributes:
        opened_by: the request that made it; "" for one that an earlier server saw.
        buffers: what was sent as bytes, by its path in the state, as nbclient stores it (base64).
        closed: the kernel has closed it: it is not shown any more.
        lost: bytes of state that were over the limit and not kept; the rest is no whole widget.
    """

    opened_by: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    buffers: dict[tuple[str | int, ...], dict[str, Any]] = field(default_factory=dict)
    closed: bool = False
    lost: int = 0
    _sizes: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    _captured: OutputReducer | None = None

    @property
    def size(self) -> int:
        """Bytes of its state and buffers, about."""
        return sum(self._sizes.values()) + (0 if self._captured is None else self._captured.size)

    @property
    def name(self) -> str:
        """Its kind, as "IntSlider"; "" for a comm that is no widget."""
        return str(self.state.get("_model_name", "")).removesuffix("Model")

    @property
    def is_output(self) -> bool:
        """Whether it is an Output widget, which may capture what cells put out."""
        return self.state.get("_model_name") == "OutputModel" and self.state.get("_model_module") == (
            "@jupyter-widgets/output"
        )

    def whole_state(self) -> dict[str, Any]:
        """Its state, with what it has captured."""
        return self.state if self._captured is None else {**self.state, "outputs": self._captured.outputs()}

    def saved(self) -> dict[str, Any]:
        """Its entry in a notebook's metadata."""
        entry: dict[str, Any] = {
            "model_name": self.state.get("_model_name"),
            "model_module": self.state.get("_model_module"),
            "model_module_version": self.state.get("_model_module_version"),
            "state": self.whole_state(),
        }
        if self.buffers:
            entry["buffers"] = list(self.buffers.values())
        return entry


class WidgetModels(Mapping[str, WidgetModel]):
    """The widgets of one kernel process by their model's id, in the order they were made.

    Args:
        max_bytes: of all states and buffers together; None keeps everything. Over it closed widgets go first, then the
            oldest; a state that has no room even so is not kept, and its widget is not saved.

    Attributes:
        version: how many changes there were.
        forgotten: widgets that made room for others.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self.version = 0
        self.forgotten = 0
        self._max = max_bytes
        self._models: dict[str, WidgetModel] = {}
        self._size = 0
        # Which Output widgets take what a request puts out: the last one that asked for it.
        self._captures: dict[str, list[str]] = {}
        self._unsynced: dict[str, None] = {}

    def __getitem__(self, model_id: str) -> WidgetModel:
        return self._models[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def restore(self, saved: Mapping[str, WidgetModel]) -> None:
        """Go on from what a notebook had stored; what is known already is newer."""
        for model_id, model in saved.items():
            if model_id in self._models:
                continue
            self._models[model_id] = model
            for key, value in model.state.items():
                model._sizes[key,] = mime_value("application/json", value)[1]
            for path, buffer in model.buffers.items():
                model._sizes["", *path] = len(buffer["data"])
            self._size += model.size
            self._capture(model_id, model, before="")

    # ------------------------------------------------------------------ messages

    def feed(self, message: Message) -> bool:
        """Take one message. True when it was a comm's, which changes no outputs. Never raises."""
        if not message.msg_type.startswith("comm_"):
            return False
        content = message.content
        comm_id = content.get("comm_id")
        data = content.get("data")
        if not isinstance(comm_id, str):
            return True
        if message.msg_type == "comm_close":
            model = self._models.get(comm_id)
            if model is not None:
                model.closed = True
                self.version += 1
        elif isinstance(data, dict) and isinstance(data.get("state"), dict):
            if message.msg_type == "comm_open":
                self._drop(comm_id)
                self._models[comm_id] = WidgetModel(message.parent_id)
            model = self._models.setdefault(comm_id, WidgetModel(message.parent_id))
            self._update(comm_id, model, data, message)
        return True

    def _update(self, model_id: str, model: WidgetModel, data: dict[str, Any], message: Message) -> None:
        before, state = self._msg_id(model), data["state"]
        old_size = model.size
        for key, value in state.items():
            key = as_text(key)
            model.state[key], size = mime_value("application/json", value)
            model._sizes[key,] = size
            for path in [path for path in model.buffers if path[0] == key]:
                del model.buffers[path], model._sizes["", *path]
        for path, buffer in _buffers(data.get("buffer_paths"), message.buffers):
            encoded = base64.b64encode(buffer).decode()
            model.buffers[path] = {"data": encoded, "encoding": "base64", "path": list(path)}
            model._sizes["", *path] = len(encoded)
        if "outputs" in state:
            # What stands for its outputs is made anew from what the kernel says.
            model._captured = None
        self.version += 1
        self._size += model.size - old_size
        self._make_room(model_id, model)
        self._capture(model_id, model, before)

    def _capture(self, model_id: str, model: WidgetModel, before: str) -> None:
        now = self._msg_id(model)
        if now == before or not model.is_output:
            return
        if before in self._captures:
            self._captures[before] = [other for other in self._captures[before] if other != model_id]
            if not self._captures[before]:
                del self._captures[before]
        if now:
            self._captures.setdefault(now, []).append(model_id)

    @staticmethod
    def _msg_id(model: WidgetModel) -> str:
        value = model.state.get("msg_id")
        return value if isinstance(value, str) else ""

    def capture(self, message: Message) -> bool:
        """Give an output message to the Output widget that takes what its request puts out. False if there is none."""
        takers = self._captures.get(message.parent_id)
        if not takers or message.msg_type not in _CAPTURED or message.channel != "iopub":
            return False
        model = self._models[takers[-1]]
        if model._captured is None:
            model._captured = OutputReducer(max_bytes=self._max)
            model._captured.restore(outputs_of(model.state), None)
            self._size -= model._sizes.pop(("outputs",), 0)
        before = model._captured.size
        model._captured.feed(_without_display_id(message))
        self._size += model._captured.size - before
        self._unsynced[takers[-1]] = None
        self.version += 1
        self._make_room(takers[-1], model)
        return True

    def take_unsynced(self) -> dict[str, list[NotebookNode]]:
        """The outputs of Output widgets that the kernel does not know of yet, by model; each once."""
        taken, self._unsynced = self._unsynced, {}
        return {
            model_id: self._models[model_id].whole_state()["outputs"] for model_id in taken if model_id in self._models
        }

    # ------------------------------------------------------------------ bounds

    def _make_room(self, model_id: str, model: WidgetModel) -> None:
        if self._max is None or self._size <= self._max:
            return
        # What cannot fit takes nothing else with it.
        for path, size in sorted(model._sizes.items(), key=lambda item: -item[1]):
            if sum(model._sizes.values()) <= self._max:
                break
            self._leave_out(model, path, size)
        others = [each for each in self._models if each != model_id and each not in self._capturing()]
        for other in sorted(others, key=lambda each: not self._models[each].closed):
            if self._size <= self._max:
                return
            self._drop(other)
            self.forgotten += 1

    def _leave_out(self, model: WidgetModel, path: tuple[str | int, ...], size: int) -> None:
        del model._sizes[path]
        if path[0] == "" and len(path) > 1:
            model.buffers.pop(path[1:], None)
        else:
            model.state.pop(str(path[0]), None)
        model.lost += size
        self._size -= size

    def _capturing(self) -> set[str]:
        return {model_id for takers in self._captures.values() for model_id in takers}

    def _drop(self, model_id: str) -> None:
        model = self._models.pop(model_id, None)
        if model is not None:
            self._size -= model.size
            self._capture(model_id, WidgetModel(state={**model.state, "msg_id": ""}), self._msg_id(model))


# --------------------------------------------------------------------------- in notebooks


def saved_state(models: Mapping[str, WidgetModel]) -> dict[str, Any]:
    """What a notebook's `metadata.widgets` holds under `STATE_MIME`, as nbclient writes it."""
    states = {
        model_id: model.saved() for model_id, model in models.items() if "_model_name" in model.state and not model.lost
    }
    return {"state": states, "version_major": 2, "version_minor": 0}


def models_in(metadata: Any) -> dict[str, WidgetModel]:
    """The widgets whose state a notebook's metadata hold, as far as that is of version 2."""
    widgets = metadata.get("widgets") if isinstance(metadata, Mapping) else None
    stored = widgets.get(STATE_MIME) if isinstance(widgets, Mapping) else None
    if not isinstance(stored, Mapping) or stored.get("version_major") != 2:
        return {}
    states = stored.get("state")
    found = {key: _stored(entry) for key, entry in states.items()} if isinstance(states, Mapping) else {}
    return {key: model for key, model in found.items() if model is not None}


def _stored(entry: Any) -> WidgetModel | None:
    state = entry.get("state") if isinstance(entry, Mapping) else None
    if not isinstance(state, Mapping):
        return None
    keys = ("model_name", "model_module", "model_module_version")
    named = {f"_{key}": entry[key] for key in keys if entry.get(key) is not None}
    model = WidgetModel(state={**named, **state})
    buffers = entry.get("buffers")
    for buffer in buffers if isinstance(buffers, list) else ():
        path = _path(buffer.get("path")) if isinstance(buffer, Mapping) else None
        if path is not None and buffer.get("encoding") == "base64" and isinstance(buffer.get("data"), str):
            model.buffers[path] = {"data": buffer["data"], "encoding": "base64", "path": list(path)}
    return model


def view_of(output: Any) -> str | None:
    """The model that an output shows; None where it shows no widget."""
    data = output.get("data") if isinstance(output, Mapping) else None
    view = data.get(VIEW_MIME) if isinstance(data, Mapping) else None
    model_id = view.get("model_id") if isinstance(view, Mapping) else None
    return model_id if isinstance(model_id, str) else None


def views_in(cells: Iterable[Mapping[str, Any]]) -> set[str]:
    """The models that the outputs of cells show."""
    outputs = (output for cell in cells if isinstance(cell.get("outputs"), list) for output in cell["outputs"])
    return {model_id for output in outputs if (model_id := view_of(output)) is not None}


def reachable(models: Mapping[str, WidgetModel], roots: Iterable[str]) -> set[str]:
    """The models that these show, and are made of."""
    found: set[str] = set()
    waiting = [root for root in roots if root in models]
    while waiting:
        model_id = waiting.pop()
        if model_id in found:
            continue
        found.add(model_id)
        waiting += [other for other in _references(models[model_id].state) if other in models]
    return found


def reference(value: Any) -> str | None:
    """The model that a value of a state names."""
    return value.removeprefix(_REFERENCE) if isinstance(value, str) and value.startswith(_REFERENCE) else None


def outputs_of(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The outputs that an Output widget's state holds."""
    outputs = state.get("outputs")
    found = outputs if isinstance(outputs, list) else []
    return [each for each in found if isinstance(each, Mapping) and isinstance(each.get("output_type"), str)]


def buffer_of(model: WidgetModel, key: str) -> bytes | None:
    """A buffer of a model, by its key in the state."""
    found = model.buffers.get((key,))
    if found is None:
        return None
    try:
        return base64.b64decode(found["data"], validate=True)
    except binascii.Error:
        return None


def _references(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        if (named := reference(value)) is not None:
            yield named
    elif depth < _DEEPEST and isinstance(value, Mapping):
        model_id = view_of(value)
        if model_id is not None:
            yield model_id
        for inner in value.values():
            yield from _references(inner, depth + 1)
    elif depth < _DEEPEST and isinstance(value, list):
        for inner in value:
            yield from _references(inner, depth + 1)


def _buffers(paths: Any, buffers: Iterable[bytes | memoryview]) -> Iterator[tuple[tuple[str | int, ...], bytes]]:
    for path, buffer in zip(paths if isinstance(paths, list) else (), buffers, strict=False):
        if (known := _path(path)) is not None:
            yield known, bytes(buffer)


def _path(path: Any) -> tuple[str | int, ...] | None:
    if not isinstance(path, list) or not path or not all(isinstance(part, str | int) for part in path):
        return None
    return tuple(path)


def _without_display_id(message: Message) -> Message:
    """As nbclient has it, a display inside an Output widget is not updated later."""
    if "transient" not in message.content:
        return message
    return replace(message, content={**message.content, "transient": {}})
