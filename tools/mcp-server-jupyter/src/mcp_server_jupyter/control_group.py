"""How much memory there is for us: what our control group may have, else what the machine has.

A container sees the machine's figures in `/proc/meminfo`, and is killed at its own limit. Both versions of Linux's
control groups are read (kernel documentation, "Control Group v2" and "Memory Resource Controller").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GROUPS = "sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `used` leaves out what the system would give back at once: files that were read and are idle."""

    used: int
    limit: int
    is_machines: bool
    """Whether it is all of the machine's memory: no control group limits us."""


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a version of control groups keeps its figures."""

    folder: str
    limit: str
    used: str
    idle: str


_V2 = _Files(_GROUPS, "memory.max", "memory.current", "inactive_file")
_V1 = _Files(f"{_GROUPS}/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def memory(root: Path = Path("/")) -> Memory | None:
    """What there is and what of it is used; None where the system does not say. `root` is for tests."""
    machine = _machine(root)
    found = [
        group
        for files, path in _groups(root)
        if (group := _group(root / files.folder, path, files)) is not None
        # Version 1 writes a huge number where nothing is limited.
        and (machine is None or group.limit < machine.limit)
    ]
    return min(found, key=lambda group: group.limit, default=machine)


def _groups(root: Path) -> Iterator[tuple[_Files, str]]:
    """Our control groups that may limit memory (cgroups(7), `/proc/[pid]/cgroup`)."""
    with suppress(OSError, UnicodeDecodeError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                yield _V2, path
            elif "memory" in controllers.split(","):
                yield _V1, path


def _group(mount: Path, path: str, files: _Files) -> Memory | None:
    """The tightest limit of a group and those above it. A container may be shown its own group as the topmost one."""
    found = []
    folder = mount / path.lstrip("/")
    for each in (folder, *folder.parents):
        if not each.is_relative_to(mount):
            break
        with suppress(OSError, ValueError):
            limit = int((each / files.limit).read_text())
            used = int((each / files.used).read_text())
            found.append(Memory(max(0, used - _figure(each / "memory.stat", files.idle)), limit, is_machines=False))
    return min(found, key=lambda group: group.limit, default=None)


def _machine(root: Path) -> Memory | None:
    total = _figure(root / "proc/meminfo", "MemTotal:") * 1024
    free = _figure(root / "proc/meminfo", "MemAvailable:") * 1024
    return Memory(total - free, total, is_machines=True) if total else None


def _figure(path: Path, name: str) -> int:
    """The number behind a name at a line's beginning, 0 if it is not there."""
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == name:
                return int(words[1])
    return 0
