"""Background tasks whose crash is logged and ends nobody else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.abc

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
