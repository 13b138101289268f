"""Written or refused: what is answered with an error has changed nothing, and what goes on says what it lacks.

The journal's disk is filled by SQLite's own limit or made read-only; the kernel is the memory one. A real full disk, a
small tmpfs, is at the end, where mounting is allowed.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter.errors import InvalidRequest, KernelStarting, Unavailable
from mcp_server_jupyter.execution.execution import Execution
from mcp_server_jupyter.journal import open_journal
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from support import Server

pytestmark = pytest.mark.anyio


def settings_of(folder: Path, **more: Any) -> Settings:
    (folder / "root").mkdir(exist_ok=True)
    options = {"root": folder / "root", "state_dir": folder / "state", "kernels": "memory", "notebook": "a.ipynb"}
    return Settings.load({**options, **more}, {})


async def call(services: Services, operation: str, /, **arguments: Any) -> Answer:
    """The answer; asked for again while the kernel is not up within the short wait of some tests."""
    with anyio.fail_after(60):
        while True:
            with suppress(KernelStarting):
                return await invoke(services, operation, arguments, caller=Caller("tester"))


def file(folder: Path, name: str = "a.ipynb") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "root" / name).read_text())
    return found


def shown(folder: Path) -> list[str]:
    """What each cell of the file shows."""
    return ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in file(folder)["cells"]]


def size_of(path: Path) -> int:
    return path.stat().st_size


async def until(check: Any, seconds: float = 60.0) -> None:
    with anyio.fail_after(seconds):
        while not check():  # noqa: ASYNC110  (what is waited for is in a database)
            await anyio.sleep(0.01)


@contextmanager
def no_journal(services: Services) -> Iterator[None]:
    """The journal's disk refuses every write."""
    services.journal._db.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        services.journal._db.execute("PRAGMA query_only = OFF")


def refuse_writes(patch: pytest.MonkeyPatch, names: Sequence[str] = ("replace", "check_writable")) -> None:
    """The notebooks' disk refuses every write, and says so when it is asked."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in names:
        patch.setattr(f"mcp_server_jupyter.backends.files.disk.{name}", refuse)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, names: Sequence[str] = ("replace", "check_writable")) -> Iterator[None]:
    """The notebooks' disk is full for a while."""
    with monkeypatch.context() as patch:
        refuse_writes(patch, names)
        yield


def kill(services: Services) -> None:
    """What ends from now on ends as if it had been killed: nothing of what runs is written down."""

    async def nothing(*_: Any) -> None: ...

    services.executions.abandon = nothing  # type: ignore[method-assign]
    services.executions.settle = nothing  # type: ignore[method-assign]


# ------------------------------------------------------------------ the journal cannot be written

SLEEP = "for _ in range(6000): sleep(0.01)"
"""A minute that can be ended: the memory kernel looks for that between statements."""

EDITS: dict[str, dict[str, Any]] = {
    "insert_cell": {"cell_index": -1, "cell_type": "markdown", "cell_source": "new"},
    "append_markdown_cell": {"cell_source": "new"},
    "overwrite_cell_source": {"cell_index": 0, "cell_source": "new"},
    "edit_cell_source": {"cell_index": 0, "old_string": "1", "new_string": "new"},
    "move_cell": {"cell_index": 0, "to_index": 1},
    "delete_cell": {"cell_index": 0},
    "clear_outputs": {},
    "undo": {},
    "insert_execute_code_cell": {"cell_index": 0, "cell_source": "ran = True"},
    "append_execute_code_cell": {"cell_source": "ran = True"},
}


@pytest.mark.parametrize("full", ["refuses", "full"])
@pytest.mark.parametrize("operation", EDITS)
async def test_an_edit_that_cannot_be_journaled_is_refused_and_changes_nothing(
    tmp_path: Path, operation: str, full: str
) -> None:
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "append_execute_code_cell", cell_source="print('out', 1)")
        await call(services, "insert_cell", cell_index=-1, cell_type="markdown", cell_source="second")
        await services.contents.flush()
        before, edits = file(tmp_path), services.journal.edits("a.ipynb")
        if full == "full":
            fill(services)
        else:
            services.journal._db.execute("PRAGMA query_only = ON")
        with pytest.raises(Unavailable, match="journal"):
            await call(services, operation, **EDITS[operation])
        await services.contents.flush()
        assert file(tmp_path) == before
        notebook = await services.contents.read("a.ipynb")
        assert [cell.source for cell in notebook.cells] == ["print('out', 1)", "second"]
        services.journal._db.execute("PRAGMA max_page_count = 1000000000")
        services.journal._db.execute("PRAGMA query_only = OFF")
        assert services.journal.edits("a.ipynb") == edits
        assert "NameError" in (await call(services, "execute_code", code="ran")).text
        await call(services, operation, **EDITS[operation])
        assert services.journal.edits("a.ipynb") != edits


def fill(services: Services) -> None:
    """Leave the journal no room, not even in pages it has begun."""
    database = services.journal._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    rows = "INSERT INTO edits (at, notebook, author, kind, before) VALUES (9e9, 'filler', '', '', zeroblob(?))"
    for size in (2000, 200, 20, 0):
        with suppress(sqlite3.OperationalError):
            for _ in range(1000):
                database.execute(rows, (size,))


async def test_runs_go_on_without_a_journal_and_say_so_until_it_is_there_again(tmp_path: Path) -> None:
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "append_execute_code_cell", cell_source="x = 1; print('first')")
        with no_journal(services):
            for operation, arguments in {
                "execute_code": {"code": "x += 1; x"},
                "execute_cell_with_progress": {"cell_index": 0},
                "run_all_cells": {},
            }.items():
                answer = await call(services, operation, **arguments)
                assert "The journal cannot be written" in answer.text, operation
                assert "will not survive a crash" in answer.text, operation
                assert not answer.is_error
            run = await call(services, "execute_code", code="x")
        after = await call(services, "execute_code", code="x + 40")
        assert "41" in after.text
        assert "journal" not in after.text
        again = await call(services, "get_execution", execution_id=run.data["execution_id"])
        assert "journal" not in again.text
    with open_journal(settings_of(tmp_path).root_state / "journal.sqlite3") as journal:
        assert journal.unfinished() == []
        row = journal.execution(run.data["execution_id"])
        assert row is not None
        assert row.status == "ok"


def warnings_of(services: Services, run: Answer) -> dict[Any, str]:
    execution = services.executions.get(run.data["execution_id"])
    assert execution is not None
    return execution.warnings


async def test_what_the_journal_could_not_take_is_written_soon_after_it_can(tmp_path: Path) -> None:
    """Also of what still runs, and without another call."""
    async with open_services(settings_of(tmp_path, wait_seconds=0.2)) as services:
        await call(services, "execute_code", code="1")
        with no_journal(services):
            runs = [
                await call(services, "execute_code", code=code)
                for code in ("1 + 1", "2 + 2", f"print('runs')\n{SLEEP}", "'waits'")
            ]
            await anyio.sleep(0.6)  # One attempt is made in vain.
            for run in runs:
                answer = await call(services, "get_execution", execution_id=run.data["execution_id"])
                assert "The journal cannot be written" in answer.text
        await until(lambda: not any(warnings_of(services, run) for run in runs))
        rows = [services.journal.execution(run.data["execution_id"]) for run in runs]
        assert [row and row.status for row in rows] == ["ok", "ok", "running", "queued"]
        assert all(row is not None and row.started_at for row in rows[:3])
        await call(services, "interrupt_kernel")


async def test_who_asks_when_the_journal_can_be_written_again_is_not_warned_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.execution.record._RETRY_SECONDS", 60.0)
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "execute_code", code="1")
        with no_journal(services):
            run = await call(services, "execute_code", code="1 + 1")
            assert "journal" in run.text
        again = await call(services, "get_execution", execution_id=run.data["execution_id"])
        assert "journal" not in again.text
        row = services.journal.execution(run.data["execution_id"])
        assert row is not None
        assert row.status == "ok"


async def test_a_cell_that_asks_for_input_goes_on_without_a_journal(tmp_path: Path) -> None:
    async with open_services(settings_of(tmp_path, wait_seconds=5)) as services:
        asked = await call(services, "execute_code", code="input('name? ')")
        assert asked.data["status"] == "waiting_input"
        with no_journal(services):
            answer = await call(services, "send_input", execution_id=asked.data["execution_id"], text="Ada")
            assert "Ada" in answer.text
            assert "journal" in answer.text


async def test_a_start_that_fails_leaves_adopted_kernels_running(tmp_path: Path) -> None:
    released: list[str] = []

    class Kernels:
        """Kernels of an earlier server that cannot be bound for want of a journal."""

        async def __aenter__(self) -> Kernels:
            return self

        async def __aexit__(self, *_: Any) -> None:
            released.append("closed")

        async def lead(self, waiting: Any) -> None:
            return

        async def superseded(self) -> str:
            await anyio.sleep_forever()
            raise AssertionError

        async def adopt(self) -> list[Any]:
            raise Unavailable("The journal cannot be written.")

        async def release(self) -> None:
            released.append("released")

    with pytest.raises(Unavailable):
        async with open_services(settings_of(tmp_path), kernels=Kernels()):  # type: ignore[arg-type]
            pass
    assert released == ["released", "closed"]


# ------------------------------------------------------------------ the notebooks cannot be written


@pytest.mark.parametrize("operation", [name for name in EDITS if "execute" not in name])
async def test_an_edit_that_cannot_be_saved_leaves_no_line_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "append_execute_code_cell", cell_source="print('out', 1)")
        await call(services, "insert_cell", cell_index=-1, cell_type="markdown", cell_source="second")
        await services.contents.flush()
        before, edits = file(tmp_path), services.journal.edits("a.ipynb")
        with full_disk(monkeypatch), pytest.raises(Unavailable, match="No space"):
            await call(services, operation, **EDITS[operation])
        assert services.journal.edits("a.ipynb") == edits
        assert file(tmp_path) == before
        await call(services, operation, **EDITS[operation])
        assert len(services.journal.edits("a.ipynb")) > len(edits)


async def test_outputs_that_cannot_be_saved_are_told_at_once_and_no_longer_once_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.execution.delivery._RETRY_SECONDS", 0.05)
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "append_execute_code_cell", cell_source="print('one')")
        await services.contents.flush()
        await call(services, "overwrite_cell_source", cell_index=0, cell_source="print('two')")
        with full_disk(monkeypatch):
            answer = await call(services, "execute_cell_with_progress", cell_index=0)
            assert answer.data["status"] == "ok"
            assert "not in the notebook's file" in answer.text
            assert "No space" in answer.text
            execution = services.executions.get(answer.data["execution_id"])
            assert isinstance(execution, Execution)
        await until(lambda: not execution.warnings)
        later = await call(services, "get_execution", execution_id=execution.id)
        assert "not in the notebook" not in later.text
        assert shown(tmp_path) == ["two\n"]
        row = services.journal.execution(execution.id)
        assert row is not None
        assert row.on_disk
        assert row.events_lost is None


async def test_a_run_in_a_read_only_notebook_says_so_and_a_new_cell_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.execution.delivery._RETRY_SECONDS", 0.05)
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "append_execute_code_cell", cell_source="print('one')")
        await services.contents.flush()
        with monkeypatch.context() as patch:
            # Root may write what is read-only, so the system is asked in its place.
            patch.setattr(os, "access", lambda *_, **__: False)
            answer = await call(services, "execute_cell_with_progress", cell_index=0)
            assert "not in the notebook's file" in answer.text
            with pytest.raises(InvalidRequest, match="Permission denied"):
                await call(services, "append_execute_code_cell", cell_source="print('two')")
        execution = services.executions.get(answer.data["execution_id"])
        assert isinstance(execution, Execution)
        await until(lambda: not execution.warnings)
    assert len(file(tmp_path)["cells"]) == 1


# ------------------------------------------------------------------ outputs are written by what is newest


async def undelivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *source: str) -> list[str]:
    """Cells whose outputs had not reached the file when their server was killed: the ids of their executions."""
    with monkeypatch.context() as patch:
        async with open_services(settings_of(tmp_path)) as services:
            for each in source:
                await call(services, "insert_cell", cell_index=-1, cell_type="code", cell_source=each)
            refuse_writes(patch)
            ids = [
                (await call(services, "execute_cell_with_progress", cell_index=index)).data["execution_id"]
                for index in range(len(source))
            ]
            services.contents.below._open.clear()  # type: ignore[attr-defined]
            kill(services)
    return ids


async def test_outputs_that_had_not_reached_the_file_are_written_by_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await undelivered(tmp_path, monkeypatch, "print('one')", "print('two')")
    assert shown(tmp_path) == ["", ""]
    async with open_services(settings_of(tmp_path)) as services:
        assert services.journal.undelivered() == []
    assert shown(tmp_path) == ["one\n", "two\n"]


async def test_old_outputs_are_not_written_over_what_a_person_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await undelivered(tmp_path, monkeypatch, "print('one')", "print('two')")
    person = file(tmp_path)
    person["cells"][0] |= {
        "execution_count": 1,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["theirs\n"]}],
    }
    (tmp_path / "root" / "a.ipynb").write_text(json.dumps(person))
    async with open_services(settings_of(tmp_path)) as services:
        assert services.journal.undelivered() == []
    assert shown(tmp_path) == ["theirs\n", "two\n"]


async def test_old_outputs_are_not_written_over_a_newer_run_or_a_cleared_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await undelivered(tmp_path, monkeypatch, "print('one')", "print('two')", "print('three')")
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "overwrite_cell_source", cell_index=0, cell_source="print('new')")
        await call(services, "execute_cell_with_progress", cell_index=0)
        await call(services, "clear_outputs", cell_index=1)
    forget_delivery(tmp_path, old)
    async with open_services(settings_of(tmp_path)) as services:
        assert services.journal.undelivered() == []
    assert shown(tmp_path) == ["new\n", "", "three\n"]


async def test_a_cell_cleared_before_its_outputs_were_ever_in_the_file_stays_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(settings_of(tmp_path)) as services:
        await call(services, "insert_cell", cell_index=-1, cell_type="code", cell_source="print('one')")
        with full_disk(monkeypatch):
            run = await call(services, "execute_cell_with_progress", cell_index=0)
        await call(services, "clear_outputs", cell_index=0)
    forget_delivery(tmp_path, [run.data["execution_id"]])
    async with open_services(settings_of(tmp_path)):
        pass
    assert shown(tmp_path) == [""]


def forget_delivery(tmp_path: Path, executions: list[str]) -> None:
    """The journal as it is when it could not be told of the delivery."""
    with (
        open_journal(settings_of(tmp_path).root_state / "journal.sqlite3") as journal,
        journal._transaction() as database,
    ):
        database.executemany("UPDATE executions SET on_disk = 0 WHERE id = ?", [(each,) for each in executions])


async def test_a_cell_that_streamed_is_completed_by_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_services(settings_of(tmp_path)) as services:
        run = await call(
            services, "append_execute_code_cell", cell_source="print('one')\nimport time; time.sleep(.5)\nprint('two')"
        )
        await services.contents.flush()
    whole = file(tmp_path)
    assert shown(tmp_path) == ["one\ntwo\n"]
    whole["cells"][0]["outputs"][0]["text"] = ["one\n"]
    (tmp_path / "root" / "a.ipynb").write_text(json.dumps(whole))
    forget_delivery(tmp_path, [run.data["execution_id"]])
    async with open_services(settings_of(tmp_path)):
        pass
    assert shown(tmp_path) == ["one\ntwo\n"]


# ------------------------------------------------------------------ cells come back only if they were never seen


async def running(services: Services, source: str = SLEEP) -> Answer:
    answer = await call(services, "append_execute_code_cell", cell_source=source)
    assert answer.data["status"] == "running"
    return answer


@pytest.mark.parametrize("minor", [4, 5])
async def test_a_cell_that_was_inserted_and_runs_is_there_once_after_a_kill(tmp_path: Path, minor: int) -> None:
    settings = settings_of(tmp_path, wait_seconds=0.1)
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": minor}
    (tmp_path / "root" / "a.ipynb").write_text(json.dumps(notebook))
    async with open_services(settings) as services:
        first = await running(services)
        await services.contents.flush()
        kill(services)
    reopen_placement(tmp_path, first.data["execution_id"])
    async with open_services(settings) as services:
        pass
    cells = file(tmp_path)["cells"]
    assert len(cells) == 1
    assert [output["output_type"] for output in cells[0]["outputs"]] == ["error"]


def reopen_placement(tmp_path: Path, execution_id: str) -> None:
    """The journal as it is when the server was killed just after it wrote the file."""
    with (
        open_journal(settings_of(tmp_path).root_state / "journal.sqlite3") as journal,
        journal._transaction() as database,
    ):
        database.execute("UPDATE executions SET cell_index = 0 WHERE id = ?", (execution_id,))


@pytest.mark.parametrize("minor", [4, 5])
async def test_a_cell_that_had_not_reached_the_file_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minor: int
) -> None:
    settings = settings_of(tmp_path, wait_seconds=0.1)
    same = {"cell_type": "code", "metadata": {}, "source": "1 + 1", "outputs": [], "execution_count": None}
    notebook = {"cells": [same], "metadata": {}, "nbformat": 4, "nbformat_minor": minor}
    if minor == 5:
        same["id"] = "same"
    (tmp_path / "root" / "a.ipynb").write_text(json.dumps(notebook))
    with full_disk(monkeypatch, ("replace",)):
        async with open_services(settings) as services:
            await call(services, "append_execute_code_cell", cell_source="1 + 1")
            services.contents.below._open.clear()  # type: ignore[attr-defined]
            kill(services)
    assert len(file(tmp_path)["cells"]) == 1
    async with open_services(settings) as services:
        pass
    assert [cell["execution_count"] for cell in file(tmp_path)["cells"]] == [None, 1]


@pytest.mark.parametrize("how", ["delete_cell", "undo"])
async def test_a_running_cell_that_was_deleted_stays_deleted_after_a_kill(tmp_path: Path, how: str) -> None:
    settings = settings_of(tmp_path, wait_seconds=0.1)
    async with open_services(settings) as services:
        await running(services)
        await call(services, how, **({"cell_index": 0} if how == "delete_cell" else {}))
        kill(services)
    async with open_services(settings):
        pass
    assert file(tmp_path)["cells"] == []


async def test_a_running_cell_that_a_person_deleted_stays_deleted_after_a_kill(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, wait_seconds=0.1)
    async with open_services(settings) as services:
        run = await running(services)

        def placed() -> bool:
            row = services.journal.execution(run.data["execution_id"])
            return row is not None and row.cell_index is None

        await until(placed)
        person = file(tmp_path)
        assert len(person["cells"]) == 1
        (tmp_path / "root" / "a.ipynb").write_text(json.dumps({**person, "cells": []}))
        kill(services)
    async with open_services(settings):
        pass
    assert file(tmp_path)["cells"] == []


# ------------------------------------------------------------------ the end of a server


async def test_a_cell_cut_off_by_the_end_of_the_server_has_its_output_and_says_so(tmp_path: Path) -> None:
    source = "import time\nfor i in range(10**6): print(i); time.sleep(.001)"
    async with open_services(settings_of(tmp_path, wait_seconds=0.3)) as services:
        run = await running(services, source)
    (cell,) = file(tmp_path)["cells"]
    with open_journal(settings_of(tmp_path).root_state / "journal.sqlite3") as journal:
        row = journal.execution(run.data["execution_id"])
        assert row is not None
        assert (row.status, row.on_disk) == ("lost", True)
        assert row.outputs is not None
        assert [output.output_type for output in row.outputs] == ["stream", "error"]
        assert shown(tmp_path) == [row.outputs[0].text]
    mark = cell["outputs"][1]
    assert mark["ename"] == "ServerStopped"
    assert "missing" in mark["evalue"]


async def test_what_could_not_be_written_when_the_server_ended_is_written_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, wait_seconds=0.2)
    with monkeypatch.context() as patch, pytest.raises(Unavailable, match="No space"):  # noqa: PT012
        async with open_services(settings) as services:
            source = f"print('x')\n{SLEEP}"
            await call(services, "insert_cell", cell_index=-1, cell_type="code", cell_source=source)
            refuse_writes(patch)
            run = await call(services, "execute_cell_with_progress", cell_index=0)
            assert run.data["status"] == "running"
    assert shown(tmp_path) == [""]
    async with open_services(settings):
        pass
    assert [output["output_type"] for output in file(tmp_path)["cells"][0]["outputs"]] == ["stream", "error"]


# ------------------------------------------------------------------ a disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of some megabytes, for the root or for the state."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is forbidden here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_disk(disk: Path) -> Path:
    """Use up every byte; the file to remove."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return filler


@pytest.mark.parametrize("on_it", ["root", "state", "root and state"])
async def test_on_a_full_disk_everything_is_written_or_refused(small_disk: Path, tmp_path: Path, on_it: str) -> None:
    folders = {name: (small_disk if name in on_it else tmp_path) / name for name in ("root", "state")}
    folders["root"].mkdir()
    settings = Settings.load(
        {"root": folders["root"], "state_dir": folders["state"], "kernels": "memory", "notebook": "a.ipynb"}, {}
    )
    notebook = folders["root"] / "a.ipynb"
    async with open_services(settings) as services:
        await call(services, "append_execute_code_cell", cell_source="ran = []")
        for number in range(3):
            await call(services, "insert_cell", cell_index=-1, cell_type="markdown", cell_source=f"old {number}")
        await services.contents.flush()
        filler = fill_disk(small_disk)
        done, refused = [], []
        for number in range(40):
            try:
                await call(services, "insert_cell", cell_index=-1, cell_type="markdown", cell_source=f"new {number}")
                done.append(f"new {number}")
            except Unavailable:
                refused.append(f"new {number}")
        assert refused
        now = ["".join(cell["source"]) for cell in json.loads(content(notebook))["cells"]]
        assert [source for source in now if source.startswith("new")] == done
        with pytest.raises(Unavailable):
            await call(services, "append_execute_code_cell", cell_source="ran.append(1)")
        before = content(notebook)
        with pytest.raises(Unavailable):
            await call(services, "undo")
        assert content(notebook) == before
        run = await call(services, "execute_cell_with_progress", cell_index=0)
        assert not run.is_error
        assert ("The journal cannot be written" in run.text) or ("not in the notebook's file" in run.text)
        filler.unlink()
        assert (await call(services, "execute_code", code="ran")).text.splitlines()[-1] == "[]"
        undone = await call(services, "undo", scope="turn")
        assert undone.data["undone_count"] == 4 + len(done)
        assert json.loads(content(notebook))["cells"] == []
        again = await call(services, "get_execution", execution_id=run.data["execution_id"])
        assert again.data["status"] == "ok"


def content(path: Path) -> bytes:
    return path.read_bytes()


def test_a_start_on_a_full_disk_leaves_the_kernels_of_the_server_before(small_disk: Path, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.state = small_disk / "state"
    server.start()
    server.call("create_notebook", notebook_path="a")
    server.call("execute_code", code="kept = 41", notebook_path="a.ipynb")
    server.kill()
    kernels = server.kernel_pids()
    assert kernels
    filler = fill_disk(small_disk)
    with pytest.raises(AssertionError):
        server.start()
    server.kill()
    assert server.kernel_pids() == kernels
    filler.unlink()
    server.start()
    assert "42" in server.call("execute_code", code="kept + 1", notebook_path="a.ipynb")["text"]
    assert server.stop() == 0


# ------------------------------------------------------------------ bounded


async def executions_stay_flat(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `count` cells that show 100 kB each; memory and journal are bounded by their limits, not by the number."""
    monkeypatch.setattr("mcp_server_jupyter.journal.tables._GROWTH_BYTES", 256 * 1024)
    async with open_services(settings_of(tmp_path, journal_megabytes=2)) as services:
        recent = services.executions._recent
        recent._most_bytes = 2**20
        await call(services, "execute_code", code="import os")
        for _ in range(count):
            await call(services, "execute_code", code="print(os.urandom(50_000).hex())")
        assert sum(len(each.reducer.outputs()[0].text) for each in recent.values() if each.reducer.outputs()) < 2**21
        await until(lambda: services.journal._used_bytes() < 3 * 2**20)
        newest = next(reversed(list(recent)))
        row = services.journal.execution(newest)
        assert row is not None
        assert row.status == "ok"


async def test_the_journal_is_pruned_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await executions_stay_flat(tmp_path, 80, monkeypatch)


async def test_the_journals_log_stays_small_and_shrinks_when_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.services.CALM_SECONDS", 0.2)
    async with open_services(settings_of(tmp_path)) as services:
        log = Path(f"{services.journal.path}-wal")
        await call(services, "execute_code", code="import os")
        for _ in range(4):
            for _ in range(25):
                await call(services, "append_execute_code_cell", cell_source="print(os.urandom(300_000).hex())")
                assert size_of(log) < 32 * 2**20
            # What is written after it was emptied is left until there are 4 MB of it.
            await until(lambda: size_of(log) < 6 * 2**20)


async def test_a_log_that_a_reader_holds_is_emptied_once_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server_jupyter.services.CALM_SECONDS", 0.1)
    async with open_services(settings_of(tmp_path)) as services:
        log = Path(f"{services.journal.path}-wal")
        reader = sqlite3.connect(services.journal.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM executions").fetchone()
        await call(services, "execute_code", code="import os")
        for _ in range(10):
            await call(services, "execute_code", code="print(os.urandom(300_000).hex())")
        assert not await services.journal.checkpoint(empty=True)
        assert size_of(log) > 2**20
        reader.execute("COMMIT")
        await until(lambda: size_of(log) < 2**20)
        reader.close()


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_20_000_executions_stay_flat(tmp_path: Path) -> None:
    async with open_services(settings_of(tmp_path)) as services:

        async def objects_after(count: int) -> int:
            for _ in range(count):
                await call(services, "execute_code", code="1 + 1")
            gc.collect()
            return len(gc.get_objects())

        settled = await objects_after(2_000)
        assert await objects_after(18_000) < settled + 2_000
