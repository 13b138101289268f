"""Imports modules in a fork server, and refuses what would not be the same in a fork.

A plain file beside `forkserver`, run as that is: the standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Threads, by their names, of libraries that take care of them around a fork: jemalloc (in pyarrow, and so in pandas)
# holds its locks while a fork is made, and has no such thread in a child. Source: jemalloc, background_thread.c.
_KNOW_FORKS = ("jemalloc_bg_thd",)


class Unfit(Exception):
    """This process cannot be forked safely, or not after that import."""


def _threads() -> int:
    """How many threads there are that know nothing of forks."""
    found = 0
    for number in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{number}/comm") as file:
                found += file.read().strip() not in _KNOW_FORKS
        except OSError:
            # It has ended.
            continue
    return found


def _has_threads() -> bool:
    """Whether there is a thread that a fork would lose. Pools that prepare for a fork (OpenBLAS) end theirs for it."""
    if _threads() == 1:
        return False
    with warnings.catch_warnings():
        # Python warns of what is looked for here.
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return _threads() > 1


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            # Of the listing itself.
            continue
    return found


class _Shell:
    """What `get_ipython()` gives while a module is imported: no more than that this is a kernel, as pandas asks."""

    kernel = True

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        self._asked.append(name)
        raise AttributeError(name)


@contextmanager
def _as_in_a_kernel() -> Iterator[list[str]]:
    """What a module asks of the shell while it is imported, which is not there yet."""
    from traitlets.config.configurable import SingletonConfigurable  # noqa: PLC0415 - the kernel's own

    asked: list[str] = []

    def initialized(cls: Any) -> bool:
        asked.append(cls.__name__)
        return False

    before = SingletonConfigurable.__dict__["initialized"]
    shell = _Shell(asked)
    SingletonConfigurable.initialized = classmethod(initialized)  # type: ignore[method-assign, assignment]
    setattr(builtins, "get_ipython", lambda: shell)  # noqa: B010 - unknown to types
    try:
        yield asked
    finally:
        SingletonConfigurable.initialized = before  # type: ignore[method-assign]
        delattr(builtins, "get_ipython")


class _Stream(io.TextIOWrapper):
    """What stdout or stderr is while a module is imported. Who keeps it, as a log's handler, writes to the kernel's."""

    def __init__(self, name: str, descriptor: int) -> None:
        # As the streams of a kernel say of themselves.
        super().__init__(io.FileIO(descriptor, "w", closefd=False), encoding="UTF-8", write_through=True)
        self._stands_for = name

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`."""
        now = getattr(sys, self._stands_for, None)
        return super().write(text) if now is None or now is self else int(now.write(text))

    def flush(self) -> None:
        """See `io.IOBase.flush`."""
        now = getattr(sys, self._stands_for, None)
        if now is None or now is self:
            super().flush()
        else:
            now.flush()


@contextmanager
def _streams() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream("stdout", 1), _Stream("stderr", 2)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class Loader:
    """Imports modules, and refuses what would not be the same in a fork."""

    def __init__(self) -> None:
        self.before = _descriptors()
        self.printed = os.fstat(2).st_size
        self.namespace = {"__name__": "__main__"}

    def load(self, name: str) -> None:
        """Import a module as a cell would.

        Raises:
            Unfit: it cannot be imported, or leaves something behind that a fork does not have.
        """
        if not all(part.isidentifier() for part in name.split(".")):
            raise Unfit("it is no name of a module")
        try:
            with _as_in_a_kernel() as asked, _streams():
                # So that its warnings are of __main__, as a cell's are.
                exec(f"import {name}", self.namespace)
        except Exception as error:  # noqa: BLE001 - whatever a module raises
            raise Unfit(f"its import fails ({type(error).__name__}: {error})") from None
        except SystemExit:
            raise Unfit("its import ends the process") from None
        if asked:
            raise Unfit("it asks for the notebook's shell while it is imported")
        self.check()
        if os.fstat(2).st_size > self.printed:
            raise Unfit("it prints or warns while it is imported")

    def check(self) -> None:
        """Raise `Unfit` if this process has what a fork would lose or share."""
        if _has_threads():
            raise Unfit("it starts a thread")
        if _has_children():
            raise Unfit("it starts a process")
        opened = [target for number, target in _descriptors().items() if self.before.get(number) != target]
        if opened:
            raise Unfit(f"it opens {', '.join(sorted(opened))}")
        if sys.gettrace() is not None or sys.getprofile() is not None:
            raise Unfit("it traces the program")
