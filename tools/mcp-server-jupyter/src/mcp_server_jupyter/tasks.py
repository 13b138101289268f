"""Background tasks whose crash is logged and ends nobody else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio.abc

from .errors import JupyterMcpError

logger = logging.getLogger(__name__)


class Tasks:
    """The server's one task group. A defect in one execution must not end every kernel, so crashes stop here."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._group.start_soon(self._supervise, function, *args)

    async def _supervise(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("background task %s failed", getattr(function, "__qualname__", function))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Task groups wrap what ends them: whoever starts a server is told the one thing that matters."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, JupyterMcpError):
            raise error from None
        raise
