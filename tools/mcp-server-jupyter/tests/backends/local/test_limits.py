"""What local kernels do where something has run out: descriptors, room on the disk, kernels allowed, patience."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from local_kernels import content, kernelspec, printed, processes, run
from mcp_server_jupyter.backends.local import LocalKernels, open_kernels, recorder, system
from mcp_server_jupyter.errors import KernelDead, NotFound, Unavailable
from mcp_server_jupyter.folders import runtime_folder
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


# --------------------------------------------------------------------------- descriptors


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """A soft limit of open files that is below the hard one, as everywhere outside containers."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield 512
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_server_opens_as_many_files_as_the_system_allows_and_its_kernels_as_many_as_before(
    soft_limit: int, settings: Settings
) -> None:
    async with open_kernels(settings) as kernels:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(hard, 1 << 20) or sys.platform == "darwin"
        kernel = await kernels.start("python3")
        seen = printed(await run(kernel, "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"))
    assert int(seen) == soft_limit
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft_limit


async def test_a_start_without_descriptors_is_refused_before_anything_happens(
    kernels: LocalKernels, settings: Settings
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Descriptors are given out from the lowest on.
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 10, hard))
    try:
        with pytest.raises(Unavailable, match=r"Too many open files.*ulimit -n"):
            await kernels.start("python3")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert processes(settings) == []
    assert list(kernels._folder.iterdir()) == []
    with anyio.fail_after(60):
        assert printed(await run(await kernels.start("python3"), "print(1)")) == "1\n"


# --------------------------------------------------------------------------- the disk


class FullDisk:
    """From `fill` on, nothing more can be written by the server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        write = recorder.write_json

        def attempt(path: str, value: Any) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            write(path, value)

        monkeypatch.setattr(recorder, "write_json", attempt)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


async def test_a_start_on_a_full_disk_is_refused_and_leaves_nothing(
    kernels: LocalKernels, settings: Settings, disk: FullDisk
) -> None:
    disk.full = True
    with pytest.raises(Unavailable, match=r"record cannot be written: No space left on device.*record\.json"):
        await kernels.start("python3")
    assert processes(settings) == []
    assert list(kernels._folder.iterdir()) == []
    assert kernels._kernels == {}


async def test_a_restart_on_a_full_disk_fails_and_can_be_tried_again(kernels: LocalKernels, disk: FullDisk) -> None:
    kernel = await kernels.start("python3")
    disk.full = True
    with anyio.fail_after(60), pytest.raises(Unavailable, match="No space left on device"):
        await kernel.restart()
    assert (kernel.state, kernel.death is None) == ("dead", False)
    with pytest.raises(KernelDead):
        await run(kernel, "1")
    disk.full = False
    with anyio.fail_after(60):
        await kernel.restart()
    assert (kernel.epoch, printed(await run(kernel, "print(1)"))) == (2, "1\n")


async def test_adoption_on_a_full_disk_takes_every_kernel_over(settings: Settings, disk: FullDisk) -> None:
    async with open_kernels(settings) as kernels:
        await run(await kernels.start("python3"), "kept = 42")
        await kernels.release()
    disk.full = True
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            assert printed(await run(kernel, "print(kept)")) == "42\n"


async def test_a_server_that_fails_after_adoption_leaves_the_kernels_as_they_were(settings: Settings) -> None:
    async with open_kernels(settings) as kernels:
        await run(await kernels.start("python3"), "kept = 42")
        await kernels.release()

    async def fail() -> None:
        async with open_kernels(settings) as kernels:
            await kernels.adopt()
            await kernels.start("python3")
            raise RuntimeError("the journal cannot be written")

    with anyio.fail_after(60), pytest.raises(RuntimeError):
        await fail()
    async with open_kernels(settings) as kernels:
        with anyio.fail_after(60):
            [kernel] = await kernels.adopt()
            assert printed(await run(kernel, "print(kept)")) == "42\n"
    assert processes(settings) == []


async def test_a_record_that_cannot_be_read_now_stops_the_adoption_and_harms_no_kernel(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_kernels(settings) as kernels:
        for name in ("first", "second"):
            await run(await kernels.start("python3"), f"kept = {name!r}")
        await kernels.release()
    read = Path.read_bytes
    unreadable = sorted((settings.root_state / "kernels").iterdir())[1] / "record.json"

    def attempt(path: Path) -> bytes:
        if path == unreadable:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return read(path)

    async def adopt() -> None:
        async with open_kernels(settings) as kernels:
            await kernels.adopt()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", attempt)
        with pytest.raises(Unavailable, match=r"left as they are: Too many open files.*record\.json"):
            await adopt()
    async with open_kernels(settings) as kernels:
        found = [printed(await run(kernel, "print(kept)")) for kernel in await kernels.adopt()]
    assert sorted(found) == ["first\n", "second\n"]


# --------------------------------------------------------------------------- the number of kernels


async def test_a_cancelled_shutdown_ends_the_kernel_all_the_same(settings: Settings) -> None:
    async with open_kernels(dataclasses.replace(settings, max_kernels=1)) as kernels:
        kernel = await kernels.start("python3")
        stream = kernel.request("execute_request", content(f"import signal, time; signal.signal(15, 1); {STUBBORN}"))
        async for message in stream:
            if message.msg_type == "stream":
                break
        with anyio.move_on_after(0.05) as scope:
            await kernel.shutdown()
        assert scope.cancelled_caught
        assert kernel.state == "dead"
        assert processes(settings) == []
        with anyio.fail_after(60):
            await kernels.start("python3")


STUBBORN = "print('deaf', flush=True); time.sleep(60)"


async def test_a_restart_that_cannot_work_leaves_the_kernel_as_it_is(
    kernels: LocalKernels, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "mine", [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    (settings.root / "here").mkdir()
    kernel = await kernels.start("mine", cwd="here")
    await run(kernel, "kept = 42")
    (settings.root / "here").rename(settings.root / "there")
    with pytest.raises(NotFound, match="no folder 'here'"):
        await kernel.restart()
    (settings.root / "there").rename(settings.root / "here")
    (tmp_path / "kernels" / "mine" / "kernel.json").unlink()
    with pytest.raises(NotFound, match="no kernelspec 'mine'"):
        await kernel.restart()

    assert (kernel.epoch, printed(await run(kernel, "print(kept)"))) == (1, "42\n")


# --------------------------------------------------------------------------- the folder of the sockets


@pytest.mark.parametrize("wanted", ["/proc/self", "/no/such/folder", "of another user", "with a file in the way", ""])
def test_a_runtime_folder_that_cannot_be_used_is_passed_over(
    wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run" if " " in wanted else Path(wanted)
    if " " in wanted:
        folder.mkdir()
    if "file" in wanted:
        (folder / f"mcpj-{os.getuid()}").touch()
    if "another" in wanted:
        stat = os.stat

        def of_another(path: Any, *more: Any, **named: Any) -> os.stat_result:
            found = list(stat(path, *more, **named))
            found[4] += str(path) == str(folder)
            return os.stat_result(found)

        monkeypatch.setattr(system.os, "stat", of_another)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    found = runtime_folder()

    assert not found.is_relative_to(folder) or wanted == ""
    assert found.stat().st_mode & 0o077 == 0
    assert os.access(found, os.W_OK)


def test_a_runtime_folder_of_our_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert runtime_folder().parent == Path(folder)


# --------------------------------------------------------------------------- the environment


async def test_no_secret_of_a_client_is_in_the_kernels_record(kernels: LocalKernels) -> None:
    kernel = await kernels.start("python3", env={**os.environ, "JUPYTER_TOKEN": "hidden-1", "MORE": "kept-1"})
    record = (kernel.folder / "record.json").read_text()

    assert "hidden-1" not in record
    assert json.loads(record)["env"]["MORE"] == "kept-1"
    assert (kernel.folder / "record.json").stat().st_mode & 0o777 == 0o600
