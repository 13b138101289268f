"""Noticing what other programs write below the root, without being asked."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from .listing import is_left_out
from .paths import NOTEBOOK_SUFFIX

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

logger = logging.getLogger(__name__)

START_SECONDS = 1.0
"""A server that starts has better things to do; what is saved meanwhile is told then."""

MAX_FOLDERS = 2_000
"""Watched at most: the system has a limit for all programs of a user together (inotify(7))."""

_STEP_MS = 50
_DEBOUNCE_MS = 150
_NO_TIMEOUT = 0
_CLOCK_SECONDS = 0.02
_ADDED, _DELETED = 1, 3
_REMEMBERED = 1_000

Noticed = Callable[[Path], Coroutine[Any, Any, None]]


async def watch(root: Path, noticed: Noticed) -> None:
    """Call `noticed` with each notebook below the root that is written or deleted, until cancelled.

    Folders that listings leave out are not watched, nor virtual environments. Where the system cannot watch, that is
    logged, and changes are noticed by the next call only.
    """
    since = time.time() - _CLOCK_SECONDS
    await anyio.sleep(START_SECONDS)
    stop = threading.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_set_when_cancelled, stop)
        news = _News(lambda path: tasks.start_soon(noticed, path))
        known: set[Path] | None = None
        try:
            while True:
                folders = await anyio.to_thread.run_sync(_folders, root)
                try:
                    watcher = await anyio.to_thread.run_sync(_open_watcher, folders)
                except FileNotFoundError:
                    continue  # one of them has gone meanwhile
                for path in await anyio.to_thread.run_sync(_missed, folders, known, since):
                    news.tell(path)
                known = set(folders)
                since = await _follow(watcher, known, stop, news)
        except (OSError, RuntimeError) as error:
            logger.warning("changes by other programs are noticed by the next call only: %s", error)
        finally:
            tasks.cancel_scope.cancel()


class _News:
    """Tells every change once, also if it was seen in two ways: by looking and by watching."""

    def __init__(self, tell: Callable[[Path], object]) -> None:
        self._tell = tell
        self._told: dict[Path, float] = {}

    def tell(self, path: Path) -> None:
        changed_at = _changed_at(path)
        if changed_at and self._told.get(path) == changed_at:
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[path] = changed_at
        self._tell(path)


async def _set_when_cancelled(stop: threading.Event) -> None:
    """End the watching thread, which cannot be cancelled, with the tasks."""
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()


def _open_watcher(folders: Sequence[Path]) -> RustNotify:
    from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - 30 ms, and a server may never come here

    return RustNotify([str(folder) for folder in folders], False, False, 300, False, True)


async def _follow(watcher: RustNotify, folders: set[Path], stop: threading.Event, news: _News) -> float:
    """Tell what changes until there are other folders; returns since when that may have missed something."""
    with watcher:
        while True:
            found = await anyio.to_thread.run_sync(watcher.watch, _DEBOUNCE_MS, _STEP_MS, _NO_TIMEOUT, stop)
            now = time.time() - _CLOCK_SECONDS
            if isinstance(found, str):
                await anyio.lowlevel.checkpoint()
                continue
            changes = [(change, Path(path)) for change, path in found]
            for path in {path for _, path in changes if path.name.endswith(NOTEBOOK_SUFFIX)}:
                if not is_left_out(path.name):
                    news.tell(path)
            if any(_is_other_folder(change, path, folders) for change, path in changes):
                return now - _DEBOUNCE_MS / 1e3


def _is_other_folder(change: int, path: Path, folders: set[Path]) -> bool:
    if change == _DELETED:
        return path in folders
    return change == _ADDED and not is_left_out(path.name) and path.is_dir() and not path.is_symlink()


def _folders(root: Path) -> list[Path]:
    """The folders to watch, those next to the root first. Raises OSError if the root is gone."""
    found, waiting = [root], deque([root])
    os.stat(root)
    while waiting:
        for below in _folders_in(waiting.popleft()):
            if len(found) == MAX_FOLDERS:
                logger.warning("only the first %s folders are watched for changes by other programs", MAX_FOLDERS)
                return found
            found.append(below)
            waiting.append(below)
    return found


def _folders_in(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(e.name for e in entries if not is_left_out(e.name) and e.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in found:
        if not (folder / name / "pyvenv.cfg").exists():
            yield folder / name


def _missed(folders: Sequence[Path], known: set[Path] | None, since: float) -> list[Path]:
    """Notebooks that were changed while nobody watched, and those in folders that came since; at first, none did."""
    return [
        path
        for folder in folders
        for path in _notebooks_in(folder)
        if (known is not None and folder not in known) or _changed_at(path) > since
    ]


def _notebooks_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [folder / n for n in os.listdir(folder) if n.endswith(NOTEBOOK_SUFFIX) and not is_left_out(n)]
    return []


def _changed_at(path: Path) -> float:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_ctime
    return 0.0
