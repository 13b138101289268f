"""Kernels that wait for their first user."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from forked_kernels import SELF, ForkedKernels, fork_servers, is_forked, line_of, server_of, told
from local_kernels import printed, processes, run, until
from mcp_server_jupyter.backends.local import LocalKernels, open_kernels, recorder, warm
from mcp_server_jupyter.backends.local import kernel as local_kernel
from mcp_server_jupyter.backends.local.forking import client
from mcp_server_jupyter.backends.local.forking.fitness import is_possible_here
from mcp_server_jupyter.backends.local.kernel import LocalKernel
from mcp_server_jupyter.backends.zmq import kernel as zmq_kernel
from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not is_possible_here(), reason="nothing is forked here")]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a fork server that works is waited for; what waits is there soon."""
    monkeypatch.setattr(client, "FORK_SECONDS", 60.0)
    monkeypatch.setattr(warm, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    for folder in ("below", "beside"):
        (settings.root / folder).mkdir()
    return dataclasses.replace(settings, warm_kernels=1)


@pytest.fixture
async def kernels(settings: Settings) -> AsyncIterator[LocalKernels]:
    """One has been started and used, and one waits."""
    async with ForkedKernels(settings) as opened:
        await (await opened.start("python3")).shutdown()
        await waits(opened)
        yield opened
    assert processes(settings) == []


async def waits(kernels: LocalKernels, count: int = 1) -> list[str]:
    """The ids of those that wait, once they are so many."""
    await until(lambda: kernels.waiting == count)
    return ids(kernels)


def ids(kernels: LocalKernels) -> list[str]:
    return [path.parent.name for path, record in records(kernels.settings) if record.get("waiting")]


def records(settings: Settings) -> list[tuple[Path, dict[str, object]]]:
    found = []
    for path in settings.root_state.glob("kernels/*/record.json"):
        # One that is being discarded just now.
        with suppress(FileNotFoundError):
            found.append((path, json.loads(path.read_text())))
    return found


async def test_a_start_takes_the_one_that_waits_and_another_takes_its_place(kernels: LocalKernels) -> None:
    [ready] = await waits(kernels)
    kernel = await kernels.start("python3", cwd="below", epoch=7)
    assert (kernel.id, kernel.cwd, kernel.epoch, kernel.is_waiting) == (ready, "below", 7, False)
    assert dict(records(kernels.settings))[kernel.folder / "record.json"]["cwd"] == "below"
    assert printed(await run(kernel, "import os; print(os.getcwd())")) == f"{kernels.settings.root / 'below'}\n"
    [following] = await waits(kernels)
    assert following != ready
    await kernel.restart()
    assert kernel.epoch == 8
    assert printed(await run(kernel, "import os; print(os.getcwd())")) == f"{kernels.settings.root / 'below'}\n"


async def test_one_that_has_waited_is_what_a_spawned_one_is(settings: Settings) -> None:
    async with open_kernels(settings) as kernels:
        spawned = await kernels.start("python3", cwd="below")
        [ready] = await waits(kernels)
        claimed = await kernels.start("python3", cwd="below")
        assert (claimed.id, is_forked(spawned)) == (ready, False)
        places = "import json; print(json.dumps([repr(_dh), get_ipython().starting_dir]))"
        for code in (SELF, places):
            expected, found = await told(spawned, code), await told(claimed, code)
            assert found == expected


async def test_many_starts_at_once_get_each_its_own(kernels: LocalKernels) -> None:
    started: list[LocalKernel] = []

    async def start(number: int) -> None:
        started.append(await kernels.start("python3", cwd=("below", "beside")[number % 2]))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(start, number)
    assert len({kernel.id for kernel in started}) == 4
    for kernel in started:
        assert printed(await run(kernel, "import os; print(os.getcwd())")).endswith(f"/{kernel.cwd}\n")


async def test_one_that_waits_makes_room_and_none_waits_without(settings: Settings) -> None:
    async with ForkedKernels(dataclasses.replace(settings, max_kernels=2)) as kernels:
        first = await kernels.start("python3")
        [ready] = await waits(kernels)
        # Of another environment than the one that waits: that has to go.
        await kernels.start("python3", env={**os.environ, "MINE": "1"})
        assert kernels.waiting == 0
        assert not (settings.root_state / "kernels" / ready).exists()
        with pytest.raises(Unavailable):
            await kernels.start("python3")
        await first.shutdown()
        await waits(kernels, 0)


async def test_one_that_has_died_is_not_given_away(kernels: LocalKernels) -> None:
    [ready] = await waits(kernels)
    pid = json.loads((kernels.settings.root_state / "kernels" / ready / "process.json").read_text())["kernel"][0]
    os.kill(pid, signal.SIGKILL)
    kernel = await kernels.start("python3")
    assert kernel.id != ready
    assert printed(await run(kernel, "print(1)")) == "1\n"
    assert not (kernels.settings.root_state / "kernels" / ready).exists()


async def test_a_claim_that_cannot_be_written_down_takes_nothing(
    kernels: LocalKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ready] = await waits(kernels)
    write, refused = recorder.write_json, list[str]()

    def full(path: str, value: object) -> None:
        if ready in path:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, value)

    monkeypatch.setattr(recorder, "write_json", full)
    kernel = await kernels.start("python3", cwd="below")
    assert refused
    assert kernel.id != ready
    assert printed(await run(kernel, "import os; print(os.getcwd())")) == f"{kernels.settings.root / 'below'}\n"
    assert not (kernels.settings.root_state / "kernels" / ready).exists()


async def test_a_server_that_is_killed_while_one_is_claimed_leaves_nobodys_kernel(
    kernels: LocalKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ready] = await waits(kernels)
    record = kernels.settings.root_state / "kernels" / ready / "record.json"
    seen = []

    async def move_to(kernel: LocalKernel, folder: str) -> bool:
        # Whoever takes over at this moment ends it, for it is in no known folder.
        seen.append(json.loads(record.read_text())["waiting"])
        return await zmq_kernel.move_to(kernel, folder)

    monkeypatch.setattr(local_kernel, "move_to", move_to)
    assert (await kernels.start("python3", cwd="below")).id == ready
    assert seen == [True]
    assert "waiting" not in json.loads(record.read_text())


async def test_kinds_that_are_not_used_any_more_make_room_for_others(kernels: LocalKernels) -> None:
    [oldest] = await waits(kernels)
    for number in range(2):
        env = {**os.environ, "MINE": str(number)}
        line_of(kernels, env)
        await (await kernels.start("python3", env=env)).shutdown()
        # The first kind beside the oldest, then the second in the oldest's place.
        await until(lambda beside=number == 0: kernels.waiting == 2 and (oldest in ids(kernels)) is beside)
    assert len(ids(kernels)) == 2


async def test_one_from_before_a_package_was_installed_is_not_given_away(kernels: LocalKernels, tmp_path: Path) -> None:
    [ready] = await waits(kernels)
    server_of(line_of(kernels))._stamps[str(tmp_path)] = 1
    assert (await kernels.start("python3")).id != ready


async def test_none_is_kept_that_nobody_asks_for(kernels: LocalKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_IDLE_SECONDS", 0.1)
    await (await kernels.start("python3")).shutdown()
    await until(lambda: records(kernels.settings) == [])
    monkeypatch.setattr(warm, "_IDLE_SECONDS", 600.0)
    await (await kernels.start("python3")).shutdown()
    await waits(kernels)


async def test_a_server_that_leaves_its_kernels_leaves_none_that_waits(settings: Settings) -> None:
    async with ForkedKernels(settings) as kernels:
        used = await kernels.start("python3")
        await waits(kernels)
        await kernels.release()
    assert [path.parent.name for path, _ in records(settings)] == [used.id]
    async with open_kernels(settings) as following:
        [kernel] = await following.adopt()
        assert kernel.id == used.id
    assert processes(settings) == []


async def test_one_that_a_killed_server_leaves_is_ended_by_the_next(settings: Settings) -> None:
    program = f"""
        import anyio, os, signal
        from forked_kernels import ForkedKernels
        from mcp_server_jupyter.settings import Settings
        async def main():
            given = {{"root": {str(settings.root)!r}, "state_dir": {str(settings.state_dir)!r}, "warm_kernels": 1}}
            async with ForkedKernels(Settings.load(given, {{}})) as kernels:
                kernel = await kernels.start("python3")
                while not kernels.waiting:
                    await anyio.sleep(0.05)
                print(kernel.id, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        anyio.run(main)
    """
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = await anyio.run_process(
        [sys.executable, "-c", textwrap.dedent(program)], check=False, stderr=subprocess.STDOUT, env=environ
    )
    assert ended.returncode == -signal.SIGKILL, ended.stdout.decode()
    assert len(records(settings)) == 2
    async with open_kernels(settings) as following:
        [kernel] = await following.adopt()
        assert kernel.id == ended.stdout.decode().strip()
        assert [path.parent.name for path, _ in records(settings)] == [kernel.id]
    await until(lambda: processes(settings) == [])


async def test_without_the_setting_none_waits(settings: Settings) -> None:
    async with ForkedKernels(dataclasses.replace(settings, warm_kernels=0)) as kernels:
        first, second = await kernels.start("python3"), await kernels.start("python3")
        assert {path.parent.name for path, _ in records(settings)} == {first.id, second.id}
        assert kernels.waiting == 0


async def test_it_is_told_how_many_wait(settings: Settings) -> None:
    async with open_services(settings) as services:
        await invoke(services, "start_kernel", {}, caller=Caller("test"))
        assert isinstance(services.kernels, LocalKernels)
        await waits(services.kernels)
        listed = await invoke(services, "list_kernels", {}, caller=Caller("test"))
        assert "1 more is kept warm" in listed.text
        assert (listed.data["warm"], len(listed.data["kernels"])) == (1, 1)
    await until(lambda: fork_servers() == [])
