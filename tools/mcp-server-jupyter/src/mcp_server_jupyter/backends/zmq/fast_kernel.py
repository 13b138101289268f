"""Runs inside ipykernel, sent to it as a silent request when it starts: flushes cost nothing when nothing is to flush.

What is printed is published after 50 ms instead of 200, so that whoever watches sees it soon.

ipykernel flushes stdout and stderr several times per cell, and each flush is a round trip to its IOPub thread, also
when nothing was printed. Here a flush that has nothing to do returns at once. What was written past Python, straight
to the file descriptors, is read by the flush itself instead of by a thread some time later, so that it belongs to
the cell that wrote it also without the pause ipykernel makes after each cell. Nothing of this shows in the user's
namespace or history.
"""

import codecs
import os
import select
import sys
import threading
import time
from typing import Any

from IPython.core.getipython import get_ipython

_STREAM = ("_flush_pending", "_schedule_flush")
_DESCRIPTOR = ("_original_stdstream_copy", "_original_stdstream_fd", "_should_watch", "watch_fd_thread")
_AT_MOST = 1 << 20
_WAITING_MESSAGES = 100_000
_PAUSE = 0.0005
_PUBLISH_SECONDS = 0.05


def install() -> None:
    """Replace the flush of both streams; streams of another make are left alone."""
    for stream in (sys.stdout, sys.stderr):
        if type(stream).__module__ != "ipykernel.iostream" or not _has(stream, _STREAM):
            continue
        setattr(stream, "flush_interval", _PUBLISH_SECONDS)  # noqa: B010 - not an attribute of every text stream
        if getattr(stream, "_fid", None) is None:
            _quicken(stream, None)
        elif _has(stream, _DESCRIPTOR):
            _quicken(stream, _watch_descriptor(stream))


def keep_messages() -> None:
    """Let more than the usual thousand messages wait for a reader: ZMQ drops what is published beyond that.

    A reader that has no CPU for a moment is enough for it.
    """
    thread: Any = getattr(getattr(get_ipython(), "kernel", None), "iopub_thread", None)
    socket = getattr(thread, "socket", None)
    if socket is not None and hasattr(thread, "schedule"):
        # By the thread whose socket it is.
        thread.schedule(lambda: setattr(socket, "sndhwm", _WAITING_MESSAGES))


def keep_streams() -> None:
    """After each cell, put stdout and stderr back where the cell has left something that cannot be written to.

    IPython fails around the next cell otherwise, and never answers it or any other.
    """
    shell = get_ipython()
    ours = {"stdout": sys.stdout, "stderr": sys.stderr}

    def put_back() -> None:
        for name, stream in ours.items():
            if not _is_writable(getattr(sys, name, None)):
                setattr(sys, name, stream)
                print(f"sys.{name} could not be written to any more and is the notebook's again.", file=stream)

    if shell is not None:
        shell.events.register("post_execute", put_back)


def _is_writable(stream: Any) -> bool:
    try:
        stream.flush()
        # As IPython does around each cell.
        stream.write = stream.write
    except Exception:  # noqa: BLE001  (whatever a user's object raises)
        return False
    return True


def _has(stream: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(stream, name) for name in names)


def _quicken(stream: Any, take: Any) -> None:
    whole_flush = stream.flush
    schedule = stream._schedule_flush
    process = os.getpid()
    written: object = object()
    flushed: object = None
    forked = False

    def has_forked() -> None:
        nonlocal forked
        forked = True

    def schedule_flush() -> None:
        # `write` calls this after it has filled the buffer. A token, not a flag: a flush that was under way when
        # something was written must not count as its flush.
        nonlocal written
        written = object()
        if not stream._flush_pending:
            schedule()

    def flush() -> None:
        nonlocal flushed
        if os.getpid() != process:
            whole_flush()
            return
        if take is not None:
            take()
        if forked:
            # A forked child's output comes through a socket of the IOPub thread, and nothing here can tell when:
            # from now on, take the time that ipykernel takes.
            time.sleep(_PAUSE)
            whole_flush()
            return
        token = written
        if token is not flushed:
            whole_flush()
            flushed = token

    os.register_at_fork(after_in_parent=has_forked)
    stream._schedule_flush = schedule_flush
    stream.flush = flush


def _watch_descriptor(stream: Any) -> Any:
    """Take the descriptor's pipe over from ipykernel's thread; a function that reads what is in it."""
    stream._should_watch = False
    os.write(stream._original_stdstream_fd, b"\0")
    stream.watch_fd_thread.join(1)
    pipe, echo = stream._fid, stream._original_stdstream_copy
    os.set_blocking(pipe, False)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    lock = threading.Lock()

    def take() -> bool:
        taken = 0
        with lock:
            while taken < _AT_MOST:
                try:
                    data = os.read(pipe, 1 << 16)
                except BlockingIOError:
                    return True
                if not data:
                    return False
                taken += len(data)
                text = decoder.decode(data)
                if text:
                    stream.write(text)
                os.write(echo, data)
        return True

    def watch() -> None:
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while poller.poll() and take():
            pass

    thread = threading.Thread(target=watch, daemon=True, name=f"{stream.name} descriptor")
    stream.watch_fd_thread = thread
    thread.start()
    return take


install()
keep_messages()
keep_streams()
