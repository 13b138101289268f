"""Pure: what became of a cell's outputs, as the few steps that lead from what was shown to what there is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from ..ports import OutputSink


@dataclass(frozen=True, slots=True)
class OutputOp:
    """One step. `output` is what the output at `index` is after it, also for "text", which has added `text` to it."""

    kind: Literal["clear", "append", "text", "replace"]
    index: int = 0
    output: NotebookNode | None = None
    text: str = ""

    def data(self) -> dict[str, Any]:
        """As JSON has it (docs/editor-protocol.md)."""
        if self.kind == "clear":
            return {"op": "clear"}
        if self.kind == "append":
            return {"op": "append", "output": self.output}
        if self.kind == "text":
            return {"op": "text", "index": self.index, "text": self.text}
        return {"op": "replace", "index": self.index, "output": self.output}


def output_ops(before: Sequence[NotebookNode], after: Sequence[NotebookNode]) -> list[OutputOp]:
    """The steps from one list of outputs to another, in order; none when they show the same.

    Outputs are values: identical objects count as unchanged without a look inside.
    """
    if len(after) < len(before):
        return whole(after)
    ops: list[OutputOp] = []
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if old is new:
            continue
        if (added := _added_text(old, new)) is None:
            ops.append(OutputOp("replace", index, new))
        elif added:
            ops.append(OutputOp("text", index, new, added))
    return ops + _appended(after, len(before))


def whole(outputs: Sequence[NotebookNode]) -> list[OutputOp]:
    """The steps to these outputs from whatever is shown."""
    return [OutputOp("clear"), *_appended(outputs, 0)]


def feed_sink(sink: OutputSink, ops: Sequence[OutputOp]) -> None:
    """Take the steps in a sink."""
    for op in ops:
        if op.output is None:
            sink.clear()
        elif op.kind == "append":
            sink.append(op.output)
        elif op.kind == "text":
            sink.text(op.index, op.text, op.output)
        else:
            sink.replace(op.index, op.output)


def _appended(outputs: Sequence[NotebookNode], start: int) -> list[OutputOp]:
    return [OutputOp("append", index, outputs[index]) for index in range(start, len(outputs))]


def _added_text(old: NotebookNode, new: NotebookNode) -> str | None:
    """What a stream has more than before, "" for the same output; None when it is another one."""
    if old["output_type"] == "stream" == new["output_type"] and old["name"] == new["name"]:
        before, after = old["text"], new["text"]
        return after[len(before) :] if after.startswith(before) else None
    return "" if old == new else None
