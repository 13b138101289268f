"""The client's end of standard input and output: lines in, lines out, without a thread per line.

While the wire is open, descriptor 0 reads nothing and descriptor 1 is standard error, so a stray `print` or a
kernel's output never reaches the client (MCP specification, "Transports", stdio: nothing but messages on stdout).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread

_CHUNK = 1 << 16


class Wire:
    """Reads from one descriptor and writes to another. Made by `claim_stdio`."""

    def __init__(self, source: int, sink: int, *, sink_waits: bool) -> None:
        self._source = source
        self._sink = sink
        self._source_waits = _can_wait(source)
        self._sink_waits = sink_waits
        self._buffer = bytearray()
        self._writing = anyio.Lock(fast_acquire=True)
        if self._source_waits:
            os.set_blocking(source, False)
        if sink_waits:
            os.set_blocking(sink, False)

    async def lines(self) -> AsyncIterator[bytes]:
        """Every line that is not blank, until the other side closes. May be left and taken up again."""
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                searched = 0
                if line.strip():
                    yield line
                continue
            searched = len(self._buffer)
            chunk = await self._read()
            if not chunk:
                return
            self._buffer += chunk

    async def send(self, line: bytes) -> None:
        """Write one message and its newline, whole."""
        async with self._writing:
            rest = memoryview(line + b"\n")
            while rest:
                if self._sink_waits:
                    try:
                        written = os.write(self._sink, rest)
                    except BlockingIOError:
                        await anyio.wait_writable(self._sink)
                        continue
                else:
                    written = await anyio.to_thread.run_sync(os.write, self._sink, rest)
                rest = rest[written:]

    async def _read(self) -> bytes:
        if not self._source_waits:
            return await anyio.to_thread.run_sync(os.read, self._source, _CHUNK, abandon_on_cancel=True)
        while True:
            await anyio.wait_readable(self._source)
            try:
                return os.read(self._source, _CHUNK)
            except BlockingIOError:
                continue


@contextmanager
def claim_stdio() -> Iterator[Wire]:
    """Take descriptors 0 and 1 for the client, and give them back afterwards."""
    source, sink = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    # A pipe that standard error shares would turn non-blocking for the log lines too.
    sink_waits = _can_wait(sink) and not os.path.sameopenfile(1, 2)
    try:
        os.dup2(nowhere, 0)
        os.dup2(2, 1)
        yield Wire(source, sink, sink_waits=sink_waits)
    finally:
        os.set_blocking(source, True)
        os.set_blocking(sink, True)
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(nowhere)


def _can_wait(descriptor: int) -> bool:
    """Whether the event loop can wait for it: a pipe or a socket, and not on Windows."""
    mode = os.fstat(descriptor).st_mode
    return sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))
