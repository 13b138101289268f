"""The parent of the processes that tests run in: `python -I -m mcp_server_jupyter.tutor.blind.forkserver`.

It has imported what they need and forks one for each task; no test runs in it. A request is one byte over its standard
input, with two descriptors: the socket that the new process speaks over, and the reading end of a pipe, whose other
end the service closes when that process is to end. All of them end with the service.
"""

from __future__ import annotations

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

from . import checker

_LINE = 3
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork, and end what was forked, until the input ends."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    die = _death_with_parent()
    own = os.getpid()
    # So that what is shared stays shared.
    gc.freeze()
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not control:
                _end(waiting, key)
                continue
            asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not asked:
                for each in list(waiting.get_map().values()):
                    if each.fileobj is not control:
                        _end(waiting, each)
                return
            line, life = descriptors
            child = os.fork()
            if not child:
                _be_child(line, own, die)
            os.close(line)
            waiting.register(life, selectors.EVENT_READ, child)


def _end(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """End a process that is of no more use. Until it is waited for here its number is nobody else's."""
    waiting.unregister(key.fileobj)
    os.close(key.fd)
    os.kill(key.data, signal.SIGKILL)
    os.waitpid(key.data, 0)


def _be_child(line: int, parent: int, die: ctypes._NamedFuncPointer | None) -> NoReturn:
    try:
        os.setsid()
        if die is not None:
            die(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.dup2(line, _LINE)
            os.closerange(_LINE + 1, os.sysconf("SC_OPEN_MAX"))
            checker.serve(_LINE)
    finally:
        os._exit(0)


def _death_with_parent() -> ctypes._NamedFuncPointer | None:
    """Linux's `prctl`, where there is one: who kills this process leaves none of its children."""
    found: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), "prctl", None)
    return found


if __name__ == "__main__":
    sys.path[:] = [each for each in sys.path if each]
    main()
