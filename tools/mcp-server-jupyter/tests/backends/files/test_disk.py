"""What disks, mounts, links and limits do to notebooks, and what is left after it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import contents as files
from mcp_server_jupyter.backends.files import disk, locks
from mcp_server_jupyter.errors import InvalidNotebook, InvalidRequest, NotFound, OutsideRoot, Unavailable
from mcp_server_jupyter.settings import Settings

FIXTURES = Path(__file__).parents[2] / "fixtures"
pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
async def contents(root: Path) -> AsyncIterator[files.FilesContents]:
    async with files.open_contents(Settings.load({"root": str(root)}, {})) as opened:
        yield opened


def put(folder: Path, name: str = "a.ipynb") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(FIXTURES / "modern.ipynb", folder / name))


def sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


async def change(contents: Any, path: str, text: str, *, durable: bool = True) -> None:
    async with contents.edit(path, durable=durable) as notebook:
        notebooks.replace_source(notebook, 1, text)


def small(number: int) -> str:
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": str(number), "outputs": []}
    value = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps({**value, "cells": [{**cell, "execution_count": None}]})


# --------------------------------------------------------------------------- descriptors and memory


async def test_three_thousand_notebooks_opened_in_turn_hold_few_files_and_little_memory(
    contents: Any, root: Path
) -> None:
    for number in range(3_000):
        (root / f"{number}.ipynb").write_text(small(number))
    before = len(os.listdir("/dev/fd"))
    for number in range(3_000):
        assert (await contents.read(f"{number}.ipynb")).cells[0].source == str(number)
    assert len(os.listdir("/dev/fd")) <= before + 2
    assert len(contents._open) <= files._CACHE_NOTEBOOKS
    assert contents._ids == {}


async def test_the_notebooks_used_longest_ago_are_dropped_first_and_pending_ones_never(
    contents: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CACHE_NOTEBOOKS", 3)
    for number in range(5):
        put(root, f"{number}.ipynb")
    await change(contents, "0.ipynb", "pending", durable=False)
    first = {number: await contents.read(f"{number}.ipynb") for number in (1, 2)}
    assert await contents.read("1.ipynb") is first[1]
    await contents.read("3.ipynb")
    assert sorted(path.name for path in contents._open) == ["0.ipynb", "1.ipynb", "3.ipynb"]
    assert await contents.read("1.ipynb") is first[1]
    await contents.flush()
    assert sources(root / "0.ipynb")[1] == "pending"


async def test_ids_that_only_this_process_knows_outlast_the_notebook_in_memory(
    contents: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CACHE_NOTEBOOKS", 1)
    shutil.copy(FIXTURES / "vscode.ipynb", root / "old.ipynb")
    put(root)
    await change(contents, "old.ipynb", "changed by us")
    ids = [cell.id for cell in (await contents.read("old.ipynb")).cells]
    await contents.read("a.ipynb")
    assert [cell.id for cell in (await contents.read("old.ipynb")).cells] == ids


async def test_a_file_without_ids_gets_the_same_ones_from_every_server(root: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": "same", "outputs": [], "execution_count": None}
    value = {"cells": [cell, cell, {**cell, "source": "other"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (root / "old.ipynb").write_text(json.dumps(value))
    found = []
    for _ in range(2):
        async with files.open_contents(Settings.load({"root": str(root)}, {})) as contents:
            found.append([cell.id for cell in (await contents.read("old.ipynb")).cells])
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


async def test_no_descriptor_left_is_told_and_the_next_try_works(contents: Any, root: Path) -> None:
    put(root)
    put(root, "b.ipynb")
    await contents.read("b.ipynb")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(Unavailable, match="ulimit"):
            await contents.read("a.ipynb")
        with pytest.raises(Unavailable, match="ulimit"):
            await change(contents, "b.ipynb", "ours")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await change(contents, "a.ipynb", "ours")
    assert sources(root / "a.ipynb")[1] == "ours"
    assert sources(root / "b.ipynb")[1] != "ours"


async def test_a_file_replaced_by_one_with_its_inode_number_and_times_is_noticed(contents: Any, root: Path) -> None:
    path = put(root)
    await contents.read("a.ipynb")
    info = path.stat()
    for _ in range(20):  # most disks give the number of a deleted file to the next one
        data = path.read_bytes().replace(b"range(3)", b"range(4)")
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        if path.stat().st_ino == info.st_ino:
            break
        path.write_bytes(data.replace(b"range(4)", b"range(3)"))
    path.write_bytes(path.read_bytes().replace(b"range(3)", b"range(4)"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert "range(4)" in (await contents.read("a.ipynb")).cells[2].source


# --------------------------------------------------------------------------- links


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    put(folder)
    (folder / "a.ipynb").write_text((folder / "a.ipynb").read_text().replace("range(3)", "secret"))
    return folder


def swap_file(root: Path, outside: Path) -> None:
    (root / "sub" / "a.ipynb").unlink()
    (root / "sub" / "a.ipynb").symlink_to(outside / "a.ipynb")


def swap_folder(root: Path, outside: Path) -> None:
    shutil.rmtree(root / "sub")
    (root / "sub").symlink_to(outside)


@pytest.mark.parametrize("swap", [swap_file, swap_folder])
async def test_a_link_put_in_the_place_of_an_open_notebook_is_neither_read_nor_written(
    contents: Any, root: Path, outside: Path, swap: Callable[[Path, Path], None]
) -> None:
    put(root / "sub")
    await change(contents, "sub/a.ipynb", "pending", durable=False)
    before = (outside / "a.ipynb").read_bytes()
    swap(root, outside)
    with pytest.raises(NotFound, match="became a link"):
        await contents.flush()
    for use in (contents.read("sub/a.ipynb"), change(contents, "sub/a.ipynb", "ours")):
        with pytest.raises(OutsideRoot):
            await use
    assert (outside / "a.ipynb").read_bytes() == before
    assert os.listdir(outside) == ["a.ipynb"]
    await contents.flush()


@pytest.mark.parametrize("swap", [swap_file, swap_folder])
async def test_a_link_put_in_its_place_while_an_edit_is_made_is_not_followed(
    contents: Any, root: Path, outside: Path, swap: Callable[[Path, Path], None]
) -> None:
    put(root / "sub")
    before = (outside / "a.ipynb").read_bytes()

    async def edit() -> None:
        async with contents.edit("sub/a.ipynb") as notebook:
            notebooks.replace_source(notebook, 1, "ours")
            swap(root, outside)

    with pytest.raises(OutsideRoot):
        await edit()
    assert (outside / "a.ipynb").read_bytes() == before
    assert os.listdir(outside) == ["a.ipynb"]


@pytest.mark.parametrize("swap", [swap_file, swap_folder])
def test_what_became_a_link_after_its_path_was_resolved_is_not_opened(
    root: Path, outside: Path, swap: Callable[[Path, Path], None]
) -> None:
    path = put(root / "sub")
    version = disk.version_of(path)
    swap(root, outside)
    with pytest.raises(OutsideRoot):
        disk.read(root, path, 10**6)
    with pytest.raises(OutsideRoot):
        disk.replace(root, path, [b"ours"], version)
    with pytest.raises(OutsideRoot), locks.locked(root, path):
        pass
    if swap is swap_folder:
        with pytest.raises(OutsideRoot):
            disk.create(root, path.with_name("new.ipynb"), b"ours")
    assert os.listdir(outside) == ["a.ipynb"]


async def test_a_create_that_fails_leaves_no_folders(
    contents: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(Unavailable):
        await contents.create("new/folder/a.ipynb", notebooks.new_notebook("python3"))
    assert os.listdir(root) == []


# --------------------------------------------------------------------------- disks that cannot do everything


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
async def test_a_folder_that_cannot_be_synced_does_not_fail_what_was_written(
    contents: Any, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    put(root)
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    await change(contents, "a.ipynb", "ours")
    await contents.create("b.ipynb", notebooks.new_notebook("python3"))
    assert sources(root / "a.ipynb")[1] == "ours"
    assert (root / "b.ipynb").exists()


def test_where_the_drive_must_be_told_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on macOS, whose fsync leaves the data in the drive's cache; a network disk there refuses, and fsync is all."""
    told: list[str] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, what: told.append(f"fcntl {what}"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: told.append("fsync"))
    with open(tmp_path / "file", "wb") as file:
        disk.sync(file.fileno())
        assert told == ["fcntl 51"]

        def refuse(descriptor: int, what: int) -> int:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        monkeypatch.setattr(fcntl, "fcntl", refuse)
        disk.sync(file.fileno())
    assert told == ["fcntl 51", "fsync"]


@pytest.fixture(params=["mount", "EBUSY", "EXDEV"])
def unreplaceable(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Path]:
    """A notebook that cannot be replaced by renaming: mounted by itself (as containers do), or as good as."""
    path = put(root)
    if request.param == "mount":
        origin = put(tmp_path, "origin.ipynb")
        if os.geteuid() or subprocess.run(["mount", "--bind", origin, path], capture_output=True).returncode:
            pytest.skip("only root may mount, and not in every container")
        yield path
        subprocess.run(["umount", "-l", path], check=True)
        return
    code = getattr(errno, request.param)

    def refuse(*args: Any, **how: Any) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        yield path


async def test_a_file_that_cannot_be_replaced_is_written_in_place(
    contents: Any, root: Path, unreplaceable: Any
) -> None:
    inode = unreplaceable.stat().st_ino
    for text in ("x" * 10_000, "short", "last"):
        await change(contents, "a.ipynb", text)
        assert sources(unreplaceable)[1] == text
    assert unreplaceable.stat().st_ino == inode
    assert os.listdir(root) == ["a.ipynb"]
    unreplaceable.write_text(unreplaceable.read_text().replace("last", "person's"))
    assert (await contents.read("a.ipynb")).cells[1].source == "person's"


async def test_a_disk_that_fills_while_a_file_is_written_in_place_leaves_it_as_it_was(
    contents: Any, root: Path, unreplaceable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contents.read("a.ipynb")
    before = unreplaceable.read_bytes()
    writev, target = os.writev, unreplaceable.stat().st_ino

    def full_at_first(descriptor: int, parts: Any) -> int:
        if os.fstat(descriptor).st_ino == target and parts != [before]:
            os.write(descriptor, b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writev(descriptor, parts)

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full_at_first)
        with pytest.raises(Unavailable, match="space"):
            await change(contents, "a.ipynb", "ours")
    assert unreplaceable.read_bytes() == before
    assert os.listdir(root) == ["a.ipynb"]


async def test_a_kill_while_a_file_is_written_in_place_leaves_its_last_state_beside_it(root: Path) -> None:
    path = put(root)
    before = path.read_bytes()
    code = """
import os, sys
from pathlib import Path
from mcp_server_jupyter.backends.files import disk
root = Path(sys.argv[1])
def refuse(*args, **how):
    raise OSError(16, "busy")
os.replace = refuse
writev, path = os.writev, root / "a.ipynb"
def killed(descriptor, parts):
    if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
        os.write(descriptor, b"half")
        os.kill(os.getpid(), 9)
    return writev(descriptor, parts)
os.writev = killed
disk.replace(root, path, [b"x" * 100_000], disk.version_of(path))
"""
    process = await anyio.run_process([sys.executable, "-c", code, str(root)], check=False)
    assert process.returncode == -9, process.stderr
    os.utime(path, (1, 1))
    async with files.open_contents(Settings.load({"root": str(root)}, {})) as contents:
        with pytest.raises(InvalidNotebook) as caught:
            await contents.read("a.ipynb")
        assert disk.backup_name("a.ipynb") in str(caught.value)
        assert sorted(os.listdir(root)) == sorted([disk.backup_name("a.ipynb"), "a.ipynb"])
        assert (root / disk.backup_name("a.ipynb")).read_bytes() == before
        (root / disk.backup_name("a.ipynb")).rename(path)
        assert len((await contents.read("a.ipynb")).cells) > 1


# --------------------------------------------------------------------------- long paths, listings


async def test_folders_that_vanish_or_are_forbidden_are_left_out_of_a_listing(
    contents: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone", "kept", "shut", "became_a_file"):
        put(root / name / "below")
    scandir = os.scandir

    def meanwhile(folder: Any) -> Any:
        if folder == root / "gone":
            shutil.rmtree(root / "gone", ignore_errors=True)
        if folder == root / "became_a_file":
            shutil.rmtree(folder)
            folder.touch()
        if folder == root / "shut":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", meanwhile)
    found = [entry.path for entry in await contents.list("", recursive=True)]
    assert found == ["became_a_file", "gone", "kept", "kept/below", "kept/below/a.ipynb", "shut"]


async def test_folders_nested_deeper_than_any_path_are_listed_as_far_as_they_go(contents: Any, root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    entries = await contents.list("", recursive=True)
    assert 20 < len(entries) < 300
    await anyio.run_process(["rm", "-rf", root / ("d" * 100)])


async def test_a_file_and_a_missing_folder_cannot_be_listed(contents: Any, root: Path) -> None:
    put(root)
    with pytest.raises(InvalidRequest):
        await contents.list("a.ipynb")
    for path in ("missing", "a.ipynb/below"):
        with pytest.raises(NotFound):
            await contents.list(path)
