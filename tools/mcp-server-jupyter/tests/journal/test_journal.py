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
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.journal import FINISHED, EditRow, ExecutionRow, Journal, new_execution_id, open_journal
from mcp_server_jupyter.journal.schema import MIGRATIONS
from mcp_server_jupyter.journal.tables import packed, unpacked
from mcp_server_jupyter.ports import Message


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


def recent(journal: Journal) -> list[ExecutionRow]:
    """Every execution, newest first."""
    return journal._executions("ORDER BY id DESC")


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


def test_an_execution_is_read_back_as_it_was_written(journal: Journal) -> None:
    row = execution(
        after_cell_id="b",
        cell_index=3,
        turn="t1",
        started_at=2.5,
        source_hash="abc",
        outputs=[stream("x" * 100_000)],
        input_prompt="name?",
    )
    journal.add_execution(row)
    assert journal.execution(row.id) == row
    assert journal.execution("unknown") is None


def test_only_known_columns_can_be_changed(journal: Journal) -> None:
    row = execution()
    journal.add_execution(row)
    journal.update_execution(row.id, status="running", started_at=1.0)
    with pytest.raises(TypeError, match="no_such"):
        journal.update_execution(row.id, no_such=1)
    with pytest.raises(TypeError):
        journal.update_execution(row.id, **{"id": "other"})
    changed = journal.execution(row.id)
    assert changed is not None
    assert (changed.status, changed.started_at) == ("running", 1.0)


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


def test_events_are_kept_in_order_until_the_execution_finishes(journal: Journal) -> None:
    row = execution(status="running")
    journal.add_execution(row)
    messages = [Message("iopub", "stream", str(n), row.msg_id, {"name": "stdout", "text": str(n)}) for n in range(1000)]
    journal.append_events(row.id, messages[:300])
    journal.append_events(row.id, [])
    journal.append_events(row.id, messages[300:])
    assert journal.event_messages(row.id) == messages
    journal.update_execution(row.id, status="ok", outputs=[])
    assert journal.event_messages(row.id) == []


# ------------------------------------------------------------------ edits


def test_edits_are_found_by_who_made_them_and_when(journal: Journal) -> None:
    before, after = {"id": "c", "source": "a"}, {"id": "c", "source": "b"}
    ids = journal.add_edits(
        [
            EditRow("a.ipynb", "agent", "source", "c", before, after, turn="t1"),
            EditRow("a.ipynb", "person", "delete", "d", before, None, 4, None, turn="t2"),
            EditRow("a.ipynb", "agent", "insert", "e", None, after, None, 2, execution_id="x1"),
        ]
    )
    assert [edit.id for edit in journal.edits("a.ipynb")] == ids[::-1]
    assert [edit.id for edit in journal.edits("a.ipynb", author="agent")] == [ids[2], ids[0]]
    assert [edit.id for edit in journal.edits(turn="t2")] == [ids[1]]
    assert [edit.id for edit in journal.edits("a.ipynb", execution_id="x1")] == [ids[2]]
    (first,) = journal.edits("a.ipynb", turn="t1")
    assert (first.before, first.after, first.undone_by) == (before, after, None)


def test_an_edit_that_takes_others_back_marks_them_with_its_turn(journal: Journal) -> None:
    ids = journal.add_edits([EditRow("a.ipynb", "agent", "source", cell, turn="t1") for cell in "cd"])
    (undoing,) = journal.add_edits([EditRow("a.ipynb", "person", "source", "c", turn="undo-1", undoes=ids[:1])])
    assert [edit.undone_by for edit in journal.edits("a.ipynb")] == [None, None, "undo-1"]
    assert [edit.id for edit in journal.edits("a.ipynb", include_undone=False)] == [undoing, ids[1]]
    assert [head.id for head in journal.undoable("a.ipynb", turn="t1")] == [ids[1]]
    assert journal.editors("a.ipynb") == {"agent": 1}


def test_a_turn_goes_on_for_two_minutes_but_never_after_an_undo(journal: Journal) -> None:
    assert journal.turn_of("a.ipynb", "agent") != journal.turn_of("a.ipynb", "agent"), "no edit, no turn yet"
    journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn="t1", at=time.time() - 100)])
    assert journal.turn_of("a.ipynb", "agent") == "t1"
    assert journal.turn_of("a.ipynb", "person") != "t1"
    assert journal.turn_of("b.ipynb", "agent") != "t1"
    journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn="t2", at=time.time() - 130)])
    assert journal.turn_of("a.ipynb", "agent") not in ("t1", "t2")
    journal.add_edits([EditRow("a.ipynb", "agent", "source", "c", turn="undo-1")])
    assert journal.turn_of("a.ipynb", "agent") not in ("t1", "t2", "undo-1")
    assert journal.last_turn("a.ipynb", "agent") == "t2"


def test_edits_of_one_call_are_written_all_or_none(journal: Journal) -> None:
    bad = EditRow("a.ipynb", "agent", "source", cell_id=object())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        journal.add_edits([EditRow("a.ipynb", "agent", "source"), bad])
    assert journal.edits() == []
    journal.add_edits([EditRow("a.ipynb", "agent", "source")])


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


def test_old_entries_are_forgotten_but_nothing_that_is_waited_for(journal: Journal) -> None:
    old = time.time() - 40 * 86_400
    for name, columns in {
        "old": {"status": "ok", "on_disk": True},
        "undelivered": {"status": "ok"},
        "running": {"status": "running"},
    }.items():
        journal.add_execution(execution(id=name, queued_at=old, **columns))
    journal.add_execution(execution(id="young", status="ok", on_disk=True))
    journal.add_edits([EditRow("a.ipynb", "agent", "source", at=old), EditRow("a.ipynb", "agent", "source")])
    journal.prune()
    assert {row.id for row in recent(journal)} == {"undelivered", "running", "young"}
    assert len(journal.edits()) == 1


def test_a_full_journal_forgets_its_oldest_entries_first(journal: Journal, path: Path) -> None:
    for number in range(40):
        journal.add_execution(
            execution(id=f"x{number:02}", status="ok", on_disk=True, outputs=[stream(os.urandom(50_000).hex())])
        )
    journal.add_execution(execution(id="x00-open", status="running"))
    journal.prune(max_bytes=1_000_000)
    left = [row.id for row in recent(journal)]
    assert "x39" in left
    assert "x00" not in left
    assert "x00-open" in left
    assert journal._used_bytes() <= 1_000_000


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
def test_a_damaged_journal_is_moved_aside_and_said_so(path: Path, damage: Any) -> None:
    with open_journal(path) as journal:
        journal.add_edits([EditRow("a.ipynb", "agent", "source", before="x" * 3000) for _ in range(100)])
    damage(path)
    damaged = path.read_bytes()
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


def test_two_servers_can_write_one_journal(path: Path) -> None:
    with open_journal(path) as one, open_journal(path) as two:
        for _ in range(20):
            one.add_execution(execution())
            two.add_execution(execution())
        assert len(recent(one)) == 40


WRITER = """
import sys
from pathlib import Path
from mcp_server_jupyter.journal import EditRow, ExecutionRow, open_journal
with open_journal(Path(sys.argv[1])) as journal:
    for n in range(10**9):
        journal.add_execution(ExecutionRow(f"x{n:09}", "k", 1, "m", "code", "agent"))
        journal.add_edits([EditRow("a.ipynb", "agent", "source", f"{n}-{part}") for part in range(3)])
        print(n, flush=True)
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


@settings(max_examples=200, deadline=None)
@given(JSON.filter(lambda value: value is not None), st.sampled_from([0, 5000]))
def test_any_json_comes_back_equal(value: Any, padding: int) -> None:
    value = [value, "x" * padding]
    stored = packed(value)
    assert unpacked(stored) == json.loads(json.dumps(value))
    assert stored is not None
    assert len(stored) < 4096 + len(json.dumps(value[0]))
