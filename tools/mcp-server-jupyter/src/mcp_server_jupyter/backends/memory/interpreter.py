"""Running cells inside this process: in a namespace, in a thread, until somebody interrupts them."""

from __future__ import annotations

import ast
import asyncio
import builtins
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from ...ports import Channel


class Interpreter:
    """Runs cells in a namespace, in a thread, and can be interrupted there."""

    def __init__(self, epoch: int, send: Callable[[str, Channel, str, dict[str, Any]], None]) -> None:
        self.count = 0
        self._namespace: dict[str, Any] = {"__name__": "__main__", "_epoch": epoch}
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._state = threading.Lock()
        self._running = False
        self._interrupted = False
        self._stopped = False
        self._wake = threading.Event()
        self._answers: list[str] = []

    def execute(self, parent: str, content: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
        """One execute_request; what its reply says."""
        silent = bool(content.get("silent"))
        # Interruptible before anybody can know that the cell runs, as a kernel process is.
        self._set_running(True)
        try:
            if not silent:
                self.count += 1
                self._publish(parent, "execute_input", {"code": content["code"], "execution_count": self.count})
            self._run(parent, cell, silent, bool(content.get("allow_stdin")))
        except KernelStopped:
            return {"status": "aborted"}
        except BaseException as error:  # noqa: BLE001  (whatever a cell raises is its result)
            failed = {
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": traceback.format_exc().split("\n"),
            }
            self._publish(parent, "error", failed)
            return {"status": "error", "execution_count": self.count, **failed}
        finally:
            self._set_running(False)
        return {"status": "ok", "execution_count": self.count, "user_expressions": {}, "payload": []}

    def _set_running(self, running: bool) -> None:
        with self._state:
            self._running, self._interrupted = running, False
            self._wake.clear()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs, as SIGINT would: before its next statement."""
        with self._state:
            if self._running:
                self._interrupted = True
                self._wake.set()

    def stop(self) -> None:
        """End the cell that runs, if any, and publish nothing more."""
        self._stopped = True
        self._wake.set()

    def answer(self, text: str) -> None:
        """Answer `input()`."""
        self._answers.append(text)
        self._wake.set()

    def _look(self) -> None:
        """What the cell's code does before its statements: end, if somebody asked for it.

        Nothing is raised from outside (PyThreadState_SetAsyncExc): that can hit a callback of the garbage collector,
        where Python drops it.
        """
        if self._stopped:
            raise KernelStopped
        with self._state:
            interrupted, self._interrupted = self._interrupted, False
        if interrupted:
            raise KeyboardInterrupt

    def _run(self, parent: str, cell: Cell, silent: bool, allow_stdin: bool) -> None:
        if cell.error is not None:
            raise cell.error

        def printed(*values: object, sep: str | None = " ", end: str | None = "\n", file: Any = None, **_: Any) -> None:
            name = "stderr" if file is sys.stderr else "stdout"
            text = (" " if sep is None else sep).join(map(str, values)) + ("\n" if end is None else end)
            self._publish(parent, "stream", {"name": name, "text": text})

        def asked(prompt: object = "") -> str:
            if not allow_stdin:
                raise RuntimeError("raw_input was called, but this frontend does not support input requests.")
            self._answers.clear()
            self._call(parent, "stdin", "input_request", {"prompt": str(prompt), "password": False})
            self._wait(None)
            return self._answers.pop()

        given = {"print": printed, "input": asked, "sleep": self._wait, _LOOK: self._look}
        self._namespace["__builtins__"] = {**vars(builtins), **given}
        exec(cell.body, self._namespace)
        self._look()
        if cell.last is not None:
            value = eval(cell.last, self._namespace)
            if value is not None and not silent:
                result = {"data": {"text/plain": repr(value)}, "metadata": {}, "execution_count": self.count}
                self._publish(parent, "execute_result", result)

    def _wait(self, seconds: float | None) -> None:
        """Wait for an interrupt or an answer, at most SECONDS."""
        self._wake.wait(seconds)
        self._wake.clear()
        self._look()

    def _publish(self, parent: str, msg_type: str, content: dict[str, Any]) -> None:
        self._call(parent, "iopub", msg_type, content)

    def _call(self, parent: str, channel: Channel, msg_type: str, content: dict[str, Any]) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._send, parent, channel, msg_type, content)


class KernelStopped(BaseException):
    """Raised in a cell whose kernel is stopped."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's code, ready to run: all but its last expression, that, or what is wrong with it."""

    body: CodeType | str = ""
    last: CodeType | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, source: str) -> Cell:
        try:
            tree = ast.parse(source)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            body = compile(_Interruptible().visit(tree), "<cell>", "exec")
            if not isinstance(last, ast.Expr):
                return cls(body)
            return cls(body, compile(ast.Expression(last.value), "<cell>", "eval"))
        except Exception as error:  # noqa: BLE001  (what Python cannot read is the cell's result)
            return cls(error=error)


_LOOK = "__look_for_interrupt__"


class _Interruptible(ast.NodeTransformer):
    """Has a cell look for an interrupt before each of its statements, in loops and functions too."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "handlers", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list) and not isinstance(node, ast.Interactive):
                setattr(node, name, [new for statement in statements for new in _looking(statement)])
        return node


def _looking(statement: ast.AST) -> list[ast.AST]:
    """The statement, and before it, where that may be, a look for an interrupt."""
    first = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    if first or text or not isinstance(statement, ast.stmt):
        return [statement]
    look = ast.Expr(ast.Call(ast.Name(_LOOK, ast.Load()), [], []))
    return [ast.fix_missing_locations(ast.copy_location(look, statement)), statement]
