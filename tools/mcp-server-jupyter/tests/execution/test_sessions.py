"""Which kernel a notebook has, and what callers hear when it is another one than before."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, open_desk, settings_of
from mcp_server_jupyter.backends.memory import open_kernels
from mcp_server_jupyter.backends.memory.kernels import MemoryKernel, MemoryKernels
from mcp_server_jupyter.errors import (
    AlreadyExists,
    InvalidRequest,
    KernelDead,
    KernelStartFailed,
    NotFound,
    Unavailable,
)
from mcp_server_jupyter.execution.session import describe
from mcp_server_jupyter.journal import Journal
from mcp_server_jupyter.ports import Death

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(settings_of(tmp_path)) as desk:
        yield desk


def kernel_of(desk: Desk) -> MemoryKernel:
    session = desk.services.sessions.find("a.ipynb")
    assert session is not None
    assert isinstance(session.kernel, MemoryKernel)
    return session.kernel


# ------------------------------------------------------------------ one kernel a notebook


class SlowKernels(MemoryKernels):
    """Kernels that start when they are let."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.asked = anyio.Event()
        self.go = anyio.Event()

    async def start(self, *args: Any, **more: Any) -> MemoryKernel:
        self.asked.set()
        await self.go.wait()
        return await super().start(*args, **more)


@pytest.mark.parametrize("second", ["start_kernel", "execute_code"])
async def test_two_starts_at_once_make_one_kernel(second: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    kernels = SlowKernels(settings)
    refused: list[str] = []

    async def start(operation: str, **arguments: Any) -> None:
        try:
            await desk.call(operation, **arguments)
        except AlreadyExists as error:
            refused.append(str(error))

    async with open_desk(settings, kernels=kernels) as desk:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: start("start_kernel", notebook_path="a.ipynb"))
            await kernels.asked.wait()
            tasks.start_soon(lambda: start(second, notebook_path="a.ipynb", **MORE[second]))
            await anyio.wait_all_tasks_blocked()
            kernels.go.set()
        assert len(desk.services.sessions.all()) == 1
        if second == "start_kernel":
            assert [REFUSAL in text for text in refused] == [True]
        else:
            assert refused == []


MORE = {"start_kernel": {"kernel_name": "other"}, "execute_code": {"code": "1"}}
REFUSAL = "A kernel (python3) for a.ipynb is starting already"


async def test_starts_of_notebooks_do_not_pile_up(desk: Desk) -> None:
    for number in range(3):
        path = f"n{number}.ipynb"
        await desk.call("create_notebook", notebook_path=path)
        await desk.call("execute_code", code="1", notebook_path=path)
        await desk.call("shutdown_kernel", notebook_path=path)
    assert desk.services.sessions.starts.all() == ()


async def test_a_start_that_cannot_be_written_down_leaves_no_kernel(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("The disk is full.")

    with monkeypatch.context() as full:
        full.setattr(Journal, "bind", fail)
        with pytest.raises(Unavailable):
            await desk.call("start_kernel", notebook_path="a.ipynb")
    assert desk.services.sessions.all() == ()
    assert desk.services.kernels._kernels == {}  # type: ignore[attr-defined]
    assert (await desk.call("execute_code", code="1")).data["kernel_epoch"] == 1


async def test_a_failed_start_over_a_dead_kernel_leaves_the_dead_one_and_its_cause(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="1")
    kernel_of(desk).die()

    async def fail(*_: object, **__: object) -> None:
        raise KernelStartFailed("No.")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryKernels, "start", fail)
        with pytest.raises(KernelStartFailed):
            await desk.call("start_kernel", notebook_path="a.ipynb")
    with pytest.raises(KernelDead, match="signal 9"):
        await desk.call("execute_code", code="1")
    assert (await desk.call("start_kernel", notebook_path="a.ipynb")).data["kernel_epoch"] == 2
    assert len(desk.services.sessions.all()) == 1


# ------------------------------------------------------------------ restarting


async def test_the_kernel_of_a_renamed_notebook_is_restarted_by_its_id_and_by_the_old_name(desk: Desk) -> None:
    answer = await desk.call("append_execute_code_cell", cell_source="1")
    desk.file.rename(desk.file.with_name("b.ipynb"))
    restarted = await desk.call("restart_kernel", kernel_id=answer.data["kernel_id"])
    assert restarted.data["kernel_epoch"] == 2
    assert restarted.data["cells_to_rerun"] == []
    assert (await desk.call("restart_kernel", notebook_path="a.ipynb")).data["kernel_epoch"] == 3


async def test_after_a_failed_restart_calls_are_told_of_it_until_one_succeeds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="x = 1")

    async def fail(kernel: MemoryKernel) -> None:
        kernel._stop(Death(-15, "restarted"))
        raise KernelStartFailed("It did not come up.")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryKernel, "restart", fail)
        with pytest.raises(KernelStartFailed):
            await desk.call("restart_kernel")
    for _ in range(2):
        with pytest.raises(KernelDead, match=r"its restart failed: It did not come up\."):
            await desk.call("execute_code", code="1")
    assert "dead" in (await desk.call("list_kernels")).text.splitlines()[0]
    await desk.call("restart_kernel")
    assert (await desk.call("execute_code", code="1 + 1")).data["status"] == "ok"


async def test_a_restart_whose_kernelspec_is_gone_leaves_the_kernel_and_what_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "gone" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "g", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    async with open_desk(settings_of(tmp_path, kernels="local", kernel_name="gone")) as desk:
        await desk.call("execute_code", code="x = 1")
        spec.unlink()
        with pytest.raises(NotFound):
            await desk.call("restart_kernel")
        answer = await desk.call("execute_code", code="x + 1")
        assert answer.text.splitlines()[-1] == "2"
        assert "restarted" not in answer.text
        assert [binding.epoch for binding in desk.services.journal.bindings()] == [1]
        with desk.services.events.subscribe() as events:
            await desk.call("execute_code", code="import os; os.kill(os.getpid(), 9)")
            async for event in events:
                if event.kind == "kernel.died":
                    break


async def test_a_restart_whose_caller_goes_away_is_finished(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.call("execute_code", code="x = 1")
    begun, go = anyio.Event(), anyio.Event()
    restart = MemoryKernel.restart

    async def slowly(kernel: MemoryKernel) -> None:
        begun.set()
        await go.wait()
        await restart(kernel)

    monkeypatch.setattr(MemoryKernel, "restart", slowly)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: desk.call("restart_kernel"))
        await begun.wait()
        tasks.cancel_scope.cancel()
        go.set()
    answer = await desk.call("execute_code", code="_epoch")
    assert answer.data["kernel_epoch"] == 2
    assert answer.data["status"] == "ok"


async def test_what_is_sent_during_a_restart_runs_in_the_new_process(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.call("execute_code", code="x = 1")
    begun, go = anyio.Event(), anyio.Event()
    restart = MemoryKernel.restart

    async def slowly(kernel: MemoryKernel) -> None:
        begun.set()
        await go.wait()
        await restart(kernel)

    monkeypatch.setattr(MemoryKernel, "restart", slowly)
    answers = []

    async def run() -> None:
        answers.append(await desk.call("execute_code", author="other", code="_epoch"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: desk.call("restart_kernel"))
        await begun.wait()
        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        go.set()
    [answer] = answers
    assert (answer.data["status"], answer.data["kernel_epoch"]) == ("ok", 2)
    assert answer.text.splitlines()[-1] == "2"


# ------------------------------------------------------------------ what is heard of a kernel that is gone


async def test_a_restart_is_told_once_to_everybody_else_who_used_the_kernel(desk: Desk) -> None:
    for author in ("a", "b", "c"):
        await desk.call("execute_code", author=author, code="1")
    restarted = await desk.call("restart_kernel", author="a")
    assert "!" not in restarted.text
    for author, told in (("a", False), ("b", True), ("b", False), ("newcomer", False)):
        answer = await desk.call("execute_code", author=author, code="1")
        assert ("was restarted by a: its variables are gone" in answer.text) is told, (author, answer.text)
    assert "was restarted by a" in (await desk.call("read_all_cells", author="c")).text


async def test_a_restart_of_a_kernel_without_a_notebook_is_told_to_those_who_used_it(desk: Desk) -> None:
    identity = (await desk.call("start_kernel")).data["kernel_id"]
    for author in ("a", "b"):
        await desk.call("execute_code", author=author, code="1", kernel_id=identity)
    await desk.call("restart_kernel", author="a", kernel_id=identity)
    for author, told in (("a", False), ("b", True), ("b", False)):
        answer = await desk.call("execute_code", author=author, code="1", kernel_id=identity)
        assert ("was restarted by a: its variables are gone" in answer.text) is told, (author, answer.text)


async def test_the_death_of_a_kernel_is_told_on_the_next_call_whichever_it_is(desk: Desk) -> None:
    await desk.call("append_execute_code_cell", cell_source="x = 1")
    await desk.call("append_execute_code_cell", cell_source="y = 1")
    kernel_of(desk).die(reason="out of memory")
    text = (await desk.call("read_cell", cell_index=0)).text
    assert "! The kernel of epoch 1 was killed by signal 9 (out of memory): its variables are gone." in text
    assert "Run again those of cells 0, 1" in text
    assert "out of memory" not in (await desk.call("read_cell", cell_index=0)).text
    with pytest.raises(KernelDead, match="out of memory"):
        await desk.call("execute_code", code="1")


async def test_who_was_told_by_the_answer_of_the_cell_is_not_told_again(desk: Desk) -> None:
    begun = anyio.Event()

    async def run() -> None:
        answers.append(await desk.call("append_execute_code_cell", cell_source="print('on'); sleep(60)"))

    answers: list[Any] = []
    with desk.services.events.subscribe() as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            async for event in events:
                if event.kind == "execution.output":
                    break
            begun.set()
            kernel_of(desk).die()
    [answer] = answers
    assert answer.data["status"] == "died"
    assert answer.text.count("signal 9") == 2, "in the note and in the output, and not a third time"
    assert "signal 9" not in (await desk.call("read_all_cells", include_outputs=False)).text


async def test_a_kernel_that_died_unseen_is_named_with_its_cause_by_the_next_server(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with open_desk(settings) as desk:
        await desk.call("append_execute_code_cell", cell_source="x = 1")
        await desk.call("restart_kernel")
        await desk.call("append_execute_code_cell", cell_source="y = 1")
        with desk.services.events.subscribe() as events:
            kernel_of(desk).die(reason="out of memory")
            async for event in events:
                if event.kind == "kernel.died":
                    break
    async with open_desk(settings) as desk:
        answer = await desk.call("execute_code", code="'x' in dir()")
        assert answer.data["kernel_epoch"] == 3
        cause = "! The kernel of epoch 2 was killed by signal 9 (out of memory): its variables are gone."
        assert f"{cause} This is epoch 3. Run again those of cells 0, 1" in answer.text
        assert "out of memory" not in (await desk.call("execute_code", code="1")).text


async def test_a_kernel_that_ended_with_its_server_is_told_so_by_reading_too(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with open_desk(settings) as desk:
        await desk.call("append_execute_code_cell", cell_source="x = 1")
    async with open_desk(settings) as desk:
        text = (await desk.call("get_notebook_info")).text
        assert "! The kernel of epoch 1 ended with its server: its variables are gone. The next run starts" in text
        answer = await desk.call("execute_code", code="1")
        assert answer.data["kernel_epoch"] == 2
        assert "variables are gone" not in answer.text
    async with open_desk(settings) as desk:
        with pytest.raises(InvalidRequest, match="The last one ended with its server"):
            await desk.call("list_variables")


async def test_the_epoch_rises_after_a_shutdown_and_that_is_no_news_to_who_asked(desk: Desk) -> None:
    await desk.call("execute_code", author="b", code="1")
    await desk.call("execute_code", code="1")
    await desk.call("shutdown_kernel")
    answer = await desk.call("execute_code", code="1")
    assert answer.data["kernel_epoch"] == 2
    assert "gone" not in answer.text
    assert "was shut down by tester" in (await desk.call("execute_code", author="b", code="1")).text


async def test_a_first_kernel_tells_which_results_are_not_in_it(tmp_path: Path) -> None:
    async with open_desk(settings_of(tmp_path)) as desk:
        await desk.call("append_execute_code_cell", cell_source="x = 1")
        await desk.call("append_markdown_cell", cell_source="text")
    async with open_desk(settings_of(tmp_path, state_dir=tmp_path / "other")) as desk:
        answer = await desk.call("append_execute_code_cell", cell_source="y = 1")
        assert "A new python3 kernel was started: nothing of cells 0 is in it until they run." in answer.text


async def test_the_id_of_a_kernel_that_has_ended_is_answered_with_how(desk: Desk) -> None:
    answer = await desk.call("start_kernel")
    identity = answer.data["kernel_id"]
    await desk.call("shutdown_kernel", kernel_id=identity)
    with pytest.raises(NotFound, match="it was shut down by tester"):
        await desk.call("execute_code", code="1", kernel_id=identity)


async def test_a_kernel_adopted_dead_is_told_as_one_that_died(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with open_kernels(settings) as kernels:
        left = await kernels.start("python3", epoch=4)
        left.die(reason="out of memory")

        class Adopting(MemoryKernels):
            async def adopt(self) -> list[MemoryKernel]:
                return [left]

        async with open_desk(settings) as desk:
            desk.services.journal.bind("a.ipynb", left.id, "python3", 4, "")
        async with open_desk(settings, kernels=Adopting(settings)) as desk:
            with pytest.raises(KernelDead, match="out of memory"):
                await desk.call("execute_code", code="1")
            assert (await desk.call("restart_kernel")).data["kernel_epoch"] == 5
            assert (await desk.call("execute_code", code="1")).data["status"] == "ok"


@pytest.mark.parametrize(
    ("death", "text"),
    [
        (Death(3, "exit code 3"), "exited with code 3"),
        (Death(-9, "SIGKILL"), "was killed by signal 9 (SIGKILL)"),
        (Death(-9, "out of memory"), "was killed by signal 9 (out of memory)"),
        (Death(None, "the recorder is gone"), "ended (the recorder is gone)"),
        (Death(None, ""), "ended"),
    ],
)
async def test_a_death_is_described_once(death: Death, text: str) -> None:
    assert describe(death) == text
