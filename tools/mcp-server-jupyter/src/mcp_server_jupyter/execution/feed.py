"""What running cells put out, told change by change to whoever shows it. Costs little while nobody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..outputs import OutputOp, feed_sink, output_ops, whole
from .execution import Execution

OutputListener = Callable[[Execution, Sequence[OutputOp]], None]


class OutputFeed:
    """The listeners to outputs. Ops of one execution are numbered by its `seq`; the first ones hold the whole."""

    def __init__(self) -> None:
        self._listeners: dict[object, OutputListener] = {}

    def listen(self, listener: OutputListener) -> Callable[[], None]:
        """Call `listener` with what becomes of outputs from now on; it must neither wait nor raise.

        Returns what ends it, which may be called more than once.
        """
        token = object()

        def stop() -> None:
            self._listeners.pop(token, None)

        self._listeners[token] = listener
        return stop

    def advance(self, execution: Execution) -> None:
        """Tell what came since the last time, and hand it to the execution's sink."""
        now = execution.outputs()
        ops = output_ops(execution.shown, now)
        if not ops:
            return
        if not execution.seq:
            ops = whole(now)
        execution.seq += 1
        execution.shown = now
        if execution.sink is not None:
            feed_sink(execution.sink, ops)
        for listener in list(self._listeners.values()):
            listener(execution, ops)
