"""The control groups of the cluster: one tree that holds every process of it.

Version 1 has a tree per controller, version 2 has one; both are handled by
doing the same under each mounted root.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

NAME = "testcluster"
NEEDED = ("cpu", "cpuacct", "cpuset", "memory")
_ROOT = Path("/sys/fs/cgroup")


def is_v2() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def roots() -> list[Path]:
    """Where each hierarchy is mounted."""
    if is_v2():
        return [_ROOT]
    return [path for path in sorted(_ROOT.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def missing() -> list[str]:
    """The controllers the kubelet needs and this machine does not offer."""
    if is_v2():
        offered = (_ROOT / "cgroup.controllers").read_text().split()
        return [name for name in ("cpu", "cpuset", "memory", "pids") if name not in offered]
    return [name for name in NEEDED if not (_ROOT / name).exists()]


def create(memory_limit: int | None = None) -> None:
    """Make the tree; ``system`` is for the components, pods get their own, and all of it shares a limit in bytes."""
    for root in roots():
        if is_v2():
            controllers = " ".join(f"+{name}" for name in ("cpu", "cpuset", "memory", "pids"))
            (root / "cgroup.subtree_control").write_text(controllers)
        for group in (root / NAME, root / NAME / "system"):
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty, and then admits no process
                if not is_v2() and (group / setting).exists():
                    (group / setting).write_text((group.parent / setting).read_text())
            if is_v2() and group.name == NAME:
                (group / "cgroup.subtree_control").write_text(controllers)
    if memory_limit is not None:
        _limit_file().write_text(str(memory_limit))


def memory_limit() -> int | None:
    """The bytes the whole tree may use, or nothing where only the machine bounds it."""
    told = _limit_file().read_text().strip()
    # Version 1 tells "no limit" as the largest number of whole pages.
    return None if told == "max" or int(told) > 1 << 60 else int(told)


def _limit_file() -> Path:
    return _ROOT / NAME / "memory.max" if is_v2() else _ROOT / "memory" / NAME / "memory.limit_in_bytes"


def join() -> None:
    """Put the calling process, and so its children, into the tree."""
    for root in roots():
        (root / NAME / "system" / "cgroup.procs").write_text("0")


def components() -> list[int]:
    """The processes of the ``system`` group, the oldest first."""
    try:
        return sorted(int(pid) for pid in (roots()[0] / NAME / "system" / "cgroup.procs").read_text().split())
    except OSError:
        return []


def processes() -> set[int]:
    """Every process in the tree, as the caller's process namespace numbers them."""
    found: set[int] = set()
    for group in _groups():
        try:
            found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
        except FileNotFoundError:
            continue
    return found - {0}


def memory() -> tuple[int, int]:
    """Bytes in use, without the page cache that can be dropped, by components and by pods."""
    if is_v2():
        tree = _ROOT / NAME
        return _working_set_v2(tree / "system"), _working_set_v2(tree / "kubepods")
    tree = _ROOT / "memory" / NAME
    return _working_set_v1(tree / "system"), _working_set_v1(tree / "kubepods")


def remove() -> None:
    """Kill what is left in the tree and delete it."""
    deadline = time.monotonic() + 20
    while _groups() and time.monotonic() < deadline:
        for pid in processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for group in reversed(_groups()):
            try:
                group.rmdir()
            except OSError:
                continue
        if _groups():
            time.sleep(0.05)


def left() -> list[Path]:
    """The groups that still exist."""
    return _groups()


def _groups() -> list[Path]:
    return [Path(directory) for root in roots() if (root / NAME).exists() for directory, _, _ in os.walk(root / NAME)]


def _working_set_v1(group: Path) -> int:
    return _working_set(group / "memory.usage_in_bytes", group / "memory.stat", "total_inactive_file")


def _working_set_v2(group: Path) -> int:
    return _working_set(group / "memory.current", group / "memory.stat", "inactive_file")


def _working_set(usage: Path, stat: Path, inactive: str) -> int:
    if not usage.exists():
        return 0
    lines = dict(line.split() for line in stat.read_text().splitlines())
    return int(usage.read_text()) - int(lines.get(inactive, 0))
