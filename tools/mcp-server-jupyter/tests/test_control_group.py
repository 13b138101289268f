"""What memory there is for us, as the files of both versions of control groups say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server_jupyter.control_group import Memory, memory

GIB = 1 << 30
MEMINFO = f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:        1 kB\nMemAvailable:   {10 * GIB // 1024} kB\n"


def system(folder: Path, **files: str) -> Path:
    """A system's files; `__` in a name stands for a slash."""
    for name, text in {"proc__meminfo": MEMINFO, **files}.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def v2(folder: Path, group: str, limit: object, used: int = GIB, idle: int = 0) -> None:
    path = folder / "sys/fs/cgroup" / group.strip("/")
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\nactive_file 7\n")


def v1(folder: Path, group: str, limit: int, used: int = GIB, idle: int = 0) -> None:
    path = folder / "sys/fs/cgroup/memory" / group.strip("/")
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (path / "memory.usage_in_bytes").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"cache 5\ninactive_file 1\ntotal_inactive_file {idle}\n")


def test_the_limit_of_a_container_is_its_memory(tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="0::/\n")
    v2(tmp_path, "/", 2 * GIB, used=GIB, idle=GIB // 4)
    assert memory(tmp_path) == Memory(GIB - GIB // 4, 2 * GIB, is_machines=False)


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="0::/pods/one/container\n")
    v2(tmp_path, "/pods/one/container", "max", used=5)
    v2(tmp_path, "/pods/one", GIB, used=6)
    v2(tmp_path, "/pods", 4 * GIB, used=7)
    assert memory(tmp_path) == Memory(6, GIB, is_machines=False)


def test_version_1_is_read_too(tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="7:pids:/\n4:cpu,memory:/docker/abc\n0::/\n")
    v1(tmp_path, "/docker/abc", GIB, used=100, idle=40)
    assert memory(tmp_path) == Memory(60, GIB, is_machines=False)


def test_a_container_of_version_1_finds_its_group_at_the_top(tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="4:memory:/docker/abc\n")
    v1(tmp_path, "/", GIB, used=100)
    assert memory(tmp_path) == Memory(100, GIB, is_machines=False)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", str(64 * GIB)])
def test_without_a_limit_it_is_the_machines(limit: str, tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="4:memory:/a\n0::/a\n")
    v2(tmp_path, "/a", limit)
    if limit.isdigit():
        v1(tmp_path, "/a", int(limit))
    assert memory(tmp_path) == Memory(6 * GIB, 16 * GIB, is_machines=True)


def test_a_system_without_such_files_says_nothing(tmp_path: Path) -> None:
    assert memory(tmp_path) is None


def test_damaged_files_are_passed_over(tmp_path: Path) -> None:
    system(tmp_path, proc__self__cgroup="garbage\n\n0::/\n", proc__meminfo="MemTotal: much kB\n")
    v2(tmp_path, "/", "?")
    assert memory(tmp_path) is None
