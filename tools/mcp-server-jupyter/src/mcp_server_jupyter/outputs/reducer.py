"""Pure: Jupyter messages of one execution become nbformat outputs.

What a message does to the outputs is said by "Messaging in Jupyter" (jupyter-client) and by nbformat 4; where those are
silent, nbclient's behaviour is followed. Adjacent stream outputs of one name are joined, as Jupyter's front ends do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from .values import as_text, middle_out, mime_value, size_of, too_big

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..ports import Message

Status = Literal["running", "ok", "error", "aborted"]
Update = tuple[str, dict[str, Any], dict[str, Any]]

_PIECE = 64 * 1024
_TAIL_MOST = 1024 * 1024


class OutputReducer:
    """The outputs of one execution, kept up to date message by message.

    Args:
        max_bytes: bytes (UTF-8) of stream text kept, and as many again of other outputs; None keeps everything. Of
            streams over it the head and a rolling tail are kept, with a notice between them; another output over it
            is replaced by a notice. Errors are always kept, clipped at the limit.

    Attributes:
        status: "running" until the reply has come.
        execution_count: as the kernel counts; None before it said so.
        ename, evalue, traceback: of the exception, if one was raised.
        paged: texts that the kernel sent to a pager, as for `len?`. They are no outputs.
        offered: what the kernel offers as the next cell's source (`%load`, `%recall`), if it does.
        foreign_updates: `(display_id, data, metadata)` in order, for `apply_updates` of EARLIER executions that show
            the same display. Whoever has applied them clears the list.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self.status: Status = "running"
        self.execution_count: int | None = None
        self.ename: str | None = None
        self.evalue: str | None = None
        self.traceback: list[str] = []
        self.paged: list[str] = []
        self.offered: str | None = None
        self._max = max_bytes
        self._tail_limit = 0 if max_bytes is None else min(max_bytes // 4, _TAIL_MOST)
        self.foreign_updates: list[Update] = []
        self._compact_at = 100
        self._clear_before_next = False
        self._handlers: dict[str, Callable[[dict[str, Any]], bool]] = {
            "stream": self._on_stream,
            "display_data": self._on_display,
            "execute_result": self._on_result,
            "update_display_data": self._on_update,
            "error": self._on_error,
            "clear_output": self._on_clear,
            "execute_reply": self._on_reply,
        }
        self._reset()

    def _reset(self) -> None:
        self._head: list[_Stream | _Rich] = []
        self._tail: list[_Stream | _Rich] = []
        self._tail_streams: deque[_Stream] = deque()
        self._over = False
        self._stream_bytes = 0
        self._tail_bytes = 0
        self._rich_bytes = 0
        self._dropped_bytes = 0
        self._dropped_lines = 0
        self._displays: dict[str, list[_Rich]] = {}

    @property
    def dropped_bytes(self) -> int:
        """Bytes of stream text that came and were not kept."""
        return self._dropped_bytes

    @property
    def size(self) -> int:
        """Bytes of the outputs kept, about."""
        return self._stream_bytes + self._tail_bytes + self._rich_bytes

    def restore(self, outputs: Iterable[Mapping[str, Any]], execution_count: int | None) -> None:
        """Go on from outputs that were stored. Displays among them are not known by their ids any more."""
        for output in outputs:
            handler = self._handlers.get(output["output_type"])
            if handler is not None:
                handler(dict(output))
        self.execution_count = execution_count

    def feed(self, message: Message) -> bool:
        """Take one message of the execution, of any channel. True when `outputs()` changed. Never raises."""
        content = message.content
        if not isinstance(content, dict):
            return False
        count = _count(content)
        if count is not None and message.channel in ("iopub", "shell"):
            self.execution_count = count
        handler = self._handlers.get(message.msg_type)
        return handler(content) if handler is not None else False

    def outputs(self) -> list[NotebookNode]:
        """The outputs so far, as nbformat 4 nodes. Nodes are values: they never change after they were handed out."""
        return [item.node() for item in self._items()]

    def apply_updates(self, updates: Iterable[Update]) -> bool:
        """Take another execution's `foreign_updates`. True when a display of this one changed."""
        changed = False
        for display_id, data, metadata in updates:
            if self._displays.get(display_id):
                changed = self._update(display_id, *self._bundle({"data": data, "metadata": metadata})) or changed
        return changed

    def add_error(self, ename: str, evalue: str, traceback: Iterable[str] = ()) -> None:
        """Append an error that the kernel could not send, such as its own death."""
        self._on_error({"ename": ename, "evalue": evalue, "traceback": list(traceback)})

    # ------------------------------------------------------------------ one method a message type

    def _on_stream(self, content: dict[str, Any]) -> bool:
        self._clear_if_due()
        name, text = as_text(content.get("name", "stdout")), as_text(content.get("text", ""))
        size = size_of(text)
        if self._over:
            self._to_tail(name, text)
        elif self._max is None or self._stream_bytes + size <= self._max - self._tail_limit:
            self._to_head(name, text, size)
        else:
            room = self._max - self._tail_limit - self._stream_bytes
            cut = room if text.isascii() else room // 4
            self._to_head(name, text[:cut], size_of(text[:cut]))
            self._over = True
            self._to_tail(name, text[cut:])
        return True

    def _on_display(self, content: dict[str, Any]) -> bool:
        return self._show(content, {"output_type": "display_data"})

    def _on_result(self, content: dict[str, Any]) -> bool:
        return self._show(content, {"output_type": "execute_result", "execution_count": _count(content)})

    def _on_update(self, content: dict[str, Any]) -> bool:
        display_id = _display_id(content)
        if display_id is None:
            return False
        data, metadata, size = self._bundle(content)
        self._tell_others((display_id, data, metadata))
        return self._update(display_id, data, metadata, size)

    def _on_error(self, content: dict[str, Any]) -> bool:
        self._clear_if_due()
        ename, evalue = as_text(content.get("ename", "")), as_text(content.get("evalue", ""))
        lines = content.get("traceback")
        traceback = [as_text(line) for line in lines] if isinstance(lines, list) else []
        limit = self._max
        if limit is not None and len(ename) + len(evalue) + sum(map(len, traceback)) > limit:
            ename, evalue, traceback = (
                ename[:1000],
                middle_out(evalue, limit // 2),
                [middle_out("\n".join(traceback), limit // 2)],
            )
        self.ename, self.evalue, self.traceback = ename, evalue, traceback
        self._append(_Rich({"output_type": "error", "ename": ename, "evalue": evalue, "traceback": list(traceback)}, 0))
        return True

    def _on_clear(self, content: dict[str, Any]) -> bool:
        if content.get("wait"):
            self._clear_before_next = True
            return False
        had = bool(self._head or self._tail)
        self._reset()
        return had

    def _on_reply(self, content: dict[str, Any]) -> bool:
        status = content.get("status")
        self.status = status if status in ("ok", "error") else "aborted"
        payloads = content.get("payload")
        for payload in payloads if isinstance(payloads, list) else ():
            if isinstance(payload, dict):
                self._on_payload(payload)
        if status == "error" and self.ename is None:
            lines = content.get("traceback")
            self.ename = as_text(content.get("ename", ""))
            self.evalue = as_text(content.get("evalue", ""))
            self.traceback = [as_text(line) for line in lines] if isinstance(lines, list) else []
        return False

    def _on_payload(self, payload: dict[str, Any]) -> None:
        """What a reply brings besides ("Messaging in Jupyter", payloads)."""
        source, data = payload.get("source"), payload.get("data")
        if source == "page" and isinstance(data, dict) and isinstance(data.get("text/plain"), str):
            text = as_text(data["text/plain"])
            self.paged.append(text if self._max is None else middle_out(text, self._max))
        elif source == "set_next_input" and isinstance(payload.get("text"), str):
            text = as_text(payload["text"])
            self.offered = text if self._max is None else middle_out(text, self._max)

    # ------------------------------------------------------------------ streams

    def _to_head(self, name: str, text: str, size: int) -> None:
        self._stream_bytes += size
        last = self._head[-1] if self._head else None
        if isinstance(last, _Stream) and last.name == name:
            last.add(text)
        else:
            self._head.append(_Stream(name, text))

    def _to_tail(self, name: str, text: str) -> None:
        last = self._tail[-1] if self._tail else None
        if not (isinstance(last, _Stream) and last.name == name and last.parts):
            last = _Stream(name)
            self._tail.append(last)
            self._tail_streams.append(last)
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            last.add(piece)
            self._tail_bytes += size_of(piece)
        while self._tail_bytes > self._tail_limit and self._tail_streams:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._tail_streams[0]
        if oldest.parts:
            piece = oldest.parts.popleft()
            oldest.cached = None
            self._tail_bytes -= size_of(piece)
            self._dropped_bytes += size_of(piece)
            self._dropped_lines += piece.count("\n")
        if not oldest.parts:
            self._tail_streams.popleft()
            if len(self._tail) > 64:
                self._tail = [item for item in self._tail if not (isinstance(item, _Stream) and not item.parts)]

    def _items(self) -> Iterator[_Stream | _Rich]:
        if not self._over:
            yield from self._head
            return
        tail = [item for item in self._tail if not (isinstance(item, _Stream) and not item.parts)]
        first, last = tail[0] if tail else None, self._head[-1] if self._head else None
        if self._dropped_bytes:
            yield from self._head
            yield _Stream("stderr", self._notice())
            yield from tail
        elif isinstance(first, _Stream) and isinstance(last, _Stream) and first.name == last.name:
            yield from self._head[:-1]
            yield _Stream(last.name, last.text() + first.text())
            yield from tail[1:]
        else:
            yield from self._head
            yield from tail

    def _notice(self) -> str:
        return (
            f"\n[… {self._dropped_lines:,} lines ({self._dropped_bytes:,} bytes) of output were not kept: "
            f"the limit for one cell is {self._max:,} bytes …]\n"
        )

    # ------------------------------------------------------------------ everything else

    def _clear_if_due(self) -> None:
        if self._clear_before_next:
            self._clear_before_next = False
            self._reset()

    def _append(self, item: _Rich) -> None:
        (self._tail if self._over else self._head).append(item)

    def _show(self, content: dict[str, Any], fields: dict[str, Any]) -> bool:
        data, metadata, size = self._bundle(content)
        display_id = _display_id(content)
        if display_id is not None:
            self._tell_others((display_id, data, metadata))
            self._update(display_id, data, metadata, size)
        self._clear_if_due()
        if self._max is not None and self._rich_bytes + size > self._max:
            data, metadata, size = too_big(size, self._max), {}, 0
        self._rich_bytes += size
        item = _Rich({**fields, "metadata": metadata, "data": data}, size)
        self._append(item)
        if display_id is not None:
            self._displays.setdefault(display_id, []).append(item)
        return True

    def _update(self, display_id: str, data: dict[str, Any], metadata: dict[str, Any], size: int) -> bool:
        items = self._displays.get(display_id, [])
        before = sum(item.size for item in items)
        if self._max is not None and self._rich_bytes - before + size * len(items) > self._max:
            data, metadata, size = too_big(size, self._max), {}, 0
        self._rich_bytes += size * len(items) - before
        for item in items:
            item.replace(data, metadata, size)
        return bool(items)

    def _tell_others(self, update: Update) -> None:
        self.foreign_updates.append(update)
        if len(self.foreign_updates) >= self._compact_at:
            self.foreign_updates[:] = {each[0]: each for each in self.foreign_updates}.values()
            self._compact_at = 2 * len(self.foreign_updates) + 100

    def _bundle(self, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], int]:
        metadata = content.get("metadata")
        raw = content.get("data")
        size = 0
        data: dict[str, Any] = {}
        for mime, value in raw.items() if isinstance(raw, dict) else ():
            mime = as_text(mime)
            data[mime], part = mime_value(mime, value)
            size += part
        kept = mime_value("application/json", metadata)[0] if isinstance(metadata, dict) else {}
        return data, kept if isinstance(kept, dict) else {}, size


class _Stream:
    """One stream output: parts until somebody asks for the text."""

    __slots__ = ("cached", "name", "parts")

    def __init__(self, name: str, *parts: str) -> None:
        self.name = name
        self.parts: deque[str] = deque(parts)
        self.cached: NotebookNode | None = None

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.cached = None

    def text(self) -> str:
        return "".join(self.parts)

    def node(self) -> NotebookNode:
        if self.cached is None:
            self.cached = _node({"output_type": "stream", "name": self.name, "text": self.text()})
        return self.cached


class _Rich:
    """Any other output."""

    __slots__ = ("cached", "fields", "size")

    def __init__(self, fields: dict[str, Any], size: int) -> None:
        self.fields = fields
        self.size = size
        self.cached: NotebookNode | None = None

    def replace(self, data: dict[str, Any], metadata: dict[str, Any], size: int) -> None:
        self.fields = {**self.fields, "data": data, "metadata": metadata}
        self.size = size
        self.cached = None

    def node(self) -> NotebookNode:
        if self.cached is None:
            self.cached = _node(self.fields)
        return self.cached


def _node(fields: Mapping[str, Any]) -> NotebookNode:
    # nbformat costs a tenth of a second: the first output pays, not the start of the server.
    from nbformat import from_dict  # noqa: PLC0415

    node: NotebookNode = from_dict(dict(fields))  # type: ignore[no-untyped-call]
    return node


def _count(content: dict[str, Any]) -> int | None:
    value = content.get("execution_count")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _display_id(content: dict[str, Any]) -> str | None:
    transient = content.get("transient")
    value = transient.get("display_id") if isinstance(transient, dict) else None
    return value if isinstance(value, str) and value else None
