"""Finding the server of a root, or starting it. The standard library only."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from ...errors import Unavailable
from ...ownership import Held, SocketsForbidden, connect, hold
from ...settings import Settings
from .detach import Serve, can_fork, fork_server, spawn_server

_REACH_SECONDS = 30.0


def reach(
    settings: Settings, serve: Serve, asked: Mapping[str, Any], start_from: float = 0.0
) -> tuple[socket.socket, bool]:
    """A connection to the root's server, started if there is none; and whether we started one.

    Raises:
        SocketsForbidden
        InvalidRequest: the state folder cannot be written.
        Unavailable: another process holds the root and takes no clients.
    """
    end = time.monotonic() + _REACH_SECONDS
    started = False
    while True:
        connection = connect(settings)
        if connection is not None:
            return connection, started
        if time.monotonic() >= start_from:
            if can_fork():
                held = hold(settings)
                if held is not None:
                    listener, connection = _listen_and_connect(settings, held)
                    fork_server(settings, held, listener, serve)
                    started = True
                    if connection is not None:
                        return connection, started
                    continue
            elif not started:
                spawn_server(settings, asked)
                started = True
        if time.monotonic() > end:
            raise Unavailable(
                f"Another process holds {settings.root} and takes no clients.",
                hint=f"End it, or look into {settings.root_state} with `mcp-server-jupyter doctor`.",
            )
        # Neither a lock nor another process's socket can be waited for.
        time.sleep(0.01)


def _listen_and_connect(settings: Settings, held: Held) -> tuple[socket.socket, socket.socket | None]:
    """The listener of a server to be, and a connection that waits for it.

    Connecting before the server is there tells in time whether we may: it would hold the root where we cannot reach it.
    """
    try:
        listener = held.listen()
    except OSError as error:
        held.close()
        raise SocketsForbidden(error) from error
    try:
        return listener, connect(settings)
    except SocketsForbidden:
        listener.close()
        held.retract()
        held.close()
        raise
