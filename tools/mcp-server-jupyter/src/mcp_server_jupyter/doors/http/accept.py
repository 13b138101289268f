"""Accepting when no file descriptor is left: connections wait, and the log says so once in a while.

asyncio then rests for a second, but first it tries, and reports, as often as the backlog is long. So it is given a
backlog of one, and the listening socket its real one afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

TRIES = 1
BACKLOG = 2048
SAY_AGAIN_SECONDS = 60.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def restore_backlog(listeners: Iterable[socket.socket]) -> None:
    """Let as many connections wait as before asyncio was told to accept one at a time."""
    for listener in listeners:
        listener.listen(BACKLOG)


@contextmanager
def exhaustion_said_once() -> Iterator[None]:
    """Within the running loop, a failed accept is one warning in a minute, not an error with a traceback each time."""
    loop = asyncio.get_running_loop()
    former = loop.get_exception_handler()
    next_time = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal next_time
        error = context.get("exception")
        if "socket" in context and isinstance(error, OSError) and error.errno in _EXHAUSTED:
            if loop.time() >= next_time:
                next_time = loop.time() + SAY_AGAIN_SECONDS
                logger.warning("no descriptor is left: new connections wait", extra={"reason": error.strerror})
        elif former is not None:
            former(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(former)
