"""The journal: what it keeps, what it forgets, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.journal import FINISHED, UNDO, EditRow, ExecutionRow, Journal, new_execution_id, open_journal
from mcp_server_jupyter.journal.packing import packed, packed_lines, unpacked, unpacked_lines
from mcp_server_jupyter.journal.schema import MIGRATIONS
from mcp_server_jupyter.ports import Message

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with open_journal(path) as opened:
        yield opened


def execution(**columns: Any) -> ExecutionRow:
    row: dict[str, Any] = {
        "id": new_execution_id(),
        "kernel_id": "k",
        "kernel_epoch": 1,
        "msg_id": "m",
        "code": "1+1",
        "author": "agent",
        "notebook": "a.ipynb",
        "cell_id": "c",
    }
    return ExecutionRow(**{**row, **columns})


async def add(journal: Journal, row: ExecutionRow) -> None:
    """Write a row down with its outputs."""
    journal.add_execution(row)
    if row.outputs is not None:
        await journal.finished(
            row.id, row.status, at=row.finished_at or 0.0, outputs=row.outputs, on_disk=row.on_disk, note=""
        )


def recent(journal: Journal) -> list[ExecutionRow]:
    """Every execution without its outputs, newest first."""
    return journal._bare("ORDER BY id DESC")


def forever() -> dict[str, Any]:
    return {"max_age_days": 10_000, "max_bytes": 2**60}


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


# ------------------------------------------------------------------ executions


def test_ids_are_short_sort_by_time_and_do_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_execution_id() for _ in range(2000)}) == 2000
    clock = iter(range(1_700_000_000_000_000_000, 4_000_000_000_000_000_000, 10**15))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    ids = [new_execution_id() for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert {len(each) for each in ids} == {15}


async def test_an_execution_is_read_back_as_it_was_written(journal: Journal) -> None:
    row = execution(
        after_cell_id="b",
        cell_index=3,
        turn="t1",
        started_at=2.5,
        finished_at=3.5,
        source_hash="abc",
        status="ok",
        replaced="r",
        outputs=[stream("x" * 100_000)],
    )
    await add(journal, row)
    assert journal.execution(row.id) == row
    assert await journal.recall(row.id) == row
    assert journal.execution("unknown") is None
    assert await journal.recall("unknown") is None


async def test_an_execution_goes_from_the_queue_to_the_file(journal: Journal) -> None:
    row = execution(cell_index=2)
    journal.add_execution(row)

    def known() -> ExecutionRow:
        found = journal.execution(row.id)
        assert found is not None
        return found

    journal.started(row.id, at=1.0, epoch=3)
    assert (known().status, known().started_at, known().kernel_epoch) == ("running", 1.0, 3)
    journal.waiting_input(row.id, "name?")
    assert (known().status, known().input_prompt) == ("waiting_input", "name?")
    journal.running(row.id)
    assert (known().status, known().input_prompt) == ("running", None)
    for number in range(200):
        journal.streamed(row.id, f"{number:010}")
    marks = (known().streamed or "").split()
    assert marks[-1] == "0000000199"
    assert 10 < len(marks) < 200
    await journal.finished(row.id, "error", at=2.0, outputs=[stream("a")], ename="E", evalue="e", note="late")
    finished = known()
    assert (finished.status, finished.finished_at, finished.outputs) == ("error", 2.0, [stream("a")])
    assert (finished.ename, finished.evalue, finished.events_lost, finished.on_disk) == ("E", "e", "late", False)
    assert finished.cell_index == 2
    journal.delivered([row.id])
    assert (known().on_disk, known().cell_index) == (True, None)
    journal.withdraw(row.id)
    assert journal.execution(row.id) is None


async def test_text_that_utf8_has_no_form_for_is_kept(journal: Journal) -> None:
    row = execution(code="print('\ud800')", author="\udcffé")
    journal.add_execution(row)
    await journal.finished(row.id, "ok", at=2.0, outputs=[stream("\ud800")], evalue="\udfff")
    found = journal.execution(row.id)
    assert found is not None
    assert (found.code, found.author, found.evalue) == (row.code, row.author, "\udfff")
    assert found.outputs == [stream("\ud800")]


async def test_only_the_latest_run_of_a_cell_is_the_newest(journal: Journal) -> None:
    rows = [execution(id=f"x{n}", status=status) for n, status in enumerate(["ok", "ok", "queued", "aborted"])]
    rows.append(execution(id="x9", cell_id="d", status="ok"))
    for row in rows:
        journal.add_execution(row)
    assert [journal.is_newest(row) for row in rows] == [False, True, True, True, True]


@pytest.mark.parametrize("status", ["queued", "running", "waiting_input", *sorted(FINISHED)])
def test_what_is_not_done_is_unfinished_and_what_is_not_on_disk_is_undelivered(journal: Journal, status: str) -> None:
    row = execution(status=status)
    journal.add_execution(row)
    journal.add_execution(execution(status="ok", on_disk=True))
    assert [each.id for each in journal.unfinished()] == ([] if status in FINISHED else [row.id])
    assert [each.id for each in journal.undelivered()] == ([row.id] if status in FINISHED else [])


def test_the_last_run_of_each_cell_is_known(journal: Journal) -> None:
    journal.add_execution(execution(id="x1", cell_id="c", status="ok", source_hash="old", execution_count=1))
    journal.add_execution(execution(id="x2", cell_id="c", status="error", source_hash="new", kernel_epoch=2))
    journal.add_execution(execution(id="x3", cell_id="c", status="queued"))
    journal.add_execution(execution(id="x4", cell_id="d", status="ok"))
    journal.add_execution(execution(id="x5", cell_id="c", notebook="other.ipynb", status="ok"))
    runs = journal.last_runs("a.ipynb")
    assert {cell: (run.execution_id, run.status, run.epoch, run.source_hash) for cell, run in runs.items()} == {
        "c": ("x2", "error", 2, "new"),
        "d": ("x4", "ok", 1, None),
    }


async def test_events_are_kept_in_order_until_the_execution_finishes(journal: Journal) -> None:
    row = execution(status="running")
    journal.add_execution(row)
    messages = [Message("iopub", "stream", str(n), row.msg_id, {"name": "stdout", "text": str(n)}) for n in range(1000)]
    journal.append_events(row.id, messages[:300])
    journal.append_events(row.id, [])
    journal.append_events(row.id, messages[300:])
    assert journal.event_messages(row.id) == messages
    await journal.finished(row.id, "ok", at=1.0, outputs=[])
    assert journal.event_messages(row.id) == []


# ------------------------------------------------------------------ edits


async def test_edits_are_found_by_who_made_them_and_when(journal: Journal) -> None:
    before, after = {"id": "c", "source": "a"}, {"id": "c", "source": "b", "outputs": [stream("o")]}
    rows = [
        EditRow("a.ipynb", "agent", "source", "c", before, after, turn="t1"),
        EditRow("a.ipynb", "person", "delete", "d", after, None, 4, None, turn="t2"),
        EditRow("a.ipynb", "agent", "insert", "e", None, after, None, 2, execution_id="x1"),
    ]
    await journal.add_edits(rows)
    ids = [row.id for row in rows]
    assert journal.edits("a.ipynb") == rows[::-1]
    assert [edit.id for edit in journal.edits("a.ipynb", author="agent")] == [ids[2], ids[0]]
    assert [edit.id for edit in journal.edits(turn="t2")] == [ids[1]]
    assert [edit.id for edit in journal.edits("a.ipynb", execution_id="x1")] == [ids[2]]
    (first,) = journal.edits("a.ipynb", turn="t1")
    assert (first.before, first.after, first.undone_by) == (before, after, None)
    assert journal.last_change("a.ipynb", "d", ("insert", "delete")) == ("delete", rows[1].at)
    assert journal.last_change("a.ipynb", "c", ("insert", "delete")) is None


async def test_edits_close_in_time_are_one_turn_unless_the_last_one_undid(journal: Journal) -> None:
    now = time.time()
    await journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn="t1", at=now)])
    assert journal.turn_of("a.ipynb", "agent") == "t1"
    new = {
        journal.turn_of("a.ipynb", "other"),
        journal.turn_of("b.ipynb", "agent"),
        journal.turn_of("b.ipynb", "agent"),
    }
    assert len(new - {"t1"}) == 3
    await journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn=f"{UNDO}1", at=now)])
    assert not journal.turn_of("a.ipynb", "agent").startswith((UNDO, "t1"))
    await journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn="t2", at=now - 300)])
    assert journal.turn_of("a.ipynb", "agent") not in ("t1", "t2")
    last = journal.last_edit("a.ipynb", "agent")
    assert last is not None
    assert last.turn == "t2"


async def test_an_undone_edit_says_by_what_and_a_withdrawn_undo_takes_that_back(journal: Journal) -> None:
    rows = [EditRow("a.ipynb", "agent", "source", cell, turn="t1") for cell in "cd"]
    await journal.add_edits(rows)
    undo = EditRow("a.ipynb", "agent", "source", "c", turn=f"{UNDO}1", undoes=(rows[0].id or 0,))
    await journal.add_edits([undo])
    assert [edit.undone_by for edit in journal.edits("a.ipynb")] == [None, None, f"{UNDO}1"]
    assert [edit.id for edit in journal.edits("a.ipynb", include_undone=False)] == [undo.id, rows[1].id]
    assert [head.id for head in journal.undoable("a.ipynb", author="agent")] == [undo.id, rows[1].id]
    assert journal.editors("a.ipynb") == {"agent": 1}
    journal.withdraw_edits([undo])
    assert [edit.undone_by for edit in journal.edits("a.ipynb")] == [None, None]


async def test_what_cannot_be_withdrawn_now_is_withdrawn_before_anybody_reads(journal: Journal) -> None:
    row = EditRow("a.ipynb", "agent", "source", "c")
    await journal.add_edits([row])
    with read_only(journal):
        journal.withdraw_edits([row])
    assert journal.edits("a.ipynb") == []


async def test_edits_of_one_call_are_written_all_or_none(journal: Journal) -> None:
    bad = EditRow("a.ipynb", "agent", "source", cell_id=object())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await journal.add_edits([EditRow("a.ipynb", "agent", "source"), bad])
    assert journal.edits() == []
    await journal.add_edits([EditRow("a.ipynb", "agent", "source")])


# ------------------------------------------------------------------ what is big


def picture(size: int) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": os.urandom(size // 2).hex()}}


BIG = [
    stream("".join(f"step {n}\n" for n in range(700_000))),
    stream("again\n"),
    picture(9_000_000),
    {"output_type": "display_data", "metadata": {}, "data": {"application/json": {"deep": [["é" * 3_000_000], 1]}}},
]


async def test_thousands_of_edits_are_written_all_or_none(journal: Journal) -> None:
    old = EditRow("a.ipynb", "agent", "source", "c")
    await journal.add_edits([old])
    many = [EditRow("a.ipynb", "agent", "source", str(number), undoes=(old.id or 0,)) for number in range(1000)]
    bad = EditRow("a.ipynb", "agent", "source", cell_id=object())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await journal.add_edits([*many, bad])

    assert [(edit.id, edit.undone_by) for edit in journal.edits()] == [(old.id, None)]


async def test_big_outputs_come_back_as_they_were(journal: Journal) -> None:
    row = execution(status="ok", finished_at=1.0, outputs=BIG)
    await add(journal, row)
    assert await journal.recall(row.id) == row
    assert journal.execution(row.id) == row
    cell = {"id": "c", "source": "1", "outputs": BIG}
    edit = EditRow("a.ipynb", "agent", "delete", "c", cell)
    await journal.add_edits([edit])
    assert journal.edits() == [edit]


class Turns:
    """How many turns others get meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    async def count_them(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.count += 1


@pytest.mark.parametrize("what", ["outputs of an execution", "edits of a call", "recall", "forgetting"])
async def test_others_have_their_turns_while_50_megabytes_are_journaled(journal: Journal, what: str) -> None:
    outputs = [stream("step\n" * 5_000_000), *(picture(5_000_000) for _ in range(5))]
    row = execution(status="ok", finished_at=1.0, on_disk=True)
    journal.add_execution(row)
    if what in ("recall", "forgetting"):
        await journal.finished(row.id, "ok", at=1.0, outputs=outputs, on_disk=True)
    turns = Turns()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turns.count_them)
        if what == "outputs of an execution":
            await journal.finished(row.id, "ok", at=1.0, outputs=outputs, on_disk=True)
        elif what == "recall":
            await journal.recall(row.id)
        elif what == "forgetting":
            await journal.prune(max_age_days=0, max_bytes=0)
        else:
            cells = [{"id": str(n), "source": "1", "outputs": [outputs[n % 6]]} for n in range(6)]
            await journal.add_edits([EditRow("a.ipynb", "agent", "outputs", "c", cell, None) for cell in cells])
        tasks.cancel_scope.cancel()
    assert turns.count > 8


async def test_a_big_value_whose_row_was_not_written_is_forgotten(journal: Journal) -> None:
    bad = EditRow("a.ipynb", "agent", "delete", cell_id=object(), before={"outputs": BIG})  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await journal.add_edits([bad])
    row = execution(status="ok", outputs=BIG)
    await add(journal, row)
    await journal.finished(row.id, "ok", at=2.0, outputs=BIG[:2])
    await journal.prune(**forever())
    assert journal._query("SELECT count(DISTINCT blob_id) FROM blob_parts") == [(1,)]
    found = await journal.recall(row.id)
    assert found is not None
    assert found.outputs == BIG[:2]


# ------------------------------------------------------------------ kernels


def test_a_notebook_has_one_kernel_at_a_time(journal: Journal) -> None:
    journal.bind("a.ipynb", "k1", "python3", 1, "")
    journal.bind("b.ipynb", "k2", "python3", 1, "sub")
    journal.bind("a.ipynb", "k3", "ir", 2, "")
    assert [(b.notebook, b.kernel_id, b.kernel_name, b.epoch, b.cwd) for b in journal.bindings()] == [
        ("a.ipynb", "k3", "ir", 2, ""),
        ("b.ipynb", "k2", "python3", 1, "sub"),
    ]


# ------------------------------------------------------------------ retention


async def test_old_entries_are_forgotten_but_nothing_that_is_waited_for(journal: Journal) -> None:
    old = time.time() - 40 * 86_400
    for number in range(100):
        journal.add_execution(execution(id=f"old{number}", queued_at=old, status="ok", on_disk=True))
    for name, columns in {"undelivered": {"status": "ok"}, "running": {"status": "running"}}.items():
        journal.add_execution(execution(id=name, queued_at=old, **columns))
    journal.add_execution(execution(id="young", status="ok", on_disk=True))
    await journal.add_edits([EditRow("a.ipynb", "agent", "source", at=old), EditRow("a.ipynb", "agent", "source")])
    await journal.prune(max_age_days=30, max_bytes=2**30)
    assert {row.id for row in recent(journal)} == {"undelivered", "running", "young"}
    assert len(journal.edits()) == 1


async def test_a_full_journal_forgets_its_oldest_entries_first(journal: Journal, path: Path) -> None:
    for number in range(80):
        outputs = [stream(os.urandom(500_000 if number % 20 == 0 else 25_000).hex())]
        await add(
            journal, execution(id=f"x{number:02}", status="ok", queued_at=float(number), on_disk=True, outputs=outputs)
        )
    journal.add_execution(execution(id="x00-open", status="running", queued_at=0.0))
    await journal.prune(max_age_days=10**6, max_bytes=2_000_000)
    left = [row.id for row in recent(journal)]
    assert "x79" in left
    assert "x00" not in left
    assert "x00-open" in left
    assert journal._used_bytes() <= 2_000_000
    await journal.checkpoint()
    assert size_of(path) < 4_000_000


async def test_no_more_is_forgotten_than_makes_room(journal: Journal) -> None:
    for number in range(30):
        outputs = [stream(os.urandom(70_000).hex())]
        await add(
            journal, execution(id=f"x{number:02}", status="ok", queued_at=float(number), on_disk=True, outputs=outputs)
        )
    full = journal._used_bytes()
    await journal.prune(max_age_days=10**6, max_bytes=full - 100_000)
    left = {row.id for row in recent(journal)}
    assert "x29" in left
    assert 26 <= len(left) < 30


# ------------------------------------------------------------------ the file


def test_only_the_user_can_read_the_journal(journal: Journal, path: Path) -> None:
    journal.add_execution(execution())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    row = execution()
    with open_journal(path) as first:
        first.add_execution(row)
    with open_journal(path) as second:
        assert second.execution(row.id) == row
        assert second.reset is None


def size_of(path: Path) -> int:
    return path.stat().st_size


def content(path: Path) -> bytes:
    return path.read_bytes()


def rubbish(path: Path) -> None:
    path.write_bytes(b"this is not a database, not at all" * 1000)


def torn(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


def from_the_future(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()


@pytest.mark.parametrize("damage", [rubbish, torn, truncated, from_the_future])
async def test_a_damaged_journal_is_moved_aside_and_said_so(path: Path, damage: Any) -> None:
    with open_journal(path) as journal:
        await journal.add_edits([EditRow("a.ipynb", "agent", "source", before="x" * 3000) for _ in range(100)])
    damage(path)
    damaged = content(path)
    with open_journal(path) as journal:
        assert journal.reset is not None
        assert journal.reset.moved_to.read_bytes()[100:] == damaged[100:]
        assert journal.reset.reason
        assert journal.edits() == []
        journal.add_execution(execution())
    with open_journal(path) as journal:
        assert journal.reset is None
        assert len(recent(journal)) == 1


def test_another_programs_database_is_not_written_to(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (a)")
    other.close()
    with open_journal(path) as journal:
        assert journal.reset is not None


def test_a_folder_that_cannot_be_made_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="--state-dir"), open_journal(tmp_path / "file" / "journal.sqlite3"):
        pass


def test_a_journal_that_is_locked_is_an_error_and_is_not_moved_aside(path: Path) -> None:
    with open_journal(path) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        journal._db.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(Unavailable, match="locked"):
            journal.add_execution(execution())
        other.execute("ROLLBACK")
        other.close()
        journal.add_execution(execution())
    assert path.exists()


@contextmanager
def read_only(journal: Journal) -> Iterator[None]:
    """A journal that SQLite refuses to write, as on a disk that went away."""
    journal._db.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        journal._db.execute("PRAGMA query_only = OFF")


async def test_a_full_disk_leaves_no_transaction_open(journal: Journal) -> None:
    row = execution()
    journal.add_execution(row)
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    for outputs in ([stream(os.urandom(100_000).hex())], BIG):
        with pytest.raises(Unavailable, match="full"):
            await journal.finished(row.id, "ok", at=1.0, outputs=outputs)
    with pytest.raises(Unavailable, match="full"):
        await journal.add_edits([EditRow("a.ipynb", "agent", "source", before="x" * 3000) for _ in range(100)])
    assert [each.status for each in recent(journal)] == ["queued"]
    assert journal.edits() == []
    journal._db.execute("PRAGMA max_page_count = 1000000000")
    await journal.finished(row.id, "ok", at=1.0, outputs=BIG)
    assert [each.status for each in recent(journal)] == ["ok"]


def test_two_servers_can_write_one_journal(path: Path) -> None:
    with open_journal(path) as one, open_journal(path) as two:
        for _ in range(20):
            one.add_execution(execution())
            two.add_execution(execution())
        assert len(recent(one)) == 40


WRITER = """
import sys
from pathlib import Path
import anyio
from mcp_server_jupyter.journal import EditRow, ExecutionRow, open_journal
async def main():
    with open_journal(Path(sys.argv[1])) as journal:
        for n in range(10**9):
            journal.add_execution(ExecutionRow(f"x{n:09}", "k", 1, "m", "code", "agent"))
            await journal.add_edits([EditRow("a.ipynb", "agent", "source", f"{n}-{part}") for part in range(3)])
            print(n, flush=True)
anyio.run(main)
"""


def test_everything_written_before_a_kill_is_there_and_nothing_is_half_there(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 200:
            break
    os.kill(process.pid, signal.SIGKILL)
    said = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.stdout.close()
    process.wait()
    last = max(said, default=200)
    with open_journal(path) as journal:
        assert journal.reset is None
        ids = {row.id for row in recent(journal)}
        assert {f"x{n:09}" for n in range(last + 1)} <= ids
        edits = journal.edits(limit=10**9)
        assert len(edits) % 3 == 0
        assert len(edits) >= 3 * (last + 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=100)
@given(JSON.filter(lambda value: value is not None), st.sampled_from([0, 5000]))
def test_any_json_comes_back_equal(value: Any, padding: int) -> None:
    value = [value, "x" * padding]
    stored = packed(value)
    assert unpacked(stored) == json.loads(json.dumps(value))
    assert stored is not None
    assert len(stored) < 4096 + len(json.dumps(value[0]))
    assert unpacked_lines(packed_lines([{"text": value}, {"text": "y" * 1_100_000, "v": value}])) == [
        {"text": unpacked(stored)},
        {"text": "y" * 1_100_000, "v": unpacked(stored)},
    ]
