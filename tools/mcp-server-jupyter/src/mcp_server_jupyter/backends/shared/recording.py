"""What the parents of kernels share: the recorder of this machine and the agent in a pod.

A plain file: the standard library only, no import of the package, Python 3.9 or newer. It is delivered into pods.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any

LENGTH = struct.Struct("<I")
# Source: zmq_socket_monitor(3): the event's number and its value.
MONITOR_EVENT = struct.Struct("=HI")


def pack(parts: Sequence[bytes]) -> bytes:
    """One message as a record: a length, then each frame after its own length."""
    return pack_body(b"", parts)


def pack_body(mark: bytes, parts: Sequence[bytes]) -> bytes:
    """The same with a mark in front of the frames, which `frames` does not expect."""
    body = mark + b"".join(LENGTH.pack(len(part)) + part for part in parts)
    return LENGTH.pack(len(body)) + body


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole records in a log's bytes: the offset after each, and its body (see `frames`)."""
    at = 0
    while at + LENGTH.size <= len(data):
        end = at + LENGTH.size + LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            return
        yield end, data[at + LENGTH.size : end]
        at = end


def frames(body: bytes) -> list[bytes]:
    """The ZMQ frames of one recorded message."""
    found, at = [], 0
    while at < len(body):
        size = LENGTH.unpack_from(body, at)[0]
        found.append(body[at + LENGTH.size : at + LENGTH.size + size])
        at += LENGTH.size + size
    return found


def memory_groups(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[list[str]]:
    """The files that count what this process's memory control groups have killed; of each group, the most exact first.

    Sources: cgroup-v1/memory.txt, memory.oom_control; cgroup-v2.rst, memory.events. In a container the group's own
    path may not be there, and the root of the tree is the container's.
    """
    found = []
    try:
        with open(groups) as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if "memory" in controllers.split(","):
                    found.append([f"{root}/memory{path}/memory.oom_control", f"{root}/memory/memory.oom_control"])
                elif not controllers:
                    found.append([f"{root}{path}/memory.events", f"{root}/memory.events"])
    except OSError:
        return []
    return found


def counted(files: Sequence[str]) -> dict[str, int]:
    """What each of the files that can be read says after `oom_kill`."""
    found = {}
    for name in files:
        try:
            with open(name) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        found[name] = int(line.split()[1])
        except (OSError, ValueError):
            continue
    return found


def parent_death_signal() -> Any:
    """A function that makes the system kill the calling process with its parent (prctl(2)); None where it cannot."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415  (Linux only)

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(1, int(signal.SIGKILL), 0, 0, 0)


def empty(pipe: int) -> None:
    """Read a non-blocking pipe until there is nothing in it."""
    try:
        while os.read(pipe, 4096):
            pass
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
